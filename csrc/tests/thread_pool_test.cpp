// Threads at work together: all of the work done once, whoever comes; nobody waited for who does not come; only those
// woken that work; workers that keep nothing of the thread that made them.
#include "plan/thread_pool.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "failing_allocations.h"

namespace pnf::test {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// Runs task(member) on up to `threads` threads.
template <typename Body>
void together(int threads, Body body) {
  run_together(threads, [](void* context, Member& member) noexcept { (*static_cast<Body*>(context))(member); }, &body);
}

// Calls without helpers, which stay away while they cost more than they bring, end sometime.
template <typename Condition>
bool comes_true(const Condition& condition) {
  const Clock::time_point begin = Clock::now();
  while (milliseconds_since(begin) < 20000) {
    if (condition()) return true;
  }
  return false;
}

// The first call of all, which makes the pool and its workers: without memory for the pool it does nothing, and without
// memory for a worker it works alone. Later ones know nothing of it.
void calls_survive_failing_allocations() {
  constexpr int kPieces = 64, kMost = 20;
  bool failed = true;
  for (long n = 1; failed && n <= kMost; ++n) {
    std::atomic<int> done{0};
    bool threw = false;
    fail_allocation(n, Failing::kOne);
    try {
      std::atomic<int> next{0};
      together(4, [&](Member&) {
        while (next++ < kPieces) ++done;
      });
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    failed = allow_allocations();
    CHECK(done == (threw ? 0 : kPieces), "%d pieces after allocation %ld has failed", done.load(), n);
    CHECK(!threw || n == 1, "allocation %ld of a pool that is there ended a call", n);
    CHECK(failed || n > 2, "no memory is taken for a pool and its workers");
  }
  CHECK(!failed, "allocations do not end");
}

// Each piece of each phase once, after all of the phase before; members with numbers of their own.
void phases_are_done_in_order() {
  constexpr int kPhases = 200;
  for (const int threads : {1, 2, 3, 8}) {
    Phases phases;
    std::vector<std::vector<int>> done(kPhases);
    for (int phase = 0; phase < kPhases; ++phase) done[phase].assign(1 + phase % Phases::kMostPieces, 0);
    std::atomic<int> early{0}, members{0};
    std::atomic<std::uint32_t> indices{0};
    together(threads, [&](Member& member) {
      ++members;
      if ((indices.fetch_or(1u << member.index) >> member.index & 1) != 0 || member.index >= threads) ++early;
      for (int phase = 0; phase < kPhases; ++phase) {
        const int pieces = static_cast<int>(done[phase].size()), home = member.index * pieces / threads;
        for (int piece = phases.take(phase, pieces, home); piece >= 0; piece = phases.take(phase, pieces, home)) {
          if (phase > 0 && std::ranges::count(done[phase - 1], 1) != std::ssize(done[phase - 1])) ++early;
          ++done[phase][piece];  // no other thread's
          phases.finish(phase, pieces);
        }
        phases.await_end(phase, member);
      }
    });
    CHECK(early == 0, "%d pieces too early, or members of one number, on %d threads", early.load(), threads);
    CHECK(members >= 1 && members <= threads, "%d members of %d", members.load(), threads);
    for (const std::vector<int>& phase : done) {
      CHECK(std::ranges::count(phase, 1) == std::ssize(phase), "a piece is done twice or never on %d threads", threads);
    }
  }
}

// From home on, then from the first.
void pieces_near_home_come_first() {
  Phases phases;
  std::vector<int> order;
  for (int piece = phases.take(0, 5, 3); piece >= 0; piece = phases.take(0, 5, 3)) order.push_back(piece);
  CHECK((order == std::vector<int>{3, 4, 0, 1, 2}), "taken in another order");
  CHECK(phases.take(1, 5, 0) == -1, "a phase begins before the end of the one before");
  for (int piece = 0; piece < 5; ++piece) phases.finish(0, 5);
  CHECK(phases.take(0, 5, 0) == -1 && phases.take(1, 5, 0) == 0, "a phase does not end with its last piece");
}

void shares_are_taken_whole() {
  for (const bool backwards : {false, true}) {
    for (const int pieces : {0, 1, 7, 100}) {
      Shares shares(pieces, 3, backwards);
      std::vector<int> order, sorted;
      for (int piece = shares.take(1); piece >= 0; piece = shares.take(1)) order.push_back(piece);
      sorted = order;
      std::ranges::sort(sorted);
      bool whole = std::ssize(sorted) == pieces;
      for (int i = 0; whole && i < pieces; ++i) whole = sorted[i] == i;
      CHECK(whole, "%d pieces are not taken once each", pieces);
      if (pieces == 100) {
        const int first = backwards ? 65 : 33, second = backwards ? 64 : 34;
        CHECK(order[0] == first && order[1] == second, "the own share begins with %d, %d", order[0], order[1]);
      }
    }
  }
}

// Helpers come, sooner or later, to calls that take long enough.
bool has_helper(int threads) {
  std::atomic<int> members{0};
  together(threads, [&](Member&) {
    ++members;
    const Clock::time_point begin = Clock::now();
    while (members < 2 && milliseconds_since(begin) < 20) std::this_thread::yield();
  });
  return members >= 2;
}

void helpers_come() {
  CHECK(comes_true([] { return has_helper(2); }), "no helper ever comes");
}

#if defined(__linux__)
cpu_set_t first_processor() {
  cpu_set_t all, one;
  sched_getaffinity(0, sizeof(all), &all);
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
  }
  return one;
}

// Callers that may use one processor, and ask for two threads, have one worker between them. While it is in the hands of
// one, the other does all of its work itself, as fast as alone.
void a_helper_that_stays_away_is_not_awaited() {
  const cpu_set_t one = first_processor();
  std::atomic<bool> holding{false}, release{false};
  std::thread holder([&] {
    sched_setaffinity(0, sizeof(one), &one);
    while (!holding) {
      together(2, [&](Member& member) {
        if (member.index != 0) holding = true;
        const Clock::time_point begin = Clock::now();
        while (!holding && milliseconds_since(begin) < 20) std::this_thread::yield();
        while (holding && !release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    }
  });
  while (!holding) std::this_thread::yield();
  std::thread other([&] {
    sched_setaffinity(0, sizeof(one), &one);
    constexpr int kCalls = 100, kPhases = 10;
    std::atomic<int> pieces{0}, helped{0};
    const Clock::time_point begin = Clock::now();
    for (int call = 0; call < kCalls; ++call) {
      Phases phases;
      together(2, [&](Member& member) {
        helped += member.index;
        for (int phase = 0; phase < kPhases; ++phase) {
          for (int piece = phases.take(phase, 2, member.index); piece >= 0;
               piece = phases.take(phase, 2, member.index)) {
            ++pieces;
            phases.finish(phase, 2);
          }
          phases.await_end(phase, member);
        }
      });
    }
    CHECK(pieces == kCalls * kPhases * 2, "%d pieces are done", pieces.load());
    CHECK(helped == 0, "a third thread works on one processor");
    CHECK(milliseconds_since(begin) < 2000, "%d calls without a helper take %g ms", kCalls, milliseconds_since(begin));
  });
  other.join();
  release = true;
  holder.join();
}
#endif

int own_threads() {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}));
}

// Calls of the process's threads that gave the processor up because they waited.
std::vector<long> waits_of_threads() {
  std::vector<long> waits;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::FILE* const file = std::fopen((entry.path() / "status").c_str(), "r");
    char line[256];
    long count = -1;
    while (file != nullptr && std::fgets(line, sizeof(line), file) != nullptr) {
      std::sscanf(line, "voluntary_ctxt_switches: %ld", &count);
    }
    if (file != nullptr) std::fclose(file);
    waits.push_back(count);
  }
  return waits;
}

// After a call of many threads, one of two wakes one of them.
void only_who_works_is_woken() {
  constexpr int kMany = 24, kCalls = 60;
  const auto made_all = [] {
    together(kMany, [](Member&) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
    return own_threads() >= kMany;
  };
  CHECK(comes_true(made_all), "%d threads after calls of %d", own_threads(), kMany);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // all sleep
  const std::vector<long> before = waits_of_threads();
  for (int call = 0; call < kCalls; ++call) {
    has_helper(2);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::vector<long> after = waits_of_threads();
  int woken = 0;
  for (std::size_t i = 0; i < std::min(before.size(), after.size()); ++i) woken += after[i] > before[i] + kCalls / 10;
  CHECK(woken <= 3, "%d threads woke for calls of two", woken);
}

// Every member rounds as the caller does, who changes it between calls; a worker's own mode is as it was.
void members_round_as_the_caller() {
  const volatile float one = 1.0f, three = 3.0f;
  for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD}) {
    std::fesetround(mode);
    const float expected = one / three;
    std::atomic<int> helpers{0}, wrong{0};
    comes_true([&] {
      together(2, [&](Member& member) {
        if (one / three != expected) ++wrong;
        helpers += member.index;
        const Clock::time_point begin = Clock::now();
        while (helpers == 0 && milliseconds_since(begin) < 20) std::this_thread::yield();
      });
      return helpers > 0;
    });
    std::fesetround(FE_TONEAREST);
    CHECK(helpers > 0, "no helper came");
    CHECK(wrong == 0, "%d members round otherwise", wrong.load());
  }
}

#if defined(__linux__)
// Workers run where the process may, and take none of its signals, whoever made them.
void workers_keep_nothing_of_their_maker() {
  cpu_set_t whole;
  sched_getaffinity(0, sizeof(whole), &whole);
  const cpu_set_t part = first_processor();
  std::mutex mutex;
  std::set<pid_t> checked;
  std::atomic<int> wrong{0}, open{0};
  const int threads = own_threads() + 4;  // more than have been made
  std::thread maker([&] {
    sched_setaffinity(0, sizeof(part), &part);
    comes_true([&] {
      together(threads, [&](Member& member) {
        cpu_set_t mine;
        sigset_t blocked;
        sched_getaffinity(0, sizeof(mine), &mine);
        pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
        if (member.index > 0) {
          const std::lock_guard<std::mutex> lock(mutex);
          checked.insert(static_cast<pid_t>(syscall(SYS_gettid)));
          if (!CPU_EQUAL(&mine, &whole)) ++wrong;
          if (sigismember(&blocked, SIGINT) == 0 || sigismember(&blocked, SIGSEGV) == 1) ++open;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      });
      const std::lock_guard<std::mutex> lock(mutex);
      return std::ssize(checked) >= threads - 1;
    });
  });
  maker.join();
  CHECK(std::ssize(checked) >= threads - 1, "%zd workers came, not %d", std::ssize(checked), threads - 1);
  CHECK(wrong == 0, "%d times a worker keeps to the processors of the thread that made it", wrong.load());
  CHECK(open == 0, "%d times a worker takes signals", open.load());
}
#endif

// Workers that become free go to calls that have none yet, and nobody is left out for good.
void callers_share_the_workers() {
  constexpr int kCallers = 4, kPieces = 64, kThreads = 12;
  std::atomic<int> wrong{0}, left_out{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&] {
      std::atomic<int> helped{0};
      const bool had_helpers = comes_true([&] {
        std::vector<int> done(kPieces, 0);
        Shares shares(kPieces, kThreads, false);
        together(kThreads, [&](Member& member) {
          for (int piece = shares.take(member.index); piece >= 0; piece = shares.take(member.index)) {
            ++done[piece];
            helped += member.index > 0;
            const Clock::time_point begin = Clock::now();
            while (milliseconds_since(begin) < 0.02) {
            }
          }
        });
        if (std::ranges::count(done, 1) != kPieces) ++wrong;
        return helped > 0;
      });
      if (!had_helpers) ++left_out;
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, "%d calls did a piece twice or never", wrong.load());
  CHECK(left_out == 0, "%d callers never had a helper", left_out.load());
}

// Threads of another runtime, as a test has them.
struct Offered {
  static inline std::atomic<int> available{0}, loops{0}, milliseconds_late{0};
  static inline std::atomic<bool> serial{false};

  static int count() noexcept { return available; }
  static void loop(int count, void (*body)(std::int64_t, std::int64_t, void*), void* context) noexcept {
    ++loops;
    if (serial) {  // as a loop inside a loop is
      body(0, count, context);
      return;
    }
    std::vector<std::thread> threads;
    for (int i = 1; i < count; ++i) {
      threads.emplace_back([=] {
        std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds_late));
        body(i, i + 1, context);
      });
    }
    body(0, 1, context);
    for (std::thread& thread : threads) thread.join();
  }
};

// A call whose caller waits up to some milliseconds for a helper; whether it was made by the other runtime's threads.
bool takes_the_offer(int milliseconds) {
  const int before = Offered::loops;
  std::atomic<int> members{0}, wrong{0};
  together(2, [&](Member& member) {
    ++members;
    if (member.index > 1) ++wrong;
    const Clock::time_point begin = Clock::now();
    while (members < 2 && milliseconds_since(begin) < milliseconds) {
    }
  });
  CHECK(wrong == 0 && members >= 1 && members <= 2, "%d members", members.load());
  return Offered::loops > before;
}

#if defined(__linux__)
void pin_all_threads(const cpu_set_t& to) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    sched_setaffinity(std::stoi(entry.path().filename()), sizeof(to), &to);
  }
}

// Another runtime's threads are taken at first, not again when they were late, and again when workers are late: on a
// processor that their caller does not leave, they are.
void late_threads_are_not_taken_again() {
  static const OfferedThreads offer = {Offered::count, Offered::loop};
  offer_threads(offer);
  CHECK(!takes_the_offer(1), "an offer of no threads is taken");
  Offered::available = 2;
  Offered::milliseconds_late = 5;
  CHECK(takes_the_offer(1), "an offer is not taken");
  CHECK(!takes_the_offer(1), "threads that were late are taken again");
  cpu_set_t all;
  sched_getaffinity(0, sizeof(all), &all);
  pin_all_threads(first_processor());
  // Whether the scheduler makes workers late there is its own affair, and where it does not there is nothing to judge.
  if (comes_true([] { return takes_the_offer(2); })) {
    Offered::serial = true;
    if (comes_true([] { return takes_the_offer(2); })) {
      CHECK(!takes_the_offer(1), "threads that did not come are taken again");
    }
  }
  pin_all_threads(all);
  Offered::available = 0;
}
#endif

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  calls_survive_failing_allocations();
  phases_are_done_in_order();
  pieces_near_home_come_first();
  shares_are_taken_whole();
  helpers_come();
#if defined(__linux__)
  a_helper_that_stays_away_is_not_awaited();
  only_who_works_is_woken();
#endif
  members_round_as_the_caller();
#if defined(__linux__)
  workers_keep_nothing_of_their_maker();
#endif
  callers_share_the_workers();
#if defined(__linux__)
  late_threads_are_not_taken_again();
#endif
  return check::result();
}
