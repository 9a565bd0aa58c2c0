// Threads that wait between calls. One call at a time may have them: a call that finds them taken runs on its own
// thread alone, so that many callers never put more threads to work than there are callers and pool threads.
#pragma once
#include <atomic>

namespace pnf {

// Lets `parties` threads wait for each other, again and again. Spins briefly, then sleeps.
class Barrier {
 public:
  explicit Barrier(int parties) : parties_(parties) {}
  void wait();

 private:
  const int parties_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> phase_{0};
};

using Task = void (*)(void* context, int thread, int threads);

// Calls task(context, t, n) for t in [0, n) at the same time, and returns when all have ended. n is `threads`, or 1
// when the pool is taken or cannot grow. Tasks must not throw. Safe after fork().
void run_parallel(int threads, Task task, void* context);

}  // namespace pnf
