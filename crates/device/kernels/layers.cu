// RMSNorm and gated linear units, forward.

// One row a block: y = x / sqrt(mean(x^2) + eps) * weight.
template <class T> __device__ void rms_norm(T *y, const T *x, const float *weight, u32 width, float eps) {
  const T *from = x + (size_t)blockIdx.x * width;
  T *to = y + (size_t)blockIdx.x * width;
  float sum = 0;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float v = get(from[i]);
    sum += v * v;
  }
  float scale = 1.0f / sqrtf(block_sum(sum) / (float)width + eps);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) put(to + i, get(from[i]) * scale * weight[i]);
}

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

// Hendrycks & Gimpel 2016, the approximation by tanh.
__device__ inline float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

// y = act(gate) * up, rows of `width` numbers; gates and ups may be columns of wider rows.
template <class T>
__device__ void gated(T *y, const T *gates, const T *ups, u64 elements, u32 width, u32 gates_width, u32 ups_width, u32 is_gelu) {
  u64 stride = (u64)gridDim.x * blockDim.x;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += stride) {
    u64 row = i / width, column = i % width;
    float gate = get(gates[row * gates_width + column]), up = get(ups[row * ups_width + column]);
    put(y + i, (is_gelu ? gelu_tanh(gate) : silu(gate)) * up);
  }
}

#define LAYERS(NAME, T)                                                                           \
  extern "C" __global__ void rms_norm_##NAME(T *y, const T *x, const float *weight, u32 width, float eps) { \
    rms_norm<T>(y, x, weight, width, eps);                                                        \
  }                                                                                               \
  extern "C" __global__ void gated_##NAME(T *y, const T *gates, const T *ups, u64 elements, u32 width, \
                                         u32 gates_width, u32 ups_width, u32 is_gelu) {           \
    gated<T>(y, gates, ups, elements, width, gates_width, ups_width, is_gelu);                    \
  }
FOR_EVERY_TYPE(LAYERS)
