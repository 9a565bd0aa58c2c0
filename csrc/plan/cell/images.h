// The images of a batch in runs that threads take as they come.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "plan/cell/memory.h"
#include "plan/cell/packed.h"
#include "plan/thread_pool.h"

namespace pnf::cell_training {

// The second pass over the images goes backwards: it starts with those whose data are still in the cache.
enum class Order { kForwards, kBackwards };

struct Visit {
  int image;
  int next;  // the image of the next one in this run, counted from this one; 0 in the last
  int thread;
  int run;
};

// Runs of images that threads take as they come: one for a thread alone, else a few for each, so that no thread waits
// long for another's last one.
inline int runs_of(int images, int threads) {
  constexpr int kRunsPerThread = 4, kLeastImages = 4;
  if (threads == 1) return 1;
  return std::min(images, std::max(threads, std::min(kRunsPerThread * threads, images / kLeastImages)));
}

// Calls body(visit) for every image. Both orders give a thread the same runs, but for those that others take.
template <typename Body>
void each_image(int images, int threads, Order order, Body& body) {
  struct Context {
    int images, runs;
    bool backwards;
    Body& body;
    Shares shares;
  };
  const int runs = runs_of(images, threads);
  Context context = {images, runs, order == Order::kBackwards, body, {runs, threads, order == Order::kBackwards}};
  run_together(
      threads,
      [](void* data, Member& member) noexcept {
        Context& c = *static_cast<Context*>(data);
        for (int run = c.shares.take(member.index); run >= 0; run = c.shares.take(member.index)) {
          const int begin = static_cast<int>(static_cast<std::ptrdiff_t>(c.images) * run / c.runs);
          const int end = static_cast<int>(static_cast<std::ptrdiff_t>(c.images) * (run + 1) / c.runs);
          for (int i = begin; i < end; ++i) {
            const int next = i + 1 == end ? 0 : c.backwards ? -1 : 1;
            c.body({c.backwards ? begin + end - 1 - i : i, next, member.index, run});
          }
        }
      },
      &context);
}

template <typename State>
void prepare_threads(const std::vector<Packed<State>>& packed, std::size_t residuals, int images, int threads,
                     TrainingMemory<State>& memory) {
  const auto runs = static_cast<std::size_t>(runs_of(images, threads));
  if (memory.sums.size() < runs) memory.sums.resize(runs);
  for (std::vector<Doubles>& sums : memory.sums) {
    if (sums.size() < packed.size()) sums.resize(packed.size());
  }
  if (memory.threads.size() < static_cast<std::size_t>(threads)) memory.threads.resize(threads);
  std::size_t scratch = 0, parts = 0, filtered = 0;
  for (const Packed<State>& p : packed) {
    scratch = std::max(scratch, cell_scratch(p.term()));
    parts = std::max(parts, static_cast<std::size_t>(p.operation().parts));
    filtered = std::max(filtered, p.filtered());
  }
  for (int t = 0; t < threads; ++t) {
    ThreadMemory<State>& mine = memory.threads[t];
    mine.scratch.reserve(scratch);
    mine.filtered.reserve(filtered);
    mine.inputs.resize(parts);
    mine.grad_inputs.resize(parts);
    mine.before.resize(parts);
    mine.terms.resize(packed.size());
    mine.residuals.resize(residuals);
  }
}

}  // namespace pnf::cell_training
