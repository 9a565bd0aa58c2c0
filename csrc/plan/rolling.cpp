#include "plan/rolling.h"

#include <algorithm>

namespace pnf {
namespace {

// Rows are moved once in so many bands: each move costs as much as reading and writing them, and the room for it cache.
constexpr int kBandsOfWindow = 2;

}  // namespace

RollingGroup::RollingGroup(const Program& program, const Group& group) : program_(program), group_(group) {
  for (int i = 0; i < group.steps; ++i) steps_[i].window = height(i);
  start();
  int most[kMaxRollingSteps] = {}, band[kMaxRollingSteps] = {};
  while (next()) {
    for (int i = 0; i < group.steps; ++i) {
      most[i] = std::max(most[i], to(i) - least_read(i));
      band[i] = std::max(band[i], to(i) - from(i));
      finish(i);
    }
  }
  for (int i = 0; i < group.steps; ++i) {
    if (!program.steps[group.first_step + i].passing) continue;
    steps_[i].window = std::min(most[i] + (kBandsOfWindow - 1) * band[i], height(i));
  }
  start();
}

void RollingGroup::start() {
  for (int i = 0; i < group_.steps; ++i) steps_[i].done = steps_[i].planned = steps_[i].first = 0;
}

bool RollingGroup::next() {
  const int last = group_.steps - 1;
  if (steps_[last].done == group_.height) return false;
  const int end = std::min(steps_[last].done + group_.rows, group_.height);
  for (int i = 0; i < last; ++i) steps_[i].planned = end == group_.height ? height(i) : steps_[i].done;
  steps_[last].planned = end;
  for (int i = last; i > 0; --i) {
    const Step& step = program_.steps[group_.first_step + i];
    for (int t = 0; t < step.terms; ++t) {
      const ProgramTerm& term = program_.terms[step.first_term + t];
      for (int j = 0; j < i; ++j) {
        if (program_.steps[group_.first_step + j].output != term.input) continue;
        steps_[j].planned = std::max(steps_[j].planned, rows_needed(term, height(j), steps_[i].planned));
      }
    }
  }
  return true;
}

int RollingGroup::find(int buffer) const {
  for (int i = 0; i < group_.steps; ++i) {
    if (program_.steps[group_.first_step + i].output == buffer) return i;
  }
  return -1;
}

int RollingGroup::least_read(int i) const {
  const int output = program_.steps[group_.first_step + i].output;
  int least = steps_[i].done;
  for (int j = i + 1; j < group_.steps; ++j) {
    if (steps_[j].done == height(j)) continue;
    const Step& step = program_.steps[group_.first_step + j];
    for (int t = 0; t < step.terms; ++t) {
      const ProgramTerm& term = program_.terms[step.first_term + t];
      if (term.input == output) least = std::min(least, rows_passed(term, steps_[j].done));
    }
  }
  return least;
}

int RollingGroup::overdue(int i) const {
  return steps_[i].planned - steps_[i].first <= steps_[i].window ? 0 : least_read(i) - steps_[i].first;
}

}  // namespace pnf
