#include "plan/thread_pool.h"

#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "plan/per_process.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pnf {
namespace {

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Some twenty microseconds: longer than the steps of a network are apart, shorter than a time slice.
constexpr int kSpins = 2000;

template <typename T>
void await_change(const std::atomic<T>& value, T old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

class Pool {
 public:
  bool run(int threads, Task task, void* context) {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || !grow(threads - 1)) return false;
    task_ = task;
    context_ = context;
    threads_ = threads;
    pending_.store(static_cast<int>(workers_), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    task(context, 0, threads);
    for (int left = pending_.load(std::memory_order_acquire); left != 0;
         left = pending_.load(std::memory_order_acquire)) {
      await_change(pending_, left);
    }
    return true;
  }

 private:
  bool grow(int workers) {
    while (workers_ < workers) {
      try {
        const int index = workers_ + 1;
        const unsigned seen = generation_.load(std::memory_order_relaxed);
        std::thread([this, index, seen] { work(index, seen); }).detach();
      } catch (const std::system_error&) {
        return false;
      }
      ++workers_;
    }
    return true;
  }

  void work(int index, unsigned seen) {
    for (;;) {
      await_change(generation_, seen);
      ++seen;
      if (index < threads_) task_(context_, index, threads_);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_all();
    }
  }

  std::mutex mutex_;
  int workers_ = 0;
  Task task_ = nullptr;
  void* context_ = nullptr;
  int threads_ = 0;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> pending_{0};
};

}  // namespace

void Barrier::wait() {
  const unsigned phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == parties_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  await_change(phase_, phase);
}

void run_parallel(int threads, Task task, void* context) {
  if (threads > 1 && per_process<Pool>().run(threads, task, context)) return;
  task(context, 0, 1);
}

}  // namespace pnf
