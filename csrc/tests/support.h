// Random data, guarded memory and error bounds that the kernel tests share.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/layout.h"

namespace pnf::test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  int integer(int low, int high) { return low + static_cast<int>(engine_() % static_cast<unsigned>(high - low + 1)); }
  bool chance(int one_in) { return integer(1, one_in) == 1; }
  float real(float low, float high) { return low + (high - low) * static_cast<float>(engine_() >> 8) * 0x1p-24f; }
  std::vector<float> reals(std::size_t count, float low, float high) {
    std::vector<float> values(count);
    for (float& value : values) value = real(low, high);
    return values;
  }
  template <typename Range>
  const auto& pick(const Range& range) {
    return range[integer(0, static_cast<int>(std::size(range)) - 1)];
  }

 private:
  std::mt19937 engine_;
};

// A copy of constants that ends where its heap block ends, so that AddressSanitizer sees a read beyond it; with
// `misaligned` it starts 4 bytes past the alignment of the heap.
class Constants {
 public:
  Constants(const std::vector<float>& values, bool misaligned)
      : skip_(misaligned ? 1 : 0), block_(new float[values.size() + skip_]) {
    std::copy(values.begin(), values.end(), block_.get() + skip_);
  }
  const float* get() const { return block_.get() + skip_; }

 private:
  std::size_t skip_;
  std::unique_ptr<float[]> block_;
};

// Memory that a kernel writes: NaN before the call, between two regions that must stay as they are.
class Guarded {
 public:
  Guarded(std::size_t count, bool misaligned)
      : count_(count), begin_(kGuard + (misaligned ? 1 : 0)), memory_(begin_ + count + kGuard) {
    poison();
  }
  void poison() {
    for (float& value : memory_) value = std::bit_cast<float>(kMark);
  }
  float* get() { return memory_.data() + begin_; }
  const float* get() const { return memory_.data() + begin_; }
  std::size_t size() const { return count_; }
  bool untouched(std::size_t index) const { return std::bit_cast<std::uint32_t>(get()[index]) == kMark; }
  bool guards_intact() const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (i == begin_) i += count_;
      if (std::bit_cast<std::uint32_t>(memory_[i]) != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kGuard = 256;
  static constexpr std::uint32_t kMark = 0x7fc5a5a5;  // a quiet NaN that no arithmetic produces
  std::size_t count_;
  std::size_t begin_;
  std::vector<float> memory_;
};

// Rows of a feature map that a kernel writes: [blocks][rows, surplus ones behind them][width * 16].
class Rows : public Guarded {
 public:
  Rows(int blocks, std::ptrdiff_t block_stride, std::ptrdiff_t row, bool misaligned)
      : Guarded(blocks * block_stride, misaligned), block_stride_(block_stride), row_(row) {}

  // Calls kernel(output, scratch), whose scratch holds nothing.
  template <typename Kernel>
  void write(Guarded& scratch, const std::string& name, Kernel kernel) {
    scratch.poison();
    kernel(get(), scratch.get());
    CHECK(scratch.guards_intact() && guards_intact(), "%s writes outside its memory", name.c_str());
  }
  bool untouched_outside(int begin, int end) const {
    for (std::size_t i = 0; i < size(); ++i) {
      const auto y = static_cast<std::ptrdiff_t>(i) % block_stride_ / row_;
      if ((y < begin || y >= end) && !untouched(i)) return false;
    }
    return true;
  }

 private:
  std::ptrdiff_t block_stride_, row_;
};

inline bool same_bits(const float* a, const float* b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  }
  return true;
}

// A value computed in float64, and the sum of the absolute values of the products it consists of.
struct Exact {
  double value = 0.0;
  double magnitude = 0.0;

  void add(double product, double absolute) {
    value += product;
    magnitude += absolute;
  }
  void add(double product) { add(product, std::abs(product)); }
};

// Whether `actual` differs from `expected` by at most `roundings` roundings of every product, and is NaN or infinite
// exactly when it is.
inline bool within(float actual, const Exact& expected, int roundings) {
  if (std::isnan(expected.value)) return std::isnan(actual);
  if (std::isinf(expected.value)) return actual == static_cast<float>(expected.value);
  const double n = roundings * 0x1p-24;
  return std::abs(actual - expected.value) <= n / (1.0 - n) * expected.magnitude;
}

inline int blocks_of(int channels) { return (channels + kBlock - 1) / kBlock; }

// [rows * columns] by `channels` values each to [blocks][rows * columns][16], surplus channels zero.
inline std::vector<float> to_blocks(const std::vector<float>& planes, int channels, int pixels) {
  std::vector<float> blocked(static_cast<std::size_t>(blocks_of(channels)) * pixels * kBlock, 0.0f);
  for (int c = 0; c < channels; ++c) {
    for (int p = 0; p < pixels; ++p) {
      blocked[(static_cast<std::size_t>(c / kBlock) * pixels + p) * kBlock + c % kBlock] =
          planes[static_cast<std::size_t>(c) * pixels + p];
    }
  }
  return blocked;
}

}  // namespace pnf::test
