// Runs CUDA blocks on the CPU: one thread of the machine for each thread of a block, the blocks one
// after the other. Enough of the language for the sources in `kernels/`, and nothing else.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#define __global__
#define __launch_bounds__(threads, blocks)
#define __device__
#define __shared__ static

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};
static thread_local Dim threadIdx, blockIdx;
static Dim gridDim, blockDim;
static std::barrier<> *block_barrier;
static std::vector<std::barrier<> *> warp_barriers;
static uint64_t lanes[32][32];

static void __syncthreads() { block_barrier->arrive_and_wait(); }

template <class F> static F __shfl_xor_sync(unsigned, F x, int mask) {
  unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  std::memcpy(&lanes[warp][lane], &x, sizeof x);
  warp_barriers[warp]->arrive_and_wait();
  std::memcpy(&x, &lanes[warp][lane ^ mask], sizeof x);
  warp_barriers[warp]->arrive_and_wait();
  return x;
}

static void atomicMin(unsigned *to, unsigned x) {
  unsigned old = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (x < old && !__atomic_compare_exchange_n(to, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

static void atomicMax(unsigned *to, unsigned x) {
  unsigned old = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (x > old && !__atomic_compare_exchange_n(to, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

static float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

static unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}

static float widen_f16(unsigned short bits) {
  _Float16 x;
  std::memcpy(&x, &bits, sizeof x);
  return (float)x;
}

static unsigned short round_f16(float x) {
  _Float16 half = (_Float16)x;
  unsigned short bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

using std::isnan;

// The calls come over standard input: buffers, then arguments, each with a letter for its type, so
// that a call with arguments in another order or of another type than the kernel's fails.
[[noreturn]] static void fail(const char *what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::exit(1);
}

template <class T> static T read() {
  T x;
  if (std::fread(&x, sizeof x, 1, stdin) != 1) fail("input ends early");
  return x;
}

static std::vector<std::vector<unsigned char>> buffers;

template <class T> struct Argument {
  static T take() {
    char letter = read<char>();
    char own = std::is_same_v<T, float> ? 'f' : std::is_same_v<T, double> ? 'd' : sizeof(T) == 8 ? 'l' : 'u';
    if (letter != own) fail("an argument is of another type than the kernel's parameter");
    return read<T>();
  }
};

template <class T> struct Argument<T *> {
  static T *take() {
    if (read<char>() != 'p') fail("an argument is no pointer where the kernel has one");
    uint64_t index = read<uint64_t>();
    if (index == UINT64_MAX) return nullptr;
    if (index >= buffers.size()) fail("no such buffer");
    return (T *)buffers[index].data();
  }
};

template <class... A> static void call(void (*kernel)(A...)) {
  std::tuple<A...> arguments{Argument<A>::take()...};
  if (std::fgetc(stdin) != EOF) fail("more arguments than the kernel has parameters");
  std::barrier<> barrier(blockDim.x);
  block_barrier = &barrier;
  for (unsigned i = 0; i < blockDim.x / 32; i++) warp_barriers.push_back(new std::barrier<>(32));
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < blockDim.x; t++) {
    threads.emplace_back([&, t] {
      threadIdx.x = t;
      for (unsigned y = 0; y < gridDim.y; y++) {
        for (unsigned x = 0; x < gridDim.x; x++) {
          blockIdx.x = x;
          blockIdx.y = y;
          std::apply(kernel, arguments);
          barrier.arrive_and_wait();
        }
      }
    });
  }
  for (auto &thread : threads) thread.join();
}

#define TYPES_OF(NAME) KERNEL(NAME##_f32) KERNEL(NAME##_bf16) KERNEL(NAME##_f16)
