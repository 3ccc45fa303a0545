// Drawing tokens from rows of f32 logits by the inverse of the cumulative distribution in the order
// of ids, or scoring given ones, in f64: the same law, from the same uniform numbers, as the
// sampler on the CPU.

#define DRAW 0xffffffffu

struct Draw {
  double u;   // in [0, 1)
  u32 row;    // of the logits
  u32 target; // the token to score, or DRAW
};

struct Drawn {
  u32 token;
  float logprob; // nats; 0 under greedy
  u32 fault;     // 0: none, 1: `token` has a logit that is no number, 2: nothing is left to draw
};

struct Law {
  const float *logits;
  const u32 *banned;       // bits by id, or none
  const u32 *stops;        // the first stands for all
  u32 vocab, stop_count;
  bool end_banned;
  double temperature, max, end;
};

__device__ inline bool is_stop(const Law *law, u32 id) {
  for (u32 i = 0; i < law->stop_count; i++) {
    if (law->stops[i] == id) return true;
  }
  return false;
}

__device__ inline bool is_banned(const Law *law, u32 id) {
  if (law->banned && ((law->banned[id / 32] >> (id % 32)) & 1u)) return true;
  return law->end_banned && is_stop(law, id);
}

// Before stops are merged.
__device__ inline double single_weight(const Law *law, u32 id) {
  return is_banned(law, id) ? 0.0 : exp(((double)law->logits[id] - law->max) / law->temperature);
}

__device__ inline double weight(const Law *law, u32 id) {
  if (is_stop(law, id)) return id == law->stops[0] ? law->end : 0.0;
  return single_weight(law, id);
}

// The highest logit, the lowest id that has it, and the lowest id whose logit is no number.
struct Best {
  float logit;
  u32 id, broken;
};

__device__ Best block_best(Best best) {
  __shared__ Best all[WARPS_MAX * WARP];
  all[threadIdx.x] = best;
  __syncthreads();
  for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      Best a = all[threadIdx.x], b = all[threadIdx.x + half];
      if (b.logit > a.logit || (b.logit == a.logit && b.id < a.id)) {
        a.logit = b.logit;
        a.id = b.id;
      }
      a.broken = a.broken < b.broken ? a.broken : b.broken;
      all[threadIdx.x] = a;
    }
    __syncthreads();
  }
  best = all[0];
  __syncthreads();
  return best;
}

// Inclusive sums in the order of threads (Hillis & Steele 1986), left in `sums`.
__device__ void block_scan(double *sums, double own) {
  sums[threadIdx.x] = own;
  __syncthreads();
  for (u32 step = 1; step < blockDim.x; step *= 2) {
    double before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0.0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
}

// One draw a block of 2^k threads. `vocab` ids of each row of `width` logits can be drawn: the rest
// is padding. Temperature 0 is greedy.
extern "C" __global__ void __launch_bounds__(WARPS_MAX * WARP, 1)
    draw_tokens(Drawn *drawn, const float *logits, const Draw *draws, const u32 *banned, const u32 *stops,
                u32 stop_count, u32 width, u32 vocab, double temperature) {
  __shared__ double sums[WARPS_MAX * WARP];
  __shared__ double end;
  __shared__ u32 owner, last;
  Draw draw = draws[blockIdx.x];
  Law law = {logits + (size_t)draw.row * width, banned, stops, vocab, stop_count, false, temperature, 0.0, 0.0};
  law.end_banned = stop_count > 0 && is_banned(&law, stops[0]);
  Best best = {-INF, DRAW, DRAW};
  for (u32 id = threadIdx.x; id < vocab; id += blockDim.x) {
    float logit = law.logits[id];
    if (isnan(logit) || logit == INF) best.broken = best.broken < id ? best.broken : id;
    if (logit > best.logit && !is_banned(&law, id)) {
      best.logit = logit;
      best.id = id;
    }
  }
  best = block_best(best);
  Drawn result = {best.broken, 0.0f, 0};
  if (best.broken != DRAW) result.fault = 1;
  else if (best.id == DRAW) result.fault = 2;
  bool greedy = temperature == 0.0;
  u32 target = draw.target;
  if (target != DRAW && is_stop(&law, target)) target = stops[0];
  u32 top = best.id != DRAW && is_stop(&law, best.id) ? stops[0] : best.id;
  if (result.fault || greedy) {
    if (!result.fault) {
      result.token = target == DRAW ? top : target;
      result.logprob = target == DRAW || target == top ? 0.0f : -INF;
    }
    if (threadIdx.x == 0) drawn[blockIdx.x] = result;
    return;
  }
  law.max = best.logit;
  if (threadIdx.x == 0) {
    end = 0.0;
    for (u32 i = 0; i < stop_count; i++) end += single_weight(&law, stops[i]);
    owner = DRAW;
    last = 0;
  }
  __syncthreads();
  law.end = end;
  // Each thread owns a run of ids, so that the threads' sums are in the order of ids.
  u32 run = (vocab + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * run;
  u32 stop = begin + run < vocab ? begin + run : vocab;
  double own = 0.0;
  for (u32 id = begin; id < stop; id++) own += weight(&law, id);
  block_scan(sums, own);
  double total = sums[blockDim.x - 1];
  double before = threadIdx.x == 0 ? 0.0 : sums[threadIdx.x - 1];
  double aim = draw.u * total;
  if (target == DRAW) {
    // The first thread whose sum exceeds the aim; by rounding there may be none, then the last with weight.
    if (own > 0.0 && sums[threadIdx.x] > aim) atomicMin(&owner, threadIdx.x);
    if (own > 0.0) atomicMax(&last, threadIdx.x);
    __syncthreads();
    if (threadIdx.x != (owner != DRAW ? owner : last)) return;
    double cumulative = 0.0;
    for (u32 id = begin; id < stop; id++) {
      double w = weight(&law, id);
      if (!(w > 0.0)) continue;
      cumulative += w;
      target = id;
      if (before + cumulative > aim) break;
    }
  } else if (threadIdx.x != 0) {
    return;
  }
  result.token = target;
  result.logprob = (float)log(weight(&law, target) / total);
  drawn[blockIdx.x] = result;
}

// Turns rows of logits, in place, into the gradient of the targets' log-probabilities towards them,
// times `slopes`. A target among two or more stops counts the probability of all of them. Padding
// gets none.
extern "C" __global__ void __launch_bounds__(WARPS_MAX * WARP, 1)
    score_slopes(float *logits, const u32 *targets, const float *slopes, const u32 *stops, u32 stop_count, u32 width,
                 u32 vocab, double temperature) {
  float *row = logits + (size_t)blockIdx.x * width;
  u32 target = targets[blockIdx.x];
  Law law = {row, nullptr, stops, vocab, stop_count, false, temperature, 0.0, 0.0};
  bool ends = stop_count > 1 && is_stop(&law, target);
  Best best = {-INF, DRAW, DRAW};
  for (u32 id = threadIdx.x; id < vocab; id += blockDim.x) best.logit = fmaxf(best.logit, row[id]);
  law.max = block_best(best).logit;
  double sum = 0.0, own = 0.0;
  for (u32 id = threadIdx.x; id < vocab; id += blockDim.x) {
    double w = single_weight(&law, id);
    sum += w;
    if (ends ? is_stop(&law, id) : id == target) own += w;
  }
  sum = block_sum(sum);
  own = block_sum(own);
  double slope = (double)slopes[blockIdx.x] / temperature;
  for (u32 id = threadIdx.x; id < width; id += blockDim.x) {
    bool counts = ends ? is_stop(&law, id) : id == target;
    double w = id < vocab ? single_weight(&law, id) : 0.0;
    row[id] = (float)(slope * ((counts ? w / own : 0.0) - w / sum));
  }
}
