// Threads that work together on a call, and wait for work between calls.
//
// Nobody waits for a thread that has not come: work lies in pieces, and whoever is there takes the next one, the calling
// thread first of all. So a helper that the system does not run costs its caller nothing. One that the system stops while
// it holds a piece delays the caller, and one more thread may take the caller's processor where others are busy; calls
// that take longer than the calling thread alone would are followed by calls without helpers for a while.
//
// The pool's workers come when they are woken. Where threads of another runtime spin on the processors, as OpenMP's do
// after each of its loops, woken workers wait behind them; that runtime can offer those threads instead (`offer_threads`).
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

namespace pnf {

// One of the threads at work on a call.
struct Member {
  int index = 0;           // 0 is the calling thread; all differ, and are below the call's threads
  std::int64_t spent = 0;  // nanoseconds for which it ran but waited for others
};

using Task = void (*)(void* context, Member& member) noexcept;

// Calls task(context, member) on the calling thread, and on up to threads - 1 others that may come at any time before
// that call ends, or not at all; returns when all have ended. The call on the calling thread must end only when nothing
// is left to be taken. All run in the calling thread's rounding and denormal mode. Safe after fork().
//
// Where no helper is at hand the calling thread calls alone(context, member) instead, unless that is null.
void run_together(int threads, Task task, void* context, Task alone = nullptr);

// Threads of another runtime. available() says how many a loop of the calling thread has, itself included; 0 where there
// must be none. loop(n, body, context) calls body(begin, end, context) for parts of [0, n), on as many threads as it likes,
// the calling one among them, and returns when all have ended.
struct OfferedThreads {
  int (*available)() noexcept;
  void (*loop)(int count, void (*body)(std::int64_t begin, std::int64_t end, void* context), void* context) noexcept;
};
// To all calls from now on. `offer` must live on.
void offer_threads(const OfferedThreads& offer);

// Work in phases, each of which begins when all pieces of the one before are done. Members go through the phases in
// order and say of each how many pieces it has, at most kMostPieces.
class Phases {
 public:
  static constexpr int kMostPieces = 32;

  // A piece of the phase that nobody has taken: the first one from `home` on, or else the first one; -1 if none is left.
  int take(std::uint32_t phase, int pieces, int home) {
    std::uint64_t seen = state_.load(std::memory_order_acquire);
    for (;;) {
      if (seen >> kMostPieces != phase) return -1;
      const std::uint64_t free = ~seen & ((std::uint64_t{1} << pieces) - 1);
      if (free == 0) return -1;
      const std::uint64_t near = free >> home << home;
      const int piece = __builtin_ctzll(near != 0 ? near : free);
      if (state_.compare_exchange_weak(seen, seen | std::uint64_t{1} << piece, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        return piece;
      }
    }
  }

  // A piece that this thread has taken is done.
  void finish(std::uint32_t phase, int pieces) {
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) end(phase);
  }

  // Returns when all pieces of the phase are done.
  void await_end(std::uint32_t phase, Member& member) {
    if (state_.load(std::memory_order_acquire) >> kMostPieces <= phase) sleep(phase, member);
  }

 private:
  void end(std::uint32_t phase);
  void sleep(std::uint32_t phase, Member& member);

  alignas(64) std::atomic<std::uint64_t> state_{0};  // the phase, and a bit for each of its pieces that is taken
  alignas(64) std::atomic<int> done_{0};             // pieces of the phase
  std::atomic<std::uint32_t> ended_{0};              // phases, for those that sleep
};

// Pieces in any order. Each member has a share of its own, piece after piece, forwards or backwards; who is done with its
// own takes from the others'.
class Shares {
 public:
  Shares(int pieces, int members, bool backwards)
      : pieces_(pieces), members_(members), backwards_(backwards), shares_(std::make_unique<Share[]>(members)) {}

  // -1 if none is left.
  int take(int member) {
    for (int i = 0; i < members_; ++i) {
      const int owner = (member + i) % members_, begin = begin_of(owner), end = begin_of(owner + 1);
      const int taken = shares_[owner].taken.fetch_add(1, std::memory_order_relaxed);
      if (taken < end - begin) return backwards_ ? end - 1 - taken : begin + taken;
    }
    return -1;
  }

 private:
  struct alignas(64) Share {
    std::atomic<int> taken{0};
  };
  int begin_of(int member) const { return static_cast<int>(std::int64_t{pieces_} * member / members_); }

  const int pieces_, members_;
  const bool backwards_;
  std::unique_ptr<Share[]> shares_;
};

}  // namespace pnf
