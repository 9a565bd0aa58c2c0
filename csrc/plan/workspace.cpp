#include "plan/workspace.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

namespace pnf {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
// AddressSanitizer watches the ends of heap blocks, not of pages.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kOnHeap = true;
#else
constexpr bool kOnHeap = false;
#endif
constexpr std::size_t kMostBytes = std::numeric_limits<std::ptrdiff_t>::max() / 2;

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Zeroed pages from a multiple of 2 MiB on, or null.
void* map_huge_pages(std::size_t bytes) {
  void* const found = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* const from = static_cast<char*>(found);
  const std::size_t before =
      round_up(reinterpret_cast<std::uintptr_t>(from), kHugePage) - reinterpret_cast<std::uintptr_t>(from);
  if (before > 0) munmap(from, before);
  if (before < kHugePage) munmap(from + before + bytes, kHugePage - before);
  advise_huge_pages(from + before, bytes);
  return from + before;
}

}  // namespace

void Floats::free() {
  if (memory_.mapped) {
    munmap(memory_.data, memory_.bytes);
  } else {
    std::free(memory_.data);
  }
  memory_ = {};
}

#if defined(__linux__)
void advise_huge_pages(void* data, std::size_t bytes) {
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}
#else
void advise_huge_pages(void*, std::size_t) {}
#endif

float* Floats::reserve(std::size_t count) {
  if (count > memory_.bytes / sizeof(float)) {
    constexpr std::size_t kLine = 64;
    if (count > kMostBytes / sizeof(float)) throw std::bad_alloc();
    const bool pages = !kOnHeap && count * sizeof(float) >= kHugePage;
    const std::size_t bytes = round_up(count * sizeof(float), pages ? kHugePage : kLine);
    free();
    void* const fresh = pages ? map_huge_pages(bytes) : std::aligned_alloc(kLine, bytes);
    if (fresh == nullptr) throw std::bad_alloc();
    memory_ = {static_cast<float*>(fresh), bytes, pages};
  }
  return memory_.data;
}

void Workspace::prepare(int threads, int arenas, bool shared) {
  if (static_cast<int>(lanes.size()) < threads) lanes.resize(threads);
  for (int t = 0; t < arenas; ++t) lanes[t].arena.reserve(program.arena_words());
  if (shared) shared_arena.reserve(program.arena_words());
  for (int t = 0; t < threads; ++t) lanes[t].scratch.reserve(program.band_words() + program.scratch_floats);
  const std::size_t needed = (threads + (shared ? 1 : 0)) * program.lane_bytes(), held = bytes();
  small_calls_ = held > kKeptBytes && needed < held / 2 ? small_calls_ + 1 : 0;
}

std::size_t Workspace::bytes() const {
  std::size_t bytes = shared_arena.bytes();
  for (const Lane& lane : lanes) bytes += lane.arena.bytes() + lane.scratch.bytes();
  return bytes;
}

}  // namespace pnf
