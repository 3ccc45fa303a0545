// libnccl for ranks that are processes of one machine: each lays its numbers into shared memory and reads
// the others'. A call returns when its sum is there; one whose ranks do not come fails after a while.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <random>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "memory.h"

namespace {
constexpr int OK = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6;
constexpr int F32 = 7, F64 = 8, SUM = 0;
constexpr size_t SLOT_BYTES = 4 << 20;
constexpr std::chrono::seconds PATIENCE(60);

struct Head {
  std::atomic<uint32_t> arrived, generation, gone;
};

struct Comm {
  int rank, world;
  std::string name;
  Head *head;
  char *slots;
  size_t bytes;
  char *slot(int rank) { return slots + SLOT_BYTES * rank; }
};

bool meet(Comm *comm) {
  auto until = std::chrono::steady_clock::now() + PATIENCE;
  uint32_t generation = comm->head->generation;
  if (comm->head->arrived.fetch_add(1) + 1 == (uint32_t)comm->world) {
    comm->head->arrived = 0;
    comm->head->generation++;
    return true;
  }
  while (comm->head->generation == generation) {
    // The last to come may have left already.
    if (comm->head->gone || std::chrono::steady_clock::now() > until) return comm->head->generation != generation;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return true;
}

// Gives `take` the pieces of all ranks, one piece of each at a time: where it is in the buffers, its length.
template <class Take> int exchange(Comm *comm, const void *own, size_t bytes, Take take) {
  for (size_t first = 0; first < bytes; first += SLOT_BYTES) {
    size_t count = std::min(SLOT_BYTES, bytes - first);
    std::memcpy(comm->slot(comm->rank), (const char *)own + first, count);
    if (!meet(comm)) return REMOTE_ERROR;
    take(first, count);
    if (!meet(comm)) return REMOTE_ERROR;
  }
  return OK;
}

template <class T> void add(Comm *comm, size_t from, size_t bytes, void *to) {
  std::vector<T> sums(bytes / sizeof(T), T(0));
  for (int rank = 0; rank < comm->world; rank++) {
    const T *others = (const T *)(comm->slot(rank) + from);
    for (size_t i = 0; i < sums.size(); i++) sums[i] += others[i];
  }
  std::memcpy(to, sums.data(), bytes);
}

size_t width(int type) { return type == F64 ? 8 : 4; }
bool known(int type, int operation) { return (type == F32 || type == F64) && operation == SUM; }
void add(Comm *comm, int type, size_t from, size_t bytes, void *to) {
  type == F64 ? add<double>(comm, from, bytes, to) : add<float>(comm, from, bytes, to);
}
} // namespace

struct Id {
  char bytes[128];
};

extern "C" {
int ncclGetVersion(int *version) { return *version = 22800, OK; }
int ncclGetUniqueId(Id *id) {
  std::random_device random;
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->bytes, sizeof id->bytes, "/software-nccl-%08x%08x", random(), random());
  return OK;
}
int ncclCommInitRank(Comm **to, int world, Id id, int rank) {
  if (rank < 0 || rank >= world) return INVALID_ARGUMENT;
  size_t bytes = 4096 + SLOT_BYTES * world;
  int file = shm_open(id.bytes, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, bytes) != 0) return SYSTEM_ERROR;
  void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return SYSTEM_ERROR;
  Comm *comm = new Comm{rank, world, id.bytes, (Head *)memory, (char *)memory + 4096, bytes};
  bool met = meet(comm);
  if (rank == 0 || !met) shm_unlink(id.bytes);
  if (!met) return munmap(memory, bytes), delete comm, REMOTE_ERROR;
  return *to = comm, OK;
}
int ncclCommAbort(Comm *comm) {
  comm->head->gone = 1;
  munmap(comm->head, comm->bytes);
  return delete comm, OK;
}
int ncclCommDestroy(Comm *comm) { return ncclCommAbort(comm); }
int ncclCommFinalize(Comm *) { return OK; }
int ncclCommCount(Comm *comm, int *count) { return *count = comm->world, OK; }
int ncclCommUserRank(Comm *comm, int *rank) { return *rank = comm->rank, OK; }
int ncclCommCuDevice(Comm *, int *device) { return *device = 0, OK; }
int ncclGroupStart() { return OK; }
int ncclGroupEnd() { return OK; }

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, Comm *comm, void *) {
  if (!known(type, operation)) return INVALID_ARGUMENT;
  size_t bytes = count * width(type);
  check_memory(from, bytes, "all-reduce from");
  check_memory(to, bytes, "all-reduce to");
  return exchange(comm, from, bytes, [&](size_t first, size_t piece) { add(comm, type, 0, piece, (char *)to + first); });
}
int ncclReduceScatter(const void *from, void *to, size_t count, int type, int operation, Comm *comm, void *) {
  if (!known(type, operation)) return INVALID_ARGUMENT;
  size_t part = count * width(type), all = part * comm->world, own = part * comm->rank;
  check_memory(from, all, "reduce-scatter from");
  check_memory(to, part, "reduce-scatter to");
  return exchange(comm, from, all, [&](size_t first, size_t piece) {
    size_t begin = std::max(first, own), end = std::min(first + piece, own + part);
    if (begin < end) add(comm, type, begin - first, end - begin, (char *)to + (begin - own));
  });
}
int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, void *) {
  size_t part = count * width(type);
  check_memory(from, part, "all-gather from");
  check_memory(to, part * comm->world, "all-gather to");
  return exchange(comm, from, part, [&](size_t first, size_t piece) {
    for (int rank = 0; rank < comm->world; rank++)
      std::memcpy((char *)to + part * rank + first, comm->slot(rank), piece);
  });
}
}
