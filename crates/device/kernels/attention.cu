// Causal grouped-query attention with rotary positions over rows of keys and values, each [dim] long.
// Key j of a reader's text and of key-value head h is row `start + h * head_rows + j`: the decode
// cache is [rows, heads, capacity, dim], a packed batch of training [heads, tokens, dim].
// A reader at position p sees the keys max(0, p + 1 - window) to p; window 0 is none.

#define DIM_MAX 256
#define PER_LANE (DIM_MAX / WARP)
#define ATTENTION_WARPS_MAX 4

struct Reader {
  u32 query;    // row of the queries
  u32 start;    // row of its text's first key, for head 0
  u32 position; // in its text
};

struct Token {
  u32 row; // where its key goes, for head 0
  u32 position;
};

struct Queries {
  u32 begin, end; // of `order`, that see the key
  u32 position;   // of the key
};

// `angles` is [positions, dim]: the cosines of a position, then its sines.
template <class From> __device__ inline void turn(float *to, const From *from, const float *angles, u32 dim, float direction, float scale) {
  u32 half = dim / 2;
  for (u32 i = threadIdx.x; i < half; i += blockDim.x) {
    float low = get(from[i]), high = get(from[i + half]);
    float c = angles[i] * scale, s = angles[i + half] * direction * scale;
    to[i] = low * c - high * s;
    to[i + half] = high * c + low * s;
  }
}

// One token a block: turns its keys and lays keys and values down. Rows of `all_k` and `all_v` begin
// `k_width` and `v_width` numbers apart.
template <class T>
__device__ void store(T *keys, T *values, const T *all_k, u32 k_width, const T *all_v, u32 v_width,
                      const Token *tokens, const float *angles, u32 kv_heads, u32 dim, u32 head_rows) {
  Token token = tokens[blockIdx.x];
  const T *k = all_k + (size_t)blockIdx.x * k_width;
  const T *v = all_v + (size_t)blockIdx.x * v_width;
  const float *angle = angles + (size_t)token.position * dim;
  u32 half = dim / 2;
  for (u32 i = threadIdx.x; i < kv_heads * half; i += blockDim.x) {
    u32 head = i / half, at = i % half;
    size_t to = ((size_t)token.row + (size_t)head * head_rows) * dim;
    const T *own = k + head * dim;
    float low = get(own[at]), high = get(own[at + half]), c = angle[at], s = angle[at + half];
    put(keys + to + at, low * c - high * s);
    put(keys + to + at + half, high * c + low * s);
  }
  for (u32 i = threadIdx.x; i < kv_heads * dim; i += blockDim.x) {
    u32 head = i / dim, at = i % dim;
    values[((size_t)token.row + (size_t)head * head_rows) * dim + at] = v[i];
  }
}

// Copies `words` 4-byte words of each head from one row of a cache to another.
extern "C" __global__ void copy_row(u32 *cache, u64 from, u64 to, u64 head_words, u64 words) {
  u32 *start = cache + (u64)blockIdx.y * head_words;
  u64 stride = (u64)gridDim.x * blockDim.x;
  for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += stride) start[to + i] = start[from + i];
}

__device__ inline u32 first_seen(u32 position, u32 window) {
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

template <class T> __device__ inline float warp_dot(const float *a, const T *b, u32 dim) {
  float sum = 0;
  for (u32 i = threadIdx.x % WARP; i < dim; i += WARP) sum += a[i] * get(b[i]);
  return warp_sum(sum);
}

// Softmax in one pass (Milakov & Gimelshein 2018, algorithm 3): each warp takes every warps-th key.
struct Running {
  float max, sum;
};

__device__ inline float add_score(Running *r, float score, float *shrink) {
  float max = fmaxf(r->max, score);
  *shrink = expf(r->max - max);
  float weight = expf(score - max);
  r->sum = r->sum * *shrink + weight;
  r->max = max;
  return weight;
}

// What all warps have seen together; `own` gets the factor of this warp's sums.
__device__ inline Running join(Running r, float *own) {
  __shared__ float maxes[ATTENTION_WARPS_MAX], sums[ATTENTION_WARPS_MAX];
  u32 warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  if (threadIdx.x % WARP == 0) {
    maxes[warp] = r.max;
    sums[warp] = r.sum;
  }
  __syncthreads();
  Running all = {-INF, 0};
  for (u32 i = 0; i < warps; i++) all.max = fmaxf(all.max, maxes[i]);
  for (u32 i = 0; i < warps; i++) all.sum += sums[i] * expf(maxes[i] - all.max);
  *own = expf(r.max - all.max);
  __syncthreads();
  return all;
}

// Adds up the warps' sums of vectors; `to` is in shared memory.
__device__ inline void join_vectors(float *to, const float *own, u32 dim) {
  __shared__ float parts[ATTENTION_WARPS_MAX][DIM_MAX];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (u32 i = 0; i < PER_LANE; i++) {
    if (lane + i * WARP < dim) parts[warp][lane + i * WARP] = own[i];
  }
  __syncthreads();
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
    float sum = 0;
    for (u32 w = 0; w < warps; w++) sum += parts[w][i];
    to[i] = sum;
  }
  __syncthreads();
}

// One (reader, head) a block; `out` is [readers, heads, dim].
template <class T>
__device__ void attend(T *out, const T *q, u32 q_width, const Reader *readers, const T *keys, const T *values,
                       const float *angles, u32 kv_heads, u32 dim, u32 head_rows, u32 window, float scale) {
  __shared__ float query[DIM_MAX], mixed[DIM_MAX];
  u32 head = blockIdx.y, heads = gridDim.y, lane = threadIdx.x % WARP;
  Reader reader = readers[blockIdx.x];
  turn(query, q + (size_t)reader.query * q_width + head * dim, angles + (size_t)reader.position * dim, dim, 1.0f, scale);
  __syncthreads();
  size_t rows = (size_t)reader.start + (size_t)(head / (heads / kv_heads)) * head_rows;
  Running running = {-INF, 0};
  float sums[PER_LANE] = {0};
  for (u32 key = first_seen(reader.position, window) + threadIdx.x / WARP; key <= reader.position; key += blockDim.x / WARP) {
    float shrink, weight = add_score(&running, warp_dot(query, keys + (rows + key) * dim, dim), &shrink);
    const T *value = values + (rows + key) * dim;
    for (u32 i = 0; i < PER_LANE; i++) {
      u32 at = lane + i * WARP;
      if (at < dim) sums[i] = sums[i] * shrink + weight * get(value[at]);
    }
  }
  float own;
  Running all = join(running, &own);
  for (u32 i = 0; i < PER_LANE; i++) sums[i] *= own;
  join_vectors(mixed, sums, dim);
  T *to = out + ((size_t)blockIdx.x * heads + head) * dim;
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) put(to + i, mixed[i] / all.sum);
}

// The gradient by Dao et al. 2022, appendix B.2: with P the weights and O the result,
// dS = P * (dP - dO . O). One (reader, head) a block: the queries' gradient, and what the keys' needs:
// `turned` [readers, heads, dim], `saved` [readers, heads, 2] with log of the softmax's sum and dO . O.
template <class T>
__device__ void attend_backward_q(T *grad_q, float *turned, float *saved, const T *q, const T *res, const T *grad,
                                  const Reader *readers, const T *keys, const T *values, const float *angles,
                                  u32 kv_heads, u32 dim, u32 head_rows, u32 window, float scale) {
  __shared__ float query[DIM_MAX], slope[DIM_MAX], own_grad[DIM_MAX];
  u32 head = blockIdx.y, heads = gridDim.y, lane = threadIdx.x % WARP;
  Reader reader = readers[blockIdx.x];
  size_t at = ((size_t)blockIdx.x * heads + head) * dim;
  const float *angle = angles + (size_t)reader.position * dim;
  turn(query, q + ((size_t)reader.query * heads + head) * dim, angle, dim, 1.0f, scale);
  float product = 0;
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
    own_grad[i] = get(grad[at + i]);
    product += own_grad[i] * get(res[at + i]);
  }
  product = block_sum(product);
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) turned[at + i] = query[i];
  size_t rows = (size_t)reader.start + (size_t)(head / (heads / kv_heads)) * head_rows;
  u32 first = first_seen(reader.position, window) + threadIdx.x / WARP, warps = blockDim.x / WARP;
  Running running = {-INF, 0};
  float unused;
  for (u32 key = first; key <= reader.position; key += warps) {
    add_score(&running, warp_dot(query, keys + (rows + key) * dim, dim), &unused);
  }
  Running all = join(running, &unused);
  float log_sum = all.max + logf(all.sum), sums[PER_LANE] = {0};
  for (u32 key = first; key <= reader.position; key += warps) {
    const T *k = keys + (rows + key) * dim;
    float weight = expf(warp_dot(query, k, dim) - log_sum);
    float change = weight * (warp_dot(own_grad, values + (rows + key) * dim, dim) - product);
    for (u32 i = 0; i < PER_LANE; i++) {
      if (lane + i * WARP < dim) sums[i] += change * get(k[lane + i * WARP]);
    }
  }
  join_vectors(slope, sums, dim);
  if (threadIdx.x == 0) {
    saved[((size_t)blockIdx.x * heads + head) * 2] = log_sum;
    saved[((size_t)blockIdx.x * heads + head) * 2 + 1] = product;
  }
  turn(query, slope, angle, dim, -1.0f, scale);
  __syncthreads();
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) put(grad_q + at + i, query[i]);
}

// One (key, key-value head) a block: its gradients over all queries that see it, each
// [tokens, kv_heads, dim].
template <class T>
__device__ void attend_backward_kv(T *grad_k, T *grad_v, const float *turned, const float *saved, const T *grad,
                                   const Queries *queries, const u32 *order, const T *keys, const T *values,
                                   const float *angles, u32 heads, u32 dim) {
  __shared__ float key[DIM_MAX], value[DIM_MAX], sum[DIM_MAX], turned_back[DIM_MAX];
  u32 head = blockIdx.y, kv_heads = gridDim.y, share = heads / kv_heads, lane = threadIdx.x % WARP;
  Queries seen = queries[blockIdx.x];
  size_t row = (size_t)head * gridDim.x + blockIdx.x;
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
    key[i] = get(keys[row * dim + i]);
    value[i] = get(values[row * dim + i]);
  }
  __syncthreads();
  float key_sums[PER_LANE] = {0}, value_sums[PER_LANE] = {0};
  u64 pairs = (u64)(seen.end - seen.begin) * share;
  for (u64 pair = threadIdx.x / WARP; pair < pairs; pair += blockDim.x / WARP) {
    size_t at = (size_t)order[seen.begin + (u32)(pair / share)] * heads + head * share + (u32)(pair % share);
    const float *query = turned + at * dim;
    const T *own = grad + at * dim;
    float weight = expf(warp_dot(key, query, dim) - saved[at * 2]);
    float change = weight * (warp_dot(value, own, dim) - saved[at * 2 + 1]);
    for (u32 i = 0; i < PER_LANE; i++) {
      u32 d = lane + i * WARP;
      if (d < dim) {
        key_sums[i] += change * query[d];
        value_sums[i] += weight * get(own[d]);
      }
    }
  }
  size_t to = ((size_t)blockIdx.x * kv_heads + head) * dim;
  join_vectors(sum, key_sums, dim);
  turn(turned_back, sum, angles + (size_t)seen.position * dim, dim, -1.0f, 1.0f);
  __syncthreads();
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) put(grad_k + to + i, turned_back[i]);
  join_vectors(sum, value_sums, dim);
  for (u32 i = threadIdx.x; i < dim; i += blockDim.x) put(grad_v + to + i, sum[i]);
}

#define ATTENTION(NAME, T)                                                                            \
  extern "C" __global__ void attention_store_##NAME(                                                  \
      T *keys, T *values, const T *k, u32 k_width, const T *v, u32 v_width,                           \
      const Token *tokens, const float *angles, u32 kv_heads, u32 dim, u32 head_rows) {               \
    store<T>(keys, values, k, k_width, v, v_width, tokens, angles, kv_heads, dim, head_rows); \
  }                                                                                                   \
  extern "C" __global__ void attention_##NAME(                                                        \
      T *out, const T *q, u32 q_width, const Reader *readers, const T *keys, const T *values,         \
      const float *angles, u32 kv_heads, u32 dim, u32 head_rows, u32 window, float scale) {           \
    attend<T>(out, q, q_width, readers, keys, values, angles, kv_heads, dim, head_rows, window, scale); \
  }                                                                                                   \
  extern "C" __global__ void attention_backward_q_##NAME(                                             \
      T *grad_q, float *turned, float *saved, const T *q, const T *res, const T *grad,                \
      const Reader *readers, const T *keys, const T *values, const float *angles,                     \
      u32 kv_heads, u32 dim, u32 head_rows, u32 window, float scale) {                                \
    attend_backward_q<T>(grad_q, turned, saved, q, res, grad, readers, keys, values, angles,          \
                         kv_heads, dim, head_rows, window, scale);                                    \
  }                                                                                                   \
  extern "C" __global__ void attention_backward_kv_##NAME(                                            \
      T *grad_k, T *grad_v, const float *turned, const float *saved, const T *grad, const Queries *queries,     \
      const u32 *order, const T *keys, const T *values, const float *angles, u32 heads, u32 dim) {    \
    attend_backward_kv<T>(grad_k, grad_v, turned, saved, grad, queries, order, keys, values, angles, heads, dim); \
  }
FOR_EVERY_TYPE(ATTENTION)
