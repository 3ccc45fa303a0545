// libcuda: memory of this process, one stream that is done with everything as soon as it is asked for,
// and kernels by name. Stricter than a driver: nothing is allocated empty, copies stay inside what was
// allocated, new memory holds no numbers, and nothing lies right behind it (memory.cpp).
#include "driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "blocks.h"
#include "memory.h"

namespace {
std::map<std::string, Kernel> &kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}
constexpr int OK = 0, INVALID_VALUE = 1, NOT_FOUND = 500;
} // namespace

void add_kernel(const char *name, Kernel kernel) { kernels()[name] = kernel; }

extern "C" {
int cuInit(unsigned) { return OK; }
int cuDriverGetVersion(int *version) { return *version = 13000, OK; }
int cuDeviceGetCount(int *count) { return *count = 1, OK; }
int cuDeviceGet(int *device, int) { return *device = 0, OK; }
int cuDeviceGetName(char *name, int len, int) { return std::snprintf(name, len, "software"), OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = (size_t)8 << 30, OK; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
  case 1: *value = 1024; break; // threads of a block
  case 16: *value = 4; break;   // multiprocessors
  case 75: *value = 8; break;   // compute capability 8.0
  case 115: *value = 1; break;  // memory pools
  default: *value = 0;
  }
  return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
static thread_local void *current_context;
int cuCtxGetCurrent(void **context) { return *context = current_context, OK; }
int cuCtxSetCurrent(void *context) { return current_context = context, OK; }
int cuCtxSynchronize() { return OK; }
int cuCtxSetFlags(unsigned) { return OK; }

static int allocate(void **to, size_t bytes) {
  // What a call from a thread without a context gets.
  if (!current_context) return 201;
  return (*to = take_memory(bytes)) ? OK : INVALID_VALUE;
}
int cuMemAllocAsync(void **to, size_t bytes, void *) { return allocate(to, bytes); }
int cuMemAlloc_v2(void **to, size_t bytes) { return allocate(to, bytes); }
int cuMemFreeAsync(void *at, void *) { return give_back_memory(at) ? OK : INVALID_VALUE; }
int cuMemFree_v2(void *at) { return give_back_memory(at) ? OK : INVALID_VALUE; }
int cuMemGetInfo_v2(size_t *free, size_t *all) { return *free = *all = (size_t)8 << 30, OK; }
int cuMemsetD8Async(void *at, unsigned char value, size_t bytes, void *) {
  check_memory(at, bytes, "memset");
  return std::memset(at, value, bytes), OK;
}
int cuMemsetD8_v2(void *at, unsigned char value, size_t bytes) { return cuMemsetD8Async(at, value, bytes, nullptr); }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *) {
  check_memory(to, bytes, "copy to the device");
  return std::memcpy(to, from, bytes), OK;
}
int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *) {
  check_memory(from, bytes, "copy to the host");
  return std::memcpy(to, from, bytes), OK;
}
int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *) {
  check_memory(to, bytes, "copy to");
  check_memory(from, bytes, "copy from");
  return std::memmove(to, from, bytes), OK;
}
int cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr); }

int cuStreamCreate(void **stream, unsigned) { return *stream = (void *)2, OK; }
int cuStreamCreateWithPriority(void **stream, unsigned, int) { return *stream = (void *)2, OK; }
int cuStreamDestroy_v2(void *) { return OK; }
int cuStreamSynchronize(void *) { return OK; }
int cuStreamWaitEvent(void *, void *, unsigned) { return OK; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, OK; }
int cuEventCreate(void **event, unsigned) { return *event = (void *)3, OK; }
int cuEventRecord(void *, void *) { return OK; }
int cuEventQuery(void *) { return OK; }
int cuEventSynchronize(void *) { return OK; }
int cuEventDestroy_v2(void *) { return OK; }

int cuModuleLoadData(void **module, const void *) { return *module = (void *)4, OK; }
int cuModuleUnload(void *) { return OK; }
int cuModuleGetFunction(void **function, void *, const char *name) {
  auto found = kernels().find(name);
  if (found == kernels().end()) return std::fprintf(stderr, "software device: no kernel %s\n", name), NOT_FOUND;
  return *function = &found->second, OK;
}
int cuFuncSetAttribute(void *, int, int) { return OK; }
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned, void *, void **arguments, void **) {
  size_t threads = (size_t)block_x * block_y * block_z;
  bool possible = grid_x && grid_y && grid_z && grid_y < 65536 && grid_z < 65536 && threads && threads <= 1024;
  if (!possible || !current_context) return INVALID_VALUE;
  Kernel kernel = *(Kernel *)function;
  run_blocks({grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, [&] { kernel(arguments); });
  return OK;
}
int cuGetErrorName(int code, const char **name) { return *name = code == NOT_FOUND ? "NOT_FOUND" : "INVALID_VALUE", OK; }
int cuGetErrorString(int, const char **text) { return *text = "refused by the software device", OK; }
}
