#include "failing_allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

constexpr long kNever = -1;

std::atomic<long> count{0};
// Allocations that succeed before one fails.
std::atomic<long> left{kNever};
std::atomic<bool> all_later{false}, has_failed{false};

bool refused() {
  ++count;
  long now = left.load();
  while (now >= 0) {
    const long next = now > 0 ? now - 1 : all_later ? 0 : kNever;
    if (!left.compare_exchange_weak(now, next)) continue;
    if (now == 0) has_failed = true;
    return now == 0;
  }
  return false;
}

}  // namespace

// Calls from this program and from static libraries go through these (the linker's --wrap); those from inside shared
// libraries, through the operators below.
extern "C" {
void* __real_malloc(std::size_t);
void* __real_calloc(std::size_t, std::size_t);
void* __real_realloc(void*, std::size_t);
void* __real_aligned_alloc(std::size_t, std::size_t);

void* __wrap_malloc(std::size_t size) { return refused() ? nullptr : __real_malloc(size); }
void* __wrap_calloc(std::size_t many, std::size_t size) { return refused() ? nullptr : __real_calloc(many, size); }
void* __wrap_realloc(void* p, std::size_t size) { return refused() ? nullptr : __real_realloc(p, size); }
void* __wrap_aligned_alloc(std::size_t alignment, std::size_t size) {
  return refused() ? nullptr : __real_aligned_alloc(alignment, size);
}
}

void* operator new(std::size_t size) {
  void* const p = std::malloc(size);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  void* const p = std::aligned_alloc(unit, (size + unit - 1) / unit * unit);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace pnf::test {

long allocations() { return count; }

void fail_allocation(long n, Failing failing) {
  all_later = failing == Failing::kAll;
  has_failed = false;
  left = n - 1;
}

bool allow_allocations() {
  left = kNever;
  return has_failed.exchange(false);
}

}  // namespace pnf::test
