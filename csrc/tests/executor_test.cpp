// The executor: one result however the work is divided, from many callers at once, across fork(), and without
// allocation once warm.
#include "plan/executor.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

#include "check.h"
#include "failing_allocations.h"
#include "kernels/dispatch.h"
#include "program_builder.h"

#if defined(__SANITIZE_THREAD__)
#define PNF_TEST_TSAN 1
#else
#define PNF_TEST_TSAN 0
#endif

namespace pnf::test {
namespace {

constexpr int kHeight = 28, kWidth = 20, kEmbedding = 40, kImages = 7;
constexpr int kRefused = 3, kEnded = 4, kWrong = 5;  // exit statuses
constexpr std::size_t kPixels = std::size_t{3} * kHeight * kWidth;

const Encoded& network(bool half = false) {
  static const Encoded encoded = small_network(kHeight, kWidth, 1, kEmbedding, 1);
  static const Encoded halved = small_network(kHeight, kWidth, 1, kEmbedding, 1, true, true);
  return half ? halved : encoded;
}

struct Images {
  std::vector<float> planar;
  std::vector<std::uint8_t> interleaved;

  Batch batch(std::int64_t size, bool bytes) const {
    return {size, bytes ? nullptr : planar.data(), bytes ? interleaved.data() : nullptr};
  }
};

Images draw(std::uint32_t seed) {
  Random random(seed);
  Images images;
  images.planar = random.reals(kImages * kPixels, -1.0f, 1.0f);
  for (std::size_t i = 0; i < kImages * kPixels; ++i) images.interleaved.push_back(random.integer(0, 255));
  return images;
}

Images mirrored(const Images& images) {
  Images result = images;
  for (std::size_t i = 0; i < images.planar.size(); ++i) {
    const std::size_t x = i % kWidth;
    result.planar[i - x + kWidth - 1 - x] = images.planar[i];
    const std::size_t pixel = i / 3 % kWidth;
    result.interleaved[i - 3 * pixel + 3 * (kWidth - 1 - pixel)] = images.interleaved[i];
  }
  return result;
}

std::vector<float> embed(const Batch& batch, int threads, bool flip, const Encoded& encoded = network()) {
  std::vector<float> embedding(batch.size * kEmbedding);
  RunOptions options;
  options.threads = threads;
  options.flip = flip;
  execute(encoded.words, encoded.weights, batch, options, embedding.data());
  return embedding;
}

// Every image in a call of its own, on one thread.
std::vector<float> one_by_one(const Images& images, bool bytes, bool flip, const Encoded& encoded) {
  std::vector<float> result;
  for (int i = 0; i < kImages; ++i) {
    const Batch one = {1, bytes ? nullptr : images.planar.data() + i * kPixels,
                       bytes ? images.interleaved.data() + i * kPixels : nullptr};
    const std::vector<float> embedding = embed(one, 1, flip, encoded);
    result.insert(result.end(), embedding.begin(), embedding.end());
  }
  return result;
}

template <typename Set>
void division_of_work_leaves_the_result(const Set& set, const Encoded& encoded) {
  force_isa(set.name);
  const Images images = draw(1);
  Random random(10);
  for (const bool bytes : {false, true}) {
    for (const bool flip : {false, true}) {
      const std::vector<float> expected = one_by_one(images, bytes, flip, encoded);
      for (const float value : expected) CHECK(std::isfinite(value), "%s gives %g", set.name, value);
      for (const int threads : {1, 2, 3, 4, 40}) {
        for (std::int64_t size = 0; size <= kImages; ++size) {
          if (threads == 40 && size != 1 && size != kImages) continue;
          if (size != 0 && size != kImages && !random.chance(kOneCaseIn)) continue;
          Guarded embedding(size * kEmbedding, false);
          RunOptions options;
          options.threads = threads;
          options.flip = flip;
          execute(encoded.words, encoded.weights, images.batch(size, bytes), options, embedding.get());
          CHECK(embedding.guards_intact(), "%s writes outside %d embeddings", set.name, static_cast<int>(size));
          CHECK(same_bits(embedding.get(), expected.data(), embedding.size()),
                "%s: %d %s images%s on %d threads differ from one by one", set.name, static_cast<int>(size),
                bytes ? "uint8" : "float", flip ? ", flipped," : "", threads);
        }
      }
    }
  }
  force_isa("");
}

void groups_leave_the_result() {
  const Images images = draw(2);
  const Encoded plain = small_network(kHeight, kWidth, 1, kEmbedding, 1, false);
  CHECK(plain.weights == network().weights && plain.words != network().words, "the two programs should share weights");
  for (const int threads : {1, 3}) {
    const Batch batch = images.batch(4, true);
    const std::vector<float> grouped = embed(batch, threads, false);
    const std::vector<float> ungrouped = embed(batch, threads, false, plain);
    CHECK(same_bits(grouped.data(), ungrouped.data(), grouped.size()), "a band changes the result on %d threads",
          threads);
  }
}

void flip_adds_the_mirror_image() {
  const Images images = draw(3), mirror = mirrored(images);
  for (const bool bytes : {false, true}) {
    const std::vector<float> straight = embed(images.batch(kImages, bytes), 1, false);
    const std::vector<float> reversed = embed(mirror.batch(kImages, bytes), 1, false);
    const std::vector<float> both = embed(images.batch(kImages, bytes), 2, true);
    bool differ = false;
    for (std::size_t i = 0; i < both.size(); ++i) {
      CHECK(both[i] == straight[i] + reversed[i], "embedding value %zu: %.9g, not %.9g + %.9g", i, both[i], straight[i],
            reversed[i]);
      differ = differ || straight[i] != reversed[i];
    }
    CHECK(differ, "the mirror images should differ");
  }
}

void profile_covers_every_step() {
  const Images images = draw(4);
  const PreparedProgram prepared(network().words, network().weights);
  const std::vector<double> seconds = prepared.profile(images.batch(2, true));
  CHECK(seconds.size() == 12, "%zu steps", seconds.size());
  for (const double step : seconds) CHECK(step > 0.0, "a step takes %g s", step);
}

// A call that fails leaves the workspace it borrowed fit for the next.
void recovers_from_a_damaged_program() {
  const Images images = draw(5);
  const std::vector<float> expected = embed(images.batch(1, true), 1, false);
  Encoded damaged = network();
  damaged.words.pop_back();
  --damaged.words[kLengthWord];
  CHECK_THROWS(std::invalid_argument, embed(images.batch(1, true), 2, false, damaged), "a truncated program ran");
  const std::vector<float> after = embed(images.batch(1, true), 1, false);
  CHECK(same_bits(after.data(), expected.data(), expected.size()), "a failed call changes the next one");
}

void many_callers() {
  constexpr int kCallers = 8, kCalls = 12;
  const Images images = draw(6);
  const std::vector<float> expected = one_by_one(images, true, false, network());
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int call = 0; call < kCalls; ++call) {
        const int size = 1 + (caller + call) % 4;
        const std::vector<float> embedding = embed(images.batch(size, true), 1 + (caller * 3 + call) % 4, false);
        if (!same_bits(embedding.data(), expected.data(), embedding.size())) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, "%d of %d concurrent calls are wrong", wrong.load(), kCallers * kCalls);
}

// Children run calls on threads of their own, forked from an idle process and from one whose other threads are inside
// calls.
void works_after_fork() {
  const Images images = draw(7);
  const Batch batch = images.batch(3, true);
  const std::vector<float> expected = embed(batch, 1, false);
  embed(batch, 3, false);
  const auto fork_children = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const pid_t child = fork();
      if (child == 0) {
        alarm(10);
        bool right = true;
        for (int call = 0; call < 2; ++call) {
          const std::vector<float> embedding = embed(batch, 3, false);
          right = right && same_bits(embedding.data(), expected.data(), expected.size());
        }
        _exit(right ? 0 : 1);
      }
      int status = 0;
      waitpid(child, &status, 0);
      CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d %s %d", i,
            WIFSIGNALED(status) ? "was ended by signal" : "returned",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
  };
  fork_children(2);
  // One inside the pool's work; one that mostly borrows and returns its workspace.
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (const std::int64_t size : {3, 0}) {
    busy.emplace_back([&, size] {
      while (!stop) embed(images.batch(size, true), 2, false);
    });
  }
  fork_children(152 / kOneCaseIn);
  stop = true;
  for (std::thread& thread : busy) thread.join();
}

#if defined(__linux__)
// In a PID namespace of its own the first process has number 1, and so has the first of a namespace inside that one.
void works_in_a_child_with_its_parents_number() {
  const Images images = draw(9);
  const Batch batch = images.batch(3, true);
  const std::vector<float> expected = embed(batch, 1, false);
  const auto right = [&] {
    const std::vector<float> embedding = embed(batch, 3, false);
    return same_bits(embedding.data(), expected.data(), expected.size());
  };
  const auto status_of = [](pid_t child) {
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : kEnded;
  };
  const pid_t outside = fork();
  if (outside == 0) {
    alarm(20);
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) _exit(kRefused);
    const pid_t parent = fork();
    if (parent < 0) _exit(kRefused);
    if (parent == 0) {
      if (!right() || getpid() != 1 || unshare(CLONE_NEWPID) != 0) _exit(kRefused);
      const pid_t child = fork();
      if (child == 0) {
        // An alarm is nothing to the first process of a namespace unless it says what to do.
        signal(SIGALRM, [](int) { _exit(kEnded); });
        alarm(10);
        _exit(getpid() == 1 && right() ? 0 : kWrong);
      }
      _exit(child < 0 ? kRefused : status_of(child));
    }
    _exit(status_of(parent));
  }
  const int status = status_of(outside);
  if (status == kRefused) {
    std::fprintf(stderr, "no PID namespaces here; process_test checks what they need\n");
    return;
  }
  CHECK(status == 0, "a child with its parent's number %s", status == kEnded ? "hangs" : "computes something else");
}
#endif

void warm_calls_allocate_nothing() {
  const Images images = draw(8);
  std::vector<float> embedding(kImages * kEmbedding);
  const auto calls = [&] {
    for (const int threads : {1, 2, 4}) {
      for (const bool bytes : {false, true}) {
        for (const bool flip : {false, true}) {
          RunOptions options;
          options.threads = threads;
          options.flip = flip;
          execute(network().words, network().weights, images.batch(kImages, bytes), options, embedding.data());
        }
      }
    }
  };
  const long before = allocations();
  void* volatile seen = std::aligned_alloc(64, 64);
  std::free(seen);
  seen = std::make_unique<int>(1).release();
  ::operator delete(seen);
  CHECK(allocations() - before >= 2, "allocations are not counted");
  // Threads are made when they are first worth their while, which on a busy machine is not at once.
  constexpr int kRounds = 5, kMostRounds = 2000;
  int quiet = 0;
  for (int round = 0; quiet < kRounds && round < kMostRounds; ++round) {
    const long warm = allocations();
    calls();
    quiet = allocations() == warm ? quiet + 1 : 0;
  }
  CHECK(quiet == kRounds, "of %d rounds of calls, no %d in a row make no allocation", kMostRounds, kRounds);
}

// A program of one node, with a state of 4 MiB times `units` besides that no step uses.
Encoded program_of(int units) {
  ProgramBuilder b(8, 8, 16, 1);
  const int stem = b.arena(1, 4, 4), state = b.arena(1, 4, 4), vector = b.arena(1, 1, 1);
  if (units > 0) b.arena(units, 256, 256);
  b.stem(stem);
  b.node(state, {{TermKind::kPointwise, stem}});
  b.global_depthwise(state, vector);
  b.linear(vector);
  return b.finish();
}

std::vector<float> run_once(const Encoded& encoded, int threads) {
  const std::vector<std::uint8_t> pixels(std::size_t{3} * encoded.height * encoded.width, 7);
  std::vector<float> embedding(encoded.embedding);
  RunOptions options;
  options.threads = threads;
  execute(encoded.words, encoded.weights, {1, nullptr, pixels.data()}, options, embedding.data());
  return embedding;
}

// What calls keep: all that the next one needs, little of a burst, nothing after trimming.
void keeps_little_memory() {
  clear_shelves();
  CHECK(clear_shelves() == 0, "trimming leaves something");
  const Encoded wide = program_of(5);
  Program program;
  decode(wide.words, wide.weights.size(), program);
  const std::size_t lane = program.lane_bytes();
  CHECK(lane > kKeptBytes / 4 && lane < kKeptBytes / 2, "the program needs %zu bytes", lane);
  const std::vector<float> expected = run_once(wide, 1);
  std::vector<std::thread> burst;
  std::atomic<int> wrong{0}, waiting{8};
  for (int i = 0; i < 8; ++i) {
    burst.emplace_back([&] {
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      if (run_once(wide, 1) != expected) ++wrong;
    });
  }
  for (std::thread& thread : burst) thread.join();
  CHECK(wrong == 0, "%d of 8 calls at once are wrong", wrong.load());
  const std::size_t kept = clear_shelves();
  CHECK(kept >= lane && kept <= kKeptBytes, "%zu bytes wait after a burst", kept);
  CHECK(run_once(wide, 1) == expected, "a call after trimming differs");

  // One call may take more than may wait, and keeps it while it is needed.
  const Encoded large = program_of(45);
  run_once(large, 1);
  run_once(program_of(0), 1);
  CHECK(clear_shelves() > kKeptBytes, "the largest call keeps nothing");
  run_once(large, 1);
  for (int i = 0; i < 200; ++i) run_once(program_of(0), 1);
  CHECK(clear_shelves() < kKeptBytes, "what a large call took is kept by small ones");
}

// A call takes no more threads than fit into the limit of its memory; the result is the same.
void threads_fit_into_the_limit() {
  clear_shelves();
  const Encoded large = program_of(45);
  Program program;
  decode(large.words, large.weights.size(), program);
  CHECK(program.lane_bytes() * 3 > kMaxCallBytes && program.lane_bytes() < kMaxCallBytes, "the program needs %zu bytes",
        program.lane_bytes());
  const std::vector<std::uint8_t> pixels(std::size_t{3} * 3 * large.height * large.width, 7);
  std::vector<float> embedding(3 * large.embedding);
  RunOptions options;
  options.threads = 3;
  execute(large.words, large.weights, {3, nullptr, pixels.data()}, options, embedding.data());
  const std::vector<float> expected = run_once(large, 1);
  for (int i = 0; i < 3; ++i) {
    CHECK(same_bits(embedding.data() + i * large.embedding, expected.data(), expected.size()), "image %d differs", i);
  }
  const std::size_t kept = clear_shelves();
  CHECK(kept <= kMaxCallBytes, "a call took %zu bytes", kept);
}

// An allocation that fails, whichever it is, ends the call and nothing else: the next one gives the same bits.
void survives_failing_allocations(int threads, bool half) {
  const Images images = draw(12);
  const Batch batch = images.batch(kImages, true);
  const std::vector<float> expected = embed(batch, threads, true, network(half));
  bool all_allowed = false;
  int failed = 0;
  for (long n = 1; !all_allowed; ++n) {
    clear_shelves();
    fail_allocation(n, Failing::kOne);
    bool threw = false;
    try {
      const std::vector<float> found = embed(batch, threads, true, network(half));
      CHECK(same_bits(found.data(), expected.data(), expected.size()), "allocation %ld failed in silence", n);
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    all_allowed = !allow_allocations();
    CHECK(!threw || !all_allowed, "std::bad_alloc, and no allocation failed");
    failed += threw;
    const std::vector<float> again = embed(batch, threads, true, network(half));
    CHECK(same_bits(again.data(), expected.data(), expected.size()), "wrong after allocation %ld has failed", n);
  }
  CHECK(failed >= 5, "%d allocations failed", failed);
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  for (const pnf::KernelSet& set : pnf::compiled_kernels()) {
    if (is_tested(set)) division_of_work_leaves_the_result(set, network());
  }
  for (const pnf::Bf16KernelSet& set : pnf::compiled_bf16_kernels()) {
    if (is_tested(set)) division_of_work_leaves_the_result(set, network(true));
  }
  groups_leave_the_result();
  flip_adds_the_mirror_image();
  profile_covers_every_step();
  recovers_from_a_damaged_program();
  many_callers();
  keeps_little_memory();
  threads_fit_into_the_limit();
  warm_calls_allocate_nothing();
  for (const int threads : {1, 2}) {
    for (const bool half : {false, true}) survives_failing_allocations(threads, half);
  }
  // ThreadSanitizer does not follow a child that a threaded process forks.
  if (!PNF_TEST_TSAN) {
    works_after_fork();
#if defined(__linux__)
    works_in_a_child_with_its_parents_number();
#endif
  }
  return check::result();
}
