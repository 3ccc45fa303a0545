// The kernels, each under its name: emulator KERNEL GRID_X GRID_Y THREADS.
#include "emulator.h"
#include "kernels.cu"

int main(int count, char **given) {
  if (count != 5) fail("usage: emulator KERNEL GRID_X GRID_Y THREADS");
  gridDim.x = std::atoi(given[2]);
  gridDim.y = std::atoi(given[3]);
  blockDim.x = std::atoi(given[4]);
  if (blockDim.x == 0 || blockDim.x % 32 != 0) fail("a block has whole warps");
  buffers.resize(read<uint64_t>());
  for (auto &buffer : buffers) {
    buffer.resize(read<uint64_t>());
    if (std::fread(buffer.data(), 1, buffer.size(), stdin) != buffer.size()) fail("input ends early");
  }
  std::string name = given[1];
  bool known = false;
#define KERNEL(NAME) if (name == #NAME) { known = true; call(NAME); }
  TYPES_OF(rms_norm) TYPES_OF(gated) TYPES_OF(accumulate) TYPES_OF(accumulate_rows)
  TYPES_OF(attention_store) TYPES_OF(attention) TYPES_OF(attention_backward_q) TYPES_OF(attention_backward_kv)
  KERNEL(draw_tokens) KERNEL(score_slopes) KERNEL(copy_row) KERNEL(sum_of_squares) KERNEL(scale) KERNEL(adamw)
  if (!known) fail("no such kernel");
  for (auto &buffer : buffers) std::fwrite(buffer.data(), 1, buffer.size(), stdout);
  return 0;
}
