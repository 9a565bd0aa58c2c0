// Memory for a context's calls, cut out of one block, so that nothing is taken from the heap.
#pragma once
#include <cstddef>
#include <memory_resource>
#include <span>

namespace pnf::library {

class MemoryBlock final : public std::pmr::memory_resource {
 public:
  static constexpr std::size_t kUnit = 64;

  // From a multiple of kUnit bytes on, and at least that many.
  explicit MemoryBlock(std::span<std::byte> block);

 private:
  // At the beginning of each free range, the ranges in the order of their addresses.
  struct Free {
    std::size_t bytes;
    Free* next;
  };

  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void* given, std::size_t bytes, std::size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

  Free* free_;
};

}  // namespace pnf::library
