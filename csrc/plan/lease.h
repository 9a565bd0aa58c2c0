// Memory that outlives a call: borrowed for the life of a Lease, then kept for the next call of this process.
#pragma once
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "plan/per_process.h"

namespace pnf {

// Bytes of one type of object that wait for calls. The object returned last may be larger alone: it is what a caller
// that calls again needs.
inline constexpr std::size_t kKeptBytes = std::size_t{64} << 20;

// Where objects of one type wait.
class Shelf {
 public:
  Shelf();
  virtual ~Shelf();
  Shelf(const Shelf&) = delete;
  Shelf& operator=(const Shelf&) = delete;
  // Frees what waits, and returns its bytes.
  virtual std::size_t clear() = 0;
};

// Frees what waits on every shelf of this process, and returns its bytes; running calls keep what they have.
std::size_t clear_shelves();

// Concurrent callers get different objects, made when none is free. T says its bytes(), and whether it has outgrown() what
// its calls need, and then goes.
template <typename T>
class Lease {
 public:
  Lease() {
    TypedShelf& shelf = per_process<TypedShelf>();
    const std::lock_guard<std::mutex> lock(shelf.mutex);
    if (shelf.free.empty()) {
      object_ = std::make_unique<T>();
    } else {
      object_ = std::move(shelf.free.back().object);
      shelf.bytes -= shelf.free.back().bytes;
      shelf.free.pop_back();
    }
  }
  ~Lease() {
    if (object_->outgrown()) return;
    TypedShelf& shelf = per_process<TypedShelf>();
    const std::size_t bytes = object_->bytes();
    const std::lock_guard<std::mutex> lock(shelf.mutex);
    try {
      shelf.free.push_back({std::move(object_), bytes});
    } catch (const std::bad_alloc&) {
      return;
    }
    shelf.bytes += bytes;
    while (shelf.bytes > kKeptBytes && shelf.free.size() > 1) {
      shelf.bytes -= shelf.free.front().bytes;
      shelf.free.erase(shelf.free.begin());
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  T& operator*() const { return *object_; }
  T* operator->() const { return object_.get(); }

 private:
  struct Waiting {
    std::unique_ptr<T> object;
    std::size_t bytes;
  };
  struct TypedShelf : Shelf {
    std::mutex mutex;
    std::vector<Waiting> free;  // the one returned last at the end
    std::size_t bytes = 0;

    std::size_t clear() override {
      const std::lock_guard<std::mutex> lock(mutex);
      free.clear();
      return std::exchange(bytes, 0);
    }
  };
  std::unique_ptr<T> object_;
};

}  // namespace pnf
