#include "plan/workspace.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

namespace pnf {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

void Floats::Free::operator()(float* p) const { std::free(p); }

void advise_huge_pages(void* data, std::size_t bytes) {
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

float* Floats::reserve(std::size_t count) {
  if (count > size_) {
    constexpr std::size_t kLine = 64;
    const std::size_t unit = count * sizeof(float) < kHugePage ? kLine : kHugePage;
    const std::size_t bytes = (count * sizeof(float) + unit - 1) / unit * unit;
    data_.reset();
    size_ = 0;
    data_.reset(static_cast<float*>(std::aligned_alloc(unit, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    advise_huge_pages(data_.get(), bytes);
    size_ = count;
  }
  return data_.get();
}

}  // namespace pnf
