// What that libc++ declares and has in no library of emscripten's.
#include <memory_resource>
#include <new>

namespace {

class Heap final : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    return ::operator new(bytes, std::align_val_t(alignment));
  }
  void do_deallocate(void* given, std::size_t, std::size_t alignment) override {
    ::operator delete(given, std::align_val_t(alignment));
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

}  // namespace

_LIBCPP_BEGIN_NAMESPACE_LFTS_PMR

memory_resource* get_default_resource() noexcept {
  static Heap heap;
  return &heap;
}

_LIBCPP_END_NAMESPACE_LFTS_PMR
