// Flat f32 buffers of gradients: sums, squares, scaling, and AdamW.

// sum += x
template <class T> __device__ void accumulate(float *sum, const T *x, u64 count) {
  u64 stride = (u64)gridDim.x * blockDim.x;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) sum[i] += get(x[i]);
}

#define ACCUMULATE(NAME, T)                                                           \
  extern "C" __global__ void accumulate_##NAME(float *sum, const T *x, u64 count) { \
    accumulate<T>(sum, x, count);                                                     \
  }
FOR_EVERY_TYPE(ACCUMULATE)

// Row r of `sum` += the rows of `x` that are for it, one block for each r. `spans` says of each r which it
// is, and from where to where in `order` its rows of `x` are, which are added in that order.
template <class T>
__device__ void accumulate_rows(float *sum, const T *x, const u32 *order, const u32 *spans, u32 width) {
  const u32 *span = spans + 3 * (u64)blockIdx.x;
  float *to = sum + (u64)span[0] * width;
  for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
    float all = to[column];
    for (u32 i = span[1]; i < span[2]; i++) all += get(x[(u64)order[i] * width + column]);
    to[column] = all;
  }
}

#define ACCUMULATE_ROWS(NAME, T)                                                                    \
  extern "C" __global__ void accumulate_rows_##NAME(float *sum, const T *x, const u32 *order,       \
                                                    const u32 *spans, u32 width) {                  \
    accumulate_rows<T>(sum, x, order, spans, width);                                                \
  }
FOR_EVERY_TYPE(ACCUMULATE_ROWS)

// One f64 a block.
extern "C" __global__ void sum_of_squares(double *sums, const float *x, u64 count) {
  u64 stride = (u64)gridDim.x * blockDim.x;
  double sum = 0;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) sum += (double)x[i] * (double)x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void scale(float *x, u64 count, float by) {
  u64 stride = (u64)gridDim.x * blockDim.x;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) x[i] *= by;
}

// Loshchilov & Hutter, arXiv 1711.05101, algorithm 2; the scales undo the moments' bias, `decay` is
// learning rate * weight decay.
extern "C" __global__ void adamw(float *weights, float *first, float *second, const float *gradients,
                                 u64 count, float beta1, float rest1, float beta2, float rest2,
                                 float first_scale, float second_scale, float rate, float decay, float eps) {
  u64 stride = (u64)gridDim.x * blockDim.x;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
    float g = gradients[i];
    float m = beta1 * first[i] + rest1 * g;
    float v = beta2 * second[i] + rest2 * (g * g);
    first[i] = m;
    second[i] = v;
    float denominator = sqrtf(v * second_scale) + eps;
    weights[i] -= decay * weights[i] + rate * (m * first_scale / denominator);
  }
}
