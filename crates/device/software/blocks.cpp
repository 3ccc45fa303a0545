// A block's threads as contexts of one thread of the machine. A context runs one thread of the block
// after the other, as long as none waits; one that waits keeps its context, and others go on in new ones.
#include "blocks.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <ucontext.h>
#include <vector>

Dim threadIdx, blockIdx, gridDim, blockDim;

namespace {
constexpr size_t STACK_BYTES = 128 << 10;
constexpr unsigned WARP = 32;

// Reached by all threads that have not ended.
struct Barrier {
  unsigned live = 0, arrived = 0, generation = 0;
  void begin(unsigned threads) { live = threads, arrived = 0; }
  void release_if_all() {
    if (live > 0 && arrived == live) arrived = 0, generation++;
  }
};

struct Context {
  std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
  ucontext_t start;
  void *place[5]; // as the compiler's own setjmp has it
  bool begun = false;
  unsigned thread = 0;
  Barrier *barrier = nullptr; // what it waits for, while it does
  unsigned generation = 0;
  unsigned exchanges = 0; // with the other lanes of its warp
};

std::mutex one_kernel_at_a_time;
std::vector<std::unique_ptr<Context>> contexts;
std::vector<Context *> idle;
std::deque<Context *> waiting;
Context *current;
void *scheduler[5];
unsigned next_thread, thread_count;
Order order;
Barrier block_barrier;
std::vector<Barrier> warp_barriers;
std::vector<char> lanes;
const std::function<void()> *kernel;

void stand_at(unsigned thread) {
  threadIdx.x = thread % blockDim.x;
  threadIdx.y = thread / blockDim.x % blockDim.y;
  threadIdx.z = thread / blockDim.x / blockDim.y;
}

__attribute__((noinline)) void go_on();

void leave() {
  if (!__builtin_setjmp(current->place)) go_on();
  stand_at(current->thread);
}

void work() {
  for (;;) {
    while (next_thread < thread_count) {
      Context *self = current;
      self->thread = order == Order::FirstFirst ? next_thread : thread_count - 1 - next_thread;
      next_thread++;
      self->exchanges = 0;
      stand_at(self->thread);
      (*kernel)();
      Barrier &warp = warp_barriers[self->thread / WARP];
      for (Barrier *barrier : {&block_barrier, &warp}) {
        barrier->live--;
        barrier->release_if_all();
      }
    }
    idle.push_back(current);
    if (!__builtin_setjmp(current->place)) go_on();
  }
}

void wait(Barrier &barrier) {
  barrier.arrived++;
  unsigned generation = barrier.generation;
  barrier.release_if_all();
  if (barrier.generation != generation) return;
  current->barrier = &barrier;
  current->generation = generation;
  waiting.push_back(current);
  leave();
}

// Whoever may go on; null where nobody is left.
Context *choose() {
  if (next_thread < thread_count) {
    if (idle.empty()) {
      contexts.push_back(std::make_unique<Context>());
      return contexts.back().get();
    }
    Context *context = idle.back();
    idle.pop_back();
    return context;
  }
  // Those who have waited longest are most often the ones that may go on.
  for (size_t left = waiting.size(); left > 0; left--) {
    Context *context = waiting.front();
    waiting.pop_front();
    if (context->barrier->generation != context->generation) return context;
    waiting.push_back(context);
  }
  if (waiting.empty()) return nullptr;
  std::fprintf(stderr, "software device: %zu threads wait at a barrier that the others never reach\n", waiting.size());
  std::abort();
}

// Goes to whoever may go on, or back to the one who began the block.
void go_on() {
  current = choose();
  if (!current) __builtin_longjmp(scheduler, 1);
  if (current->begun) __builtin_longjmp(current->place, 1);
  current->begun = true;
  getcontext(&current->start);
  current->start.uc_stack.ss_sp = current->stack.get();
  current->start.uc_stack.ss_size = STACK_BYTES;
  current->start.uc_link = nullptr;
  makecontext(&current->start, work, 0);
  setcontext(&current->start);
}

void run_block() {
  next_thread = 0;
  block_barrier.begin(thread_count);
  for (unsigned warp = 0; warp * WARP < thread_count; warp++)
    warp_barriers[warp].begin(std::min(WARP, thread_count - warp * WARP));
  if (!__builtin_setjmp(scheduler)) go_on();
}
} // namespace

void wait_for_block() { wait(block_barrier); }
void wait_for_warp() { wait(warp_barriers[current->thread / WARP]); }
unsigned this_lane() { return current->thread % WARP; }
// A lane that is ahead writes into the other half: none is ahead by two exchanges.
void *lane(unsigned lane, unsigned half) {
  return &lanes[((current->thread / WARP * WARP + lane) * 2 + half) * LANE_BYTES];
}
unsigned next_half() { return current->exchanges++ % 2; }

void run_blocks(Dim grid, Dim block, const std::function<void()> &body, Order threads) {
  std::lock_guard<std::mutex> guard(one_kernel_at_a_time);
  gridDim = grid, blockDim = block, kernel = &body, order = threads;
  thread_count = block.x * block.y * block.z;
  unsigned warps = (thread_count + WARP - 1) / WARP;
  warp_barriers.resize(warps);
  lanes.resize(warps * WARP * 2 * LANE_BYTES);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        run_block();
      }
}
