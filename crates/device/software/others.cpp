// libnvrtc, whose kernels are compiled in here already, and libcurand.
#include <cstring>
#include <random>

#include "memory.h"

namespace {
const char PTX[] = "compiled in";
std::mt19937_64 generator;
} // namespace

extern "C" {
int nvrtcCreateProgram(void **program, const char *, const char *, int, const char *const *, const char *const *) {
  return *program = (void *)6, 0;
}
int nvrtcCompileProgram(void *, int, const char *const *) { return 0; }
int nvrtcGetPTXSize(void *, size_t *bytes) { return *bytes = sizeof PTX, 0; }
int nvrtcGetPTX(void *, char *to) { return std::memcpy(to, PTX, sizeof PTX), 0; }
int nvrtcGetProgramLogSize(void *, size_t *bytes) { return *bytes = 1, 0; }
int nvrtcGetProgramLog(void *, char *to) { return *to = 0, 0; }
int nvrtcDestroyProgram(void **) { return 0; }

int curandCreateGenerator(void **to, int) { return *to = (void *)7, 0; }
int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long seed) { return generator.seed(seed), 0; }
int curandSetGeneratorOffset(void *, unsigned long long) { return 0; }
int curandSetStream(void *, void *) { return 0; }
int curandDestroyGenerator(void *) { return 0; }
int curandGenerateUniform(void *, float *to, size_t count) {
  check_memory(to, count * sizeof *to, "random numbers");
  std::uniform_real_distribution<float> law;
  for (size_t i = 0; i < count; i++) to[i] = 1.0f - law(generator);
  return 0;
}
int curandGenerateNormal(void *, float *to, size_t count, float mean, float deviation) {
  if (count % 2 != 0) return 105; // as curand: pairs
  check_memory(to, count * sizeof *to, "random numbers");
  std::normal_distribution<float> law(mean, deviation);
  for (size_t i = 0; i < count; i++) to[i] = law(generator);
  return 0;
}
}
