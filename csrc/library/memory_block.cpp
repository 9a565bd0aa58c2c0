#include "library/memory_block.h"

#include <algorithm>
#include <limits>
#include <new>

namespace pnf::library {
namespace {

std::size_t units(std::size_t bytes) {
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max() / 2;
  if (bytes > kMost) throw std::bad_alloc();
  return std::max<std::size_t>((bytes + MemoryBlock::kUnit - 1) / MemoryBlock::kUnit, 1) * MemoryBlock::kUnit;
}

std::byte* end_of(void* range, std::size_t bytes) { return static_cast<std::byte*>(range) + bytes; }

}  // namespace

MemoryBlock::MemoryBlock(std::span<std::byte> block)
    : free_(new (block.data()) Free{block.size() / kUnit * kUnit, nullptr}) {}

void* MemoryBlock::do_allocate(std::size_t bytes, std::size_t alignment) {
  const std::size_t needed = units(bytes);
  if (alignment > kUnit) throw std::bad_alloc();
  for (Free** link = &free_; *link != nullptr; link = &(*link)->next) {
    Free* const range = *link;
    if (range->bytes < needed) continue;
    *link = range->bytes == needed ? range->next : new (end_of(range, needed)) Free{range->bytes - needed, range->next};
    return range;
  }
  throw std::bad_alloc();
}

void MemoryBlock::do_deallocate(void* given, std::size_t bytes, std::size_t) {
  Free** link = &free_;
  Free* before = nullptr;
  while (*link != nullptr && static_cast<void*>(*link) < given) before = *link, link = &(*link)->next;
  Free* const range = new (given) Free{units(bytes), *link};
  *link = range;
  const auto join = [](Free* first) {
    if (first == nullptr || first->next == nullptr || end_of(first, first->bytes) != static_cast<void*>(first->next)) {
      return;
    }
    first->bytes += first->next->bytes;
    first->next = first->next->next;
  };
  join(range);
  join(before);
}

}  // namespace pnf::library
