// Where a kernel's thread is, and waiting for the others of its block.
#pragma once
#include <functional>

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};
extern Dim threadIdx, blockIdx, gridDim, blockDim;

constexpr unsigned LANE_BYTES = 16;

void wait_for_block();
void wait_for_warp();
// Of the thread that runs, in its warp; and the memory through which the lanes of its warp exchange, in two
// halves that are used in turn.
unsigned this_lane();
unsigned next_half();
void *lane(unsigned lane, unsigned half);

// Runs `body` once for every thread of every block, the blocks one after the other; between two barriers
// the threads of a block run one after the other, the first one first or last.
enum class Order { FirstFirst, LastFirst };
void run_blocks(Dim grid, Dim block, const std::function<void()> &body, Order order = Order::FirstFirst);
