#include "plan/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>

#include "plan/per_process.h"
#include "plan/processors.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pnf {
namespace {

using Nanoseconds = std::int64_t;

constexpr Nanoseconds kMicrosecond = 1000, kMillisecond = 1000 * kMicrosecond;
// Longer than the phases of a network differ on two processors, and than steps of a pipeline are apart; shorter than a
// time slice.
constexpr Nanoseconds kSpin = 50 * kMicrosecond;
// What helpers have saved counts against what they lose, up to a time slice.
constexpr Nanoseconds kMostCredit = 4 * kMillisecond;
// A loss is followed by so many times its length without the risk, and by twice as long as the last time unless helpers
// have earned kMostCredit since.
constexpr Nanoseconds kRest = 20, kMostRest = 1000 * kMillisecond;
// A woken worker that has not come by then waits for a processor; it takes less to come from sleep.
constexpr Nanoseconds kLate = 150 * kMicrosecond;
// Offered threads that spin come at once, and others no sooner than workers do.
constexpr Nanoseconds kPrompt = 20 * kMicrosecond;
constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();

Nanoseconds now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// For which the calling thread has run.
Nanoseconds processor_time() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * Nanoseconds{1'000'000'000} + time.tv_nsec;
}

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Whether `condition` holds within kSpin.
template <typename Condition>
bool spin_until(const Condition& condition) {
  constexpr int kPauses = 64;
  const Nanoseconds begin = now();
  do {
    for (int i = 0; i < kPauses; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (now() - begin < kSpin);
  return false;
}

// How a thread rounds, and whether denormal numbers are zero to it.
class FloatMode {
 public:
  static FloatMode current() {
    FloatMode mode;
#if defined(__x86_64__)
    constexpr unsigned kFlags = 0x3f;  // what has happened, which is the thread's own
    mode.bits_ = _mm_getcsr() & ~kFlags;
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode.bits_));
#endif
    return mode;
  }
  void set() const {
#if defined(__x86_64__)
    _mm_setcsr(bits_);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(bits_));
#endif
  }
  bool operator==(const FloatMode&) const = default;

 private:
#if defined(__aarch64__)
  std::uint64_t bits_ = 0;
#else
  unsigned bits_ = 0;
#endif
};

// What a kind of helpers saves and loses: the time of calls, against what the calling thread would take alone.
class Account {
 public:
  bool pays(Nanoseconds at) const { return at >= rest_until_.load(std::memory_order_relaxed); }

  // What is saved must be worth the trouble: a tenth, which estimates may be wrong by.
  void book(Nanoseconds alone, Nanoseconds taken, Nanoseconds at) {
    const Nanoseconds saved = alone - alone / 10 - taken;
    const Nanoseconds credit = std::min(credit_.load(std::memory_order_relaxed) + saved, kMostCredit);
    if (credit < 0) {
      const Nanoseconds rest =
          std::min(std::max(-kRest * credit, 2 * rest_.load(std::memory_order_relaxed)), kMostRest);
      rest_.store(rest, std::memory_order_relaxed);
      rest_until_.store(at + rest, std::memory_order_relaxed);
    } else if (credit == kMostCredit) {
      rest_.store(0, std::memory_order_relaxed);
    }
    credit_.store(std::max<Nanoseconds>(credit, 0), std::memory_order_relaxed);
  }

 private:
  // Callers at the same time may overwrite what others book: it is an estimate.
  std::atomic<Nanoseconds> credit_{0}, rest_{0}, rest_until_{0};
};

// How much longer a thread takes than it runs, where others are on its processor: as calls on one thread have shown, and
// as if on a quiet machine after a while without any.
class Stretch {
 public:
  void measured(Nanoseconds ran, Nanoseconds taken) {
    constexpr Nanoseconds kLeast = 50 * kMicrosecond;
    if (taken >= kLeast) move_to(static_cast<double>(taken) / static_cast<double>(std::max<Nanoseconds>(ran, 1)), 0.25);
  }
  // What a thread alone would take for work for which it runs so long.
  Nanoseconds expected(Nanoseconds run) {
    move_to(1.0, 0.06);
    return static_cast<Nanoseconds>(factor_.load(std::memory_order_relaxed) * static_cast<double>(run));
  }

 private:
  void move_to(double factor, double share) {
    constexpr double kMost = 4.0;
    const double before = factor_.load(std::memory_order_relaxed);
    factor_.store(before + share * (std::min(factor, kMost) - before), std::memory_order_relaxed);
  }
  std::atomic<double> factor_{1.0};
};

// A call at work, on its caller's stack. Under the pool's mutex once others know of it.
struct Job {
  Task task, alone;
  void* context;
  int threads;
  FloatMode mode = FloatMode::current();
  bool open = true;      // to helpers
  int helpers = 0;       // that have come
  int inside = 0;        // of them, not yet gone
  Nanoseconds work = 0;  // for which threads ran and did not wait
  Nanoseconds began = 0, first_came = kNever;
  Job* next = nullptr;  // among the pool's
};

class Pool {
 public:
  void run(Job& job) {
    job.began = now();
    const OfferedThreads* const offer = offer_for(job.threads, job.began);
    if (offer != nullptr && offer_preferred_.load(std::memory_order_relaxed)) {
      run_with_offer(*offer, job);
    } else if (workers_.pays(job.began) && (job.alone == nullptr || has_worker_for(job))) {
      run_with_workers(job, offer != nullptr);
    } else {
      run_alone(job);
    }
  }

 private:
  struct Worker {
    std::atomic<std::uint32_t> calls{0};
    Worker* next = nullptr;  // among those that are idle, or are being called
  };

  // Each caller has threads of its own in another runtime, so that they come to a call that is alone only; and all of
  // them come, so that there must be processors for all.
  const OfferedThreads* offer_for(int threads, Nanoseconds at) const {
    const OfferedThreads* const offer = offered.load(std::memory_order_acquire);
    if (offer == nullptr || callers_.load(std::memory_order_relaxed) != 0 || !offers_.pays(at)) return nullptr;
    const int available = offer->available();
    return available >= threads && available <= std::max(threads, known_processors()) ? offer : nullptr;
  }

  void run_alone(Job& job) {
    callers_.fetch_add(1, std::memory_order_relaxed);
    Member caller;
    const Nanoseconds ran = time_of(job.alone == nullptr ? job.task : job.alone, job.context, caller);
    callers_.fetch_sub(1, std::memory_order_relaxed);
    stretch_.measured(ran, now() - job.began);
  }

  void run_with_workers(Job& job, bool offered) {
    // As many threads as there are processors, unless this call asks for more.
    const int most = std::max(job.threads, known_processors());
    Worker* called;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      most_ = most;
      callers_.fetch_add(1, std::memory_order_relaxed);
      wanted_ += job.threads - 1;
      job.next = jobs_;
      jobs_ = &job;
      called = idle_for(job.threads - 1);
    }
    wake(called);
    Member caller;
    const Nanoseconds ran = time_of(job.task, job.context, caller);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job.open = false;
      Job** link = &jobs_;
      while (*link != &job) link = &(*link)->next;
      *link = job.next;
      wanted_ -= job.threads - 1;
      callers_.fetch_sub(1, std::memory_order_relaxed);
      // The processor that this caller leaves may help another.
      called = jobs_ == nullptr ? nullptr : idle_for(1);
    }
    wake(called);
    await_departures(job);
    const Nanoseconds end = now();
    workers_.book(stretch_.expected(job.work + ran), end - job.began, end);
    if (offered && job.first_came - job.began > kLate && end - job.began > kLate) {
      offer_preferred_.store(true, std::memory_order_relaxed);
    }
  }

  void run_with_offer(const OfferedThreads& offer, Job& job) {
    struct Loop {
      Job& job;
      Member caller;
      const std::thread::id calling = std::this_thread::get_id();
      bool called = false;
      Nanoseconds ran = 0;
    } loop = {job, {}};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      callers_.fetch_add(1, std::memory_order_relaxed);
      loop.called = false;
    }
    offer.loop(
        job.threads,
        [](std::int64_t, std::int64_t, void* context) {
          // What comes from the caller is read after the mutex, which orders it after the caller's writes.
          Pool& pool = per_process<Pool>();
          std::unique_lock<std::mutex> lock(pool.mutex_);
          Loop& mine = *static_cast<Loop*>(context);
          if (mine.calling != std::this_thread::get_id()) {
            if (pool.enter(mine.job)) pool.help(mine.job, lock);
          } else if (!mine.called) {
            mine.called = true;
            lock.unlock();
            mine.ran = time_of(mine.job.task, mine.job.context, mine.caller);
            lock.lock();
            mine.job.open = false;
          }
        },
        &loop);
    if (!loop.called) loop.ran = time_of(job.task, job.context, loop.caller);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      callers_.fetch_sub(1, std::memory_order_relaxed);
    }
    const Nanoseconds end = now();
    offers_.book(stretch_.expected(job.work + loop.ran), end - job.began, end);
    if (job.first_came - job.began > kPrompt) offer_preferred_.store(false, std::memory_order_relaxed);
  }

  // The functions from here to enter() need the mutex.

  // Takes up to `count` of the idle workers out of their list, or makes some, as far as there are processors.
  Worker* idle_for(int count) {
    const int callers = callers_.load(std::memory_order_relaxed);
    count = std::min(count, most_ - callers - working_);
    Worker* taken = nullptr;
    for (; count > 0 && idle_ != nullptr; --count) {
      Worker* const worker = idle_;
      idle_ = worker->next;
      worker->next = taken;
      taken = worker;
    }
    // A worker that is neither idle nor at work is on its way.
    for (; count > 0 && workers_made_ < std::min(wanted_, most_ - callers); --count) {
      if (!make_worker()) break;
    }
    return taken;
  }

  bool make_worker() {
    // Signals are for the program's own threads; those that say what a thread did wrong are for the thread.
    sigset_t others, before;
    sigfillset(&others);
    for (const int own : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&others, own);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    bool made = true;
    try {
      std::thread([this] { work(); }).detach();
      ++workers_made_;
    } catch (const std::exception&) {
      // No thread or no memory for one. The call goes on without: others know of it already.
      made = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return made;
  }

  // Of the calls that would have another helper, that with the fewest; null where processors have other work.
  Job* next_job() {
    if (callers_.load(std::memory_order_relaxed) + working_ >= most_) return nullptr;
    Job* best = nullptr;
    for (Job* job = jobs_; job != nullptr; job = job->next) {
      if (job->helpers < job->threads - 1 && (best == nullptr || job->helpers < best->helpers)) best = job;
    }
    return best;
  }

  bool enter(Job& job) {
    if (!job.open || job.helpers == job.threads - 1) return false;
    if (job.helpers++ == 0) job.first_came = now();
    ++job.inside;
    return true;
  }

  // Once entered; gives the mutex away for the time.
  void help(Job& job, std::unique_lock<std::mutex>& lock) {
    Member member;
    member.index = job.helpers;
    lock.unlock();
    const FloatMode mine = FloatMode::current();
    if (mine != job.mode) job.mode.set();
    const Nanoseconds ran = time_of(job.task, job.context, member);
    if (mine != job.mode) mine.set();
    lock.lock();
    job.work += ran;
    --job.inside;
  }

  void work() {
#if defined(__linux__)
    // The thread that happened to make this one may keep to some of the processors; the process may not.
    cpu_set_t processors;
    if (sched_getaffinity(getpid(), sizeof(processors), &processors) == 0) {
      sched_setaffinity(0, sizeof(processors), &processors);
    }
#endif
    Worker me;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      if (Job* const job = next_job(); job != nullptr && enter(*job)) {
        ++working_;
        help(*job, lock);
        --working_;
        departures_.fetch_add(1, std::memory_order_release);
        departures_.notify_all();
        continue;
      }
      const std::uint32_t seen = me.calls.load(std::memory_order_relaxed);
      me.next = idle_;
      idle_ = &me;
      lock.unlock();
      const auto called = [&] { return me.calls.load(std::memory_order_acquire) != seen; };
      if (!spin_until(called)) me.calls.wait(seen, std::memory_order_acquire);
      lock.lock();
    }
  }

  // And these do without.

  bool has_worker_for(const Job& job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return idle_ != nullptr || workers_made_ < job.threads - 1;
  }

  // Runs a task and returns for how long the thread worked on it.
  static Nanoseconds time_of(Task task, void* context, Member& member) {
    const Nanoseconds began = processor_time();
    task(context, member);
    return processor_time() - began - member.spent;
  }

  static void wake(Worker* called) {
    while (called != nullptr) {
      Worker* const next = called->next;
      called->calls.fetch_add(1, std::memory_order_release);
      called->calls.notify_one();
      called = next;
    }
  }

  void await_departures(Job& job) {
    for (;;) {
      const std::uint32_t seen = departures_.load(std::memory_order_acquire);
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (job.inside == 0) return;
      }
      if (!spin_until([&] { return departures_.load(std::memory_order_acquire) != seen; })) departures_.wait(seen);
    }
  }

  std::mutex mutex_;
  Job* jobs_ = nullptr;
  Worker* idle_ = nullptr;
  int workers_made_ = 0, working_ = 0;
  int wanted_ = 0;  // helpers, by all calls
  int most_ = 0;    // threads at work, callers too
  std::atomic<int> callers_{0};
  std::atomic<std::uint32_t> departures_{0};
  Account workers_, offers_;
  Stretch stretch_;
  std::atomic<bool> offer_preferred_{true};

 public:
  static std::atomic<const OfferedThreads*> offered;
};

std::atomic<const OfferedThreads*> Pool::offered{nullptr};

}  // namespace

void Phases::end(std::uint32_t phase) {
  done_.store(0, std::memory_order_relaxed);
  state_.store(static_cast<std::uint64_t>(phase + 1) << kMostPieces, std::memory_order_release);
  ended_.fetch_add(1, std::memory_order_release);
  ended_.notify_all();
}

void Phases::sleep(std::uint32_t phase, Member& member) {
  const auto ended = [&] { return state_.load(std::memory_order_acquire) >> kMostPieces > phase; };
  const Nanoseconds began = now();
  const bool soon = spin_until(ended);
  member.spent += now() - began;
  if (soon) return;
  for (;;) {
    const std::uint32_t seen = ended_.load(std::memory_order_acquire);
    if (ended()) return;
    ended_.wait(seen, std::memory_order_acquire);
  }
}

void run_together(int threads, Task task, void* context, Task alone) {
  if (threads > 1) {
    Job job = {task, alone, context, threads};
    per_process<Pool>().run(job);
  } else {
    Member caller;
    (alone == nullptr ? task : alone)(context, caller);
  }
}

void offer_threads(const OfferedThreads& offer) { Pool::offered.store(&offer, std::memory_order_release); }

}  // namespace pnf
