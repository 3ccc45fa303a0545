// Each piece ends, but for its alignment, at a page that nobody may touch, so that whoever goes past it is
// ended there; what lies between is looked at when it is given back. It is filled with NaN, so that nobody
// reads what nobody wrote without being seen.
#include "memory.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace {
constexpr size_t PAGE = 4096, ALIGNMENT = 256;
struct Piece {
  size_t bytes;
  void *pages;
  size_t page_bytes;
};
std::mutex guard;
std::map<uintptr_t, Piece> pieces;
} // namespace

void *take_memory(size_t bytes) {
  if (bytes == 0) return nullptr;
  size_t aligned = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  size_t pages = (aligned + PAGE - 1) / PAGE * PAGE;
  void *start = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  mprotect((char *)start + pages, PAGE, PROT_NONE);
  char *at = (char *)start + pages - aligned;
  std::memset(at, 0xff, aligned);
  std::lock_guard<std::mutex> lock(guard);
  pieces[(uintptr_t)at] = {bytes, start, pages + PAGE};
  return at;
}

bool give_back_memory(void *at) {
  std::lock_guard<std::mutex> lock(guard);
  auto found = pieces.find((uintptr_t)at);
  if (found == pieces.end()) return false;
  const unsigned char *end = (unsigned char *)at + found->second.bytes;
  const unsigned char *page = (unsigned char *)found->second.pages + found->second.page_bytes - PAGE;
  for (; end < page; end++)
    if (*end != 0xff) {
      std::fprintf(stderr, "software device: something was written behind %zu bytes at %p\n", found->second.bytes, at);
      std::abort();
    }
  munmap(found->second.pages, found->second.page_bytes);
  pieces.erase(found);
  return true;
}

void check_memory(const void *at, size_t bytes, const char *what) {
  if (bytes == 0) return;
  std::lock_guard<std::mutex> lock(guard);
  auto found = pieces.upper_bound((uintptr_t)at);
  if (found != pieces.begin()) {
    --found;
    if ((uintptr_t)at + bytes <= found->first + found->second.bytes) return;
  }
  std::fprintf(stderr, "software device: %s: %zu bytes at %p are not allocated\n", what, bytes, at);
  std::abort();
}
