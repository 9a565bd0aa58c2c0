// A model file with a small network of random weights of each task, so that a call takes less than a millisecond.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace pnf::fuzz {

std::string small_model(bool half, bool photos);

// Memory at a multiple of 64 bytes that a model may be opened from.
class AlignedCopy {
 public:
  AlignedCopy(const void* bytes, std::size_t size)
      : size_(size), memory_(std::aligned_alloc(64, (size + 64) / 64 * 64)) {
    if (size > 0) std::memcpy(memory_.get(), bytes, size);
  }
  explicit AlignedCopy(const std::string& bytes) : AlignedCopy(bytes.data(), bytes.size()) {}

  const void* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::size_t size_;
  std::unique_ptr<void, Free> memory_;
};

}  // namespace pnf::fuzz
