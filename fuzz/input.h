// The bytes that a fuzzer gives, as the numbers and the bytes that a target asks for; zeros where they end.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace pnf::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  bool ended() const { return rest_.empty(); }

  template <typename T>
  T value() {
    T result{};
    const auto bytes = take(sizeof(T));
    if (!bytes.empty()) std::memcpy(&result, bytes.data(), bytes.size());
    return result;
  }

  int below(int limit) { return value<std::uint8_t>() % limit; }

  // Exactly `count`, in a block of their own, so that a sanitizer sees who reads beyond them. What is there is repeated.
  std::vector<std::uint8_t> bytes(std::size_t count) {
    const auto given = take(count);
    std::vector<std::uint8_t> result(given.begin(), given.end());
    result.resize(count);
    for (std::size_t i = given.size(); i < count; ++i) {
      result[i] = given.empty() ? static_cast<std::uint8_t>(i * 37) : result[i - given.size()];
    }
    return result;
  }

 private:
  std::span<const std::uint8_t> take(std::size_t count) {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

  std::span<const std::uint8_t> rest_;
};

}  // namespace pnf::fuzz
