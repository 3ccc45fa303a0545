// Numbers of 16 bits as kernels use them: every operation is done in f32 and rounded once.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

struct HalfFormat {
  static float widen(uint16_t bits) {
    _Float16 x;
    std::memcpy(&x, &bits, sizeof x);
    return (float)x;
  }
  static uint16_t round(float x) {
    _Float16 half = (_Float16)x;
    uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
  }
};

struct BfloatFormat {
  static float widen(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
  }
  static uint16_t round(float x) {
    uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

template <class Format> struct Narrow {
  uint16_t bits = 0;
  Narrow() = default;
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> Narrow(T x) : bits(Format::round((float)x)) {}
  template <class Other> explicit Narrow(Narrow<Other> x) : Narrow((float)x) {}
  operator float() const { return Format::widen(bits); }
  Narrow operator-() const { return Narrow(-(float)*this); }
  Narrow &operator+=(Narrow x) { return *this = *this + x; }
  Narrow &operator*=(Narrow x) { return *this = *this * x; }
  friend Narrow operator+(Narrow a, Narrow b) { return Narrow((float)a + (float)b); }
  friend Narrow operator-(Narrow a, Narrow b) { return Narrow((float)a - (float)b); }
  friend Narrow operator*(Narrow a, Narrow b) { return Narrow((float)a * (float)b); }
  friend Narrow operator/(Narrow a, Narrow b) { return Narrow((float)a / (float)b); }
  friend bool operator<(Narrow a, Narrow b) { return (float)a < (float)b; }
  friend bool operator>(Narrow a, Narrow b) { return (float)a > (float)b; }
  friend bool operator<=(Narrow a, Narrow b) { return (float)a <= (float)b; }
  friend bool operator>=(Narrow a, Narrow b) { return (float)a >= (float)b; }
  friend bool operator==(Narrow a, Narrow b) { return (float)a == (float)b; }
  friend bool operator!=(Narrow a, Narrow b) { return (float)a != (float)b; }
  friend bool __hisnan(Narrow a) { return std::isnan((float)a); }
  friend Narrow __habs(Narrow a) { return Narrow(std::fabs((float)a)); }
  friend Narrow __hmin(Narrow a, Narrow b) { return b < a ? b : a; }
  friend Narrow __hmax(Narrow a, Narrow b) { return a < b ? b : a; }
  friend Narrow __hmin_nan(Narrow a, Narrow b) { return __hisnan(a) || b < a ? (__hisnan(a) ? a : b) : (__hisnan(b) ? b : a); }
  friend Narrow __hmax_nan(Narrow a, Narrow b) { return __hisnan(a) || a < b ? (__hisnan(a) ? a : b) : (__hisnan(b) ? b : a); }
  friend Narrow hsqrt(Narrow a) { return Narrow(std::sqrt((float)a)); }
  friend Narrow hcos(Narrow a) { return Narrow(std::cos((float)a)); }
  friend Narrow hsin(Narrow a) { return Narrow(std::sin((float)a)); }
  friend Narrow hlog(Narrow a) { return Narrow(std::log((float)a)); }
  friend Narrow hexp(Narrow a) { return Narrow(std::exp((float)a)); }
};

using __half = Narrow<HalfFormat>;
using __nv_bfloat16 = Narrow<BfloatFormat>;

static inline float __half2float(__half x) { return x; }
static inline __half __float2half(float x) { return x; }
static inline uint16_t __half_as_ushort(__half x) { return x.bits; }
static inline __half __ushort_as_half(uint16_t bits) {
  __half x;
  x.bits = bits;
  return x;
}
static inline float __bfloat162float(__nv_bfloat16 x) { return x; }
static inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) {
  __nv_bfloat16 x;
  x.bits = bits;
  return x;
}

// Two side by side.
template <class T> struct Pair {
  T x, y;
  friend Pair __hadd2(Pair a, Pair b) { return {a.x + b.x, a.y + b.y}; }
  friend Pair __hsub2(Pair a, Pair b) { return {a.x - b.x, a.y - b.y}; }
  friend Pair __hmul2(Pair a, Pair b) { return {a.x * b.x, a.y * b.y}; }
  friend Pair __h2div(Pair a, Pair b) { return {a.x / b.x, a.y / b.y}; }
};
using __half2 = Pair<__half>;
using __nv_bfloat162 = Pair<__nv_bfloat16>;

// Named by sources that are compiled here; nothing computes in 8 bits.
struct __nv_fp8_e4m3 {
  uint8_t __x = 0;
  __nv_fp8_e4m3() = default;
  template <class T> explicit __nv_fp8_e4m3(T) { __builtin_trap(); }
};
enum { __NV_E4M3 };
static inline __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { __builtin_trap(); }
