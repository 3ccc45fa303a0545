// What our kernels ask for beside CUDA's language, which NVRTC gives them by assembler.
#pragma once
#include "language.h"

static inline float widen_f16(unsigned short bits) { return HalfFormat::widen(bits); }
static inline unsigned short round_f16(float x) { return HalfFormat::round(x); }
