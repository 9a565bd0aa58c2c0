#include "plan/workspace.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace pnf {

void Floats::Free::operator()(float* p) const { std::free(p); }

float* Floats::reserve(std::size_t count) {
  if (count > size_) {
    constexpr std::size_t kLine = 64, kHugePage = std::size_t{2} << 20;
    const std::size_t unit = count * sizeof(float) < kHugePage ? kLine : kHugePage;
    const std::size_t bytes = (count * sizeof(float) + unit - 1) / unit * unit;
    data_.reset();
    size_ = 0;
    data_.reset(static_cast<float*>(std::aligned_alloc(unit, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    // A page of 4 KiB is walked through in no time, and a virtual machine looks each up twice. Advice only.
    if (unit == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);
    size_ = count;
  }
  return data_.get();
}

}  // namespace pnf
