// Element types and sums over a block, which every kernel uses. The sources in this directory are
// one translation unit, in the order of `sources.rs`; they are compiled at run time for the device
// at hand, and by a C++ compiler for the tests that run them on the CPU. No header of the CUDA
// toolkit is needed. Everything is computed in f32 (sampling and norms of gradients in f64) and is
// deterministic: one order of summation, no atomic additions.

typedef unsigned int u32;
typedef unsigned long long u64;

struct bf16 {
  unsigned short bits;
};

struct f16 {
  unsigned short bits;
};

#ifdef __CUDACC_RTC__
__device__ inline float widen_f16(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

__device__ inline unsigned short round_f16(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
#endif

__device__ inline float get(float x) { return x; }
__device__ inline float get(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ inline float get(f16 x) { return widen_f16(x.bits); }

__device__ inline void put(float *to, float x) { *to = x; }
__device__ inline void put(bf16 *to, float x) {
  u32 u = __float_as_uint(x);
  bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  to->bits = nan ? 0x7fff : (unsigned short)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
__device__ inline void put(f16 *to, float x) { to->bits = round_f16(x); }

#define INF __uint_as_float(0x7f800000u)
#define WARP 32
#define WARPS_MAX 32

template <class F> __device__ inline F warp_sum(F x) {
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Of all threads of a block, given to all; a block has whole warps.
template <class F> __device__ F block_sum(F x) {
  __shared__ F sums[WARPS_MAX];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  x = warp_sum(x);
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  F total = 0;
  for (u32 i = 0; i < warps; i++) total += sums[i];
  __syncthreads();
  return total;
}

#define FOR_EVERY_TYPE(KERNEL) KERNEL(f32, float) KERNEL(bf16, bf16) KERNEL(f16, f16)
