// Random data, guarded memory and error bounds that the kernel tests share.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.h"
#include "kernels/dispatch.h"
#include "kernels/layout.h"

// In programs with AddressSanitizer.
extern "C" __attribute__((weak)) void __asan_init();

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

// One in so many cases of a long list is enough under sanitizers and emulators (CMakeLists.txt).
#ifdef PNF_ONE_CASE_IN
inline constexpr int kOneCaseIn = PNF_ONE_CASE_IN;
#else
inline constexpr int kOneCaseIn = 1;
#endif

// States of a precision, and floats as they are in it.
inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16); }

template <typename State>
State to_state(float x) {
  if constexpr (sizeof(State) == sizeof(float)) {
    return x;
  } else {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return static_cast<Bf16>((std::isnan(x) ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

template <typename State>
std::vector<float> rounded(std::vector<float> values) {
  for (float& value : values) value = to_float(to_state<State>(value));
  return values;
}

// Under an emulator, PNF_TEST_ISA names the sets to test, with commas between them: the others are tested where they are
// fast.
template <typename Set>
bool is_tested(const Set& set) {
  const char* const only = std::getenv("PNF_TEST_ISA");
  if (!set.available || only == nullptr) return set.available;
  // Without a sum of strings, about which GCC 12 warns (bug 105651).
  const auto listed = [](const char* names) { return std::string(",").append(names).append(","); };
  return listed(only).find(listed(set.name)) != std::string::npos;
}

inline const std::vector<KernelSet>& kernel_sets(float) { return compiled_kernels(); }
inline const std::vector<Bf16KernelSet>& kernel_sets(Bf16) { return compiled_bf16_kernels(); }

// Two Bf16 in a word, the second above the first.
inline float pair_word(float low, float high) {
  const auto bits = [](float x) { return static_cast<std::uint32_t>(to_state<Bf16>(x)); };
  return std::bit_cast<float>(bits(low) | bits(high) << 16);
}

// Memory that ends where a page does, but for `spare` bytes, before one that nobody may touch: what reads on ends the
// process, whatever the instruction, while sanitizers watch only most. AddressSanitizer's own heap shows what reads
// before it, too; there the spare bytes are in front.
class PagedMemory {
 public:
  PagedMemory(std::size_t bytes, std::size_t spare) {
    if (__asan_init != nullptr) {
      memory_ = static_cast<char*>(std::malloc(spare + bytes));
      begin_ = memory_ + spare;
      return;
    }
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t usable = (bytes + spare + page - 1) / page * page;
    mapped_ = usable + page;
    void* const mapped = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED || mprotect(static_cast<char*>(mapped) + usable, page, PROT_NONE) != 0) {
      throw std::bad_alloc();
    }
    memory_ = static_cast<char*>(mapped);
    begin_ = memory_ + usable - spare - bytes;
  }
  PagedMemory(PagedMemory&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)),
        begin_(other.begin_),
        mapped_(std::exchange(other.mapped_, 0)) {}
  ~PagedMemory() {
    if (mapped_ > 0) {
      munmap(memory_, mapped_);
    } else {
      std::free(memory_);
    }
  }
  void* get() const { return begin_; }

 private:
  char *memory_, *begin_;
  std::size_t mapped_ = 0;
};

// A copy of constants in such memory, with 4 bytes to spare if it is `misaligned`.
template <typename State>
class ConstantsOf {
 public:
  ConstantsOf(const std::vector<float>& values, bool misaligned)
      : memory_(values.size() * sizeof(State), misaligned ? 4 : 0), data_(static_cast<State*>(memory_.get())) {
    for (std::size_t i = 0; i < values.size(); ++i) data_[i] = to_state<State>(values[i]);
  }
  const State* get() const { return data_; }

 private:
  PagedMemory memory_;
  State* data_;
};
using Constants = ConstantsOf<float>;

// Memory that a kernel writes: NaN before the call, between two regions that must stay as they are.
template <typename State>
class GuardedOf {
 public:
  GuardedOf(std::size_t count, bool misaligned)
      : count_(count), begin_(kGuard + (misaligned ? 4 / sizeof(State) : 0)), memory_(begin_ + count + kGuard) {
    poison();
  }
  void poison() {
    for (State& value : memory_) value = std::bit_cast<State>(kMark);
  }
  State* get() { return memory_.data() + begin_; }
  const State* get() const { return memory_.data() + begin_; }
  std::size_t size() const { return count_; }
  bool untouched(std::size_t index) const { return std::bit_cast<Bits>(get()[index]) == kMark; }
  bool guards_intact() const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (i == begin_) i += count_;
      if (std::bit_cast<Bits>(memory_[i]) != kMark) return false;
    }
    return true;
  }

 private:
  using Bits = std::conditional_t<sizeof(State) == 4, std::uint32_t, std::uint16_t>;
  static constexpr std::size_t kGuard = 256;
  // A quiet NaN that no arithmetic produces.
  static constexpr Bits kMark = static_cast<Bits>(sizeof(State) == 4 ? 0x7fc5a5a5u : 0x7fc5u);
  std::size_t count_;
  std::size_t begin_;
  std::vector<State> memory_;
};
using Guarded = GuardedOf<float>;

// Rows of a feature map that a kernel writes: [blocks][rows, surplus ones behind them][width * 16].
template <typename State>
class RowsOf : public GuardedOf<State> {
 public:
  RowsOf(int blocks, std::ptrdiff_t block_stride, std::ptrdiff_t row, bool misaligned)
      : GuardedOf<State>(blocks * block_stride, misaligned), block_stride_(block_stride), row_(row) {}

  // Calls kernel(output, scratch), whose scratch holds nothing.
  template <typename Kernel>
  void write(Guarded& scratch, const std::string& name, Kernel kernel) {
    scratch.poison();
    kernel(this->get(), scratch.get());
    CHECK(scratch.guards_intact() && this->guards_intact(), "%s writes outside its memory", name.c_str());
  }
  bool untouched_outside(int begin, int end) const {
    for (std::size_t i = 0; i < this->size(); ++i) {
      const auto y = static_cast<std::ptrdiff_t>(i) % block_stride_ / row_;
      if ((y < begin || y >= end) && !this->untouched(i)) return false;
    }
    return true;
  }

 private:
  std::ptrdiff_t block_stride_, row_;
};
using Rows = RowsOf<float>;

// Whether a kernel has left tile registers configured; only where there are any. Those of the CPU (tile_registers.cpp), or
// what takes their place.
bool tiles_in_use();

template <typename State>
bool same_bits(const State* a, const State* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(State)) == 0;
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

// Whether `actual` differs from `expected` by at most `roundings` roundings of every product to a float and `halvings` to
// half precision, and is NaN or infinite exactly when it is; in half precision an infinity may have met a zero weight.
inline bool within(float actual, const Exact& expected, int roundings, int halvings = 0) {
  if (halvings > 0 && !std::isfinite(expected.value)) return !std::isfinite(actual);
  if (std::isnan(expected.value)) return std::isnan(actual);
  if (std::isinf(expected.value)) return actual == static_cast<float>(expected.value);
  const double n = roundings * 0x1p-24 + halvings * 0x1p-8;
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
