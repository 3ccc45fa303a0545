// What a kernel may say, for a C++ compiler: places of threads, barriers, shuffles, atomics, numbers of
// 16 bits. One thread of the machine runs all threads of a block in turn (blocks.cpp), so that atomics
// need nothing and `__shared__` is `static`.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "blocks.h"
#include "halves.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define CUDA_VERSION 13000

using std::isnan;
using std::signbit;

// CUDA's take two of different types.
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) {
  std::common_type_t<A, B> x = a, y = b;
  return y < x ? y : x;
}
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) {
  std::common_type_t<A, B> x = a, y = b;
  return x < y ? y : x;
}

static inline void __syncthreads() { wait_for_block(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { wait_for_warp(); }

template <class T> static inline T __shfl_xor_sync(unsigned, T x, int mask, int = 32) {
  static_assert(sizeof(T) <= LANE_BYTES);
  unsigned half = next_half();
  std::memcpy(lane(this_lane(), half), &x, sizeof x);
  wait_for_warp();
  std::memcpy(&x, lane(this_lane() ^ mask, half), sizeof x);
  return x;
}

template <class T, class U> static inline T atomicAdd(T *to, U x) {
  T old = *to;
  *to = old + (T)x;
  return old;
}
template <class T, class U> static inline T atomicMin(T *to, U x) {
  T old = *to;
  if ((T)x < old) *to = x;
  return old;
}
template <class T, class U> static inline T atomicMax(T *to, U x) {
  T old = *to;
  if (old < (T)x) *to = x;
  return old;
}
template <class T> static inline T atomicCAS(T *to, T expected, T x) {
  T old = *to;
  if (old == expected) *to = x;
  return old;
}

template <class To, class From> static inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }

namespace cuda::std {
using ::std::numeric_limits;
}
