// Runs one call on the CPU: emulator KERNEL GRID_X GRID_Y THREADS, its memory and its arguments over
// standard input. Threads of a block run in turn (../../software/blocks.cpp), which is done in two orders:
// where a barrier is missing, they differ.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "own.h"

#include "kernels.cu"

// Buffers come first, then arguments, each with a letter for its type, so that a call with arguments in
// another order or of another type than the kernel's fails.
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

template <class... A> static void call(void (*kernel)(A...), Dim grid, Dim block) {
  std::tuple<A...> arguments{Argument<A>::take()...};
  if (std::fgetc(stdin) != EOF) fail("more arguments than the kernel has parameters");
  auto body = [&] { std::apply(kernel, arguments); };
  auto other = buffers;
  run_blocks(grid, block, body, Order::LastFirst);
  // The arguments say where the memory is: what is in it changes places.
  for (size_t i = 0; i < buffers.size(); i++) std::swap_ranges(buffers[i].begin(), buffers[i].end(), other[i].begin());
  run_blocks(grid, block, body, Order::FirstFirst);
  if (other != buffers) fail("what comes out depends on the order of threads");
}

#define TYPES_OF(NAME) KERNEL(NAME##_f32) KERNEL(NAME##_bf16) KERNEL(NAME##_f16)

int main(int count, char **given) {
  if (count != 5) fail("usage: emulator KERNEL GRID_X GRID_Y THREADS");
  Dim grid{(unsigned)std::atoi(given[2]), (unsigned)std::atoi(given[3])}, block{(unsigned)std::atoi(given[4])};
  if (block.x == 0 || block.x % 32 != 0) fail("a block has whole warps");
  buffers.resize(read<uint64_t>());
  for (auto &buffer : buffers) {
    buffer.resize(read<uint64_t>());
    if (std::fread(buffer.data(), 1, buffer.size(), stdin) != buffer.size()) fail("input ends early");
  }
  std::string name = given[1];
  bool known = false;
#define KERNEL(NAME) if (name == #NAME) { known = true; call(NAME, grid, block); }
  TYPES_OF(rms_norm) TYPES_OF(gated) TYPES_OF(accumulate) TYPES_OF(accumulate_rows)
  TYPES_OF(attention_store) TYPES_OF(attention) TYPES_OF(attention_backward_q) TYPES_OF(attention_backward_kv)
  KERNEL(draw_tokens) KERNEL(score_slopes) KERNEL(copy_row) KERNEL(sum_of_squares) KERNEL(scale) KERNEL(adamw)
  if (!known) fail("no such kernel");
  for (auto &buffer : buffers) std::fwrite(buffer.data(), 1, buffer.size(), stdout);
  return 0;
}
