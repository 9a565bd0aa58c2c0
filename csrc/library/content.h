// Where the bytes of a model come from.
#pragma once
#include <cstddef>
#include <span>
#include <utility>

namespace pnf::library {

// A file mapped into memory, or somebody else's memory.
class Content {
 public:
  // Throws Refusal when the file cannot be read, or has more bytes.
  static Content of_file(const char* path, std::size_t most_bytes);
  explicit Content(std::span<const std::byte> elsewhere) : bytes_(elsewhere) {}

  Content(Content&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), mapped_(std::exchange(other.mapped_, false)) {}
  Content& operator=(Content&&) = delete;
  ~Content();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  Content(std::span<const std::byte> bytes, bool mapped) : bytes_(bytes), mapped_(mapped) {}

  std::span<const std::byte> bytes_;
  bool mapped_ = false;
};

}  // namespace pnf::library
