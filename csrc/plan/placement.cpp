#include "plan/placement.h"

#include <algorithm>
#include <stdexcept>

#include "plan/rolling.h"
#include "plan/sort_stably.h"

namespace pnf {

std::pmr::vector<Life> lives_of(const Program& program) {
  std::pmr::vector<Life> lives(program.buffers.size(), program.buffers.get_allocator());
  const auto touch = [&lives](int buffer, int time) {
    if (buffer < 0) return;
    Life& life = lives[buffer];
    if (life.first < 0) life.first = time;
    life.last = time;
  };
  for (int time = 0; time < static_cast<int>(program.groups.size()); ++time) {
    const Group& group = program.groups[time];
    for (int i = group.first_step; i < group.first_step + group.steps; ++i) {
      const Step& step = program.steps[i];
      touch(step.output, time);
      touch(step.input, time);
      for (int t = 0; t < step.terms; ++t) touch(program.terms[step.first_term + t].input, time);
    }
  }
  return lives;
}

// Large buffers first, each at the lowest offset that is free during its whole life.
int place(std::pmr::vector<Buffer>& buffers, bool in_band, const std::pmr::vector<Life>& lives,
          const std::pmr::vector<std::int64_t>& floats) {
  std::pmr::vector<int> order(buffers.get_allocator()), placed(buffers.get_allocator());
  for (int i = 0; i < static_cast<int>(buffers.size()); ++i) {
    if (buffers[i].in_band == in_band) order.push_back(i);
  }
  sort_stably(order, [&](int a, int b) { return floats[a] > floats[b]; });
  std::int64_t all = 0;
  for (const int index : order) {
    std::int64_t offset = 0;
    for (const int other : placed) {
      if (lives[other].first > lives[index].last || lives[index].first > lives[other].last) continue;
      if (offset + floats[index] <= buffers[other].offset) break;
      offset = std::max(offset, buffers[other].offset + floats[other]);
    }
    const std::int64_t end = offset + floats[index];
    if (end > kMaxFloats) {
      throw std::invalid_argument("so large an image needs more working memory than a call may take");
    }
    buffers[index].offset = static_cast<int>(offset);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), index,
                                   [&buffers](int a, int b) { return buffers[a].offset < buffers[b].offset; }),
                  index);
    all = std::max(all, end);
  }
  return static_cast<int>(all);
}

void place_windows(Program& program) {
  std::pmr::vector<std::int64_t> floats(program.buffers.get_allocator().resource());
  floats.reserve(program.buffers.size());
  const auto floats_of = [](const Buffer& b, int rows) { return std::int64_t{b.blocks} * rows * b.width * kBlock; };
  for (const Buffer& b : program.buffers) floats.push_back(floats_of(b, b.rows));
  for (const Group& group : program.groups) {
    if (!group.rolling) continue;
    const RollingGroup rolling(program, group);
    for (int i = 0; i < group.steps; ++i) {
      const int output = program.steps[group.first_step + i].output;
      floats[output] = floats_of(program.buffers[output], rolling.window(i));
    }
  }
  program.arena_floats = place(program.buffers, false, lives_of(program), floats);
}

}  // namespace pnf
