// The bands of a rolling group on one thread. A state that only the group touches needs no more of its memory than the rows
// that are still read: these lie in a window at the front of it, and are brought back there when the window is full. So the
// states of a band stay in the second-level cache, however large they are as a whole.
#pragma once
#include "plan/program.h"

namespace pnf {

class RollingGroup {
 public:
  RollingGroup(const Program& program, const Group& group);

  // Plans the next band; false when there is none.
  bool next();

  // The step that writes a buffer; -1: none.
  int find(int buffer) const;

  // Of the group's i-th step in this band: its rows [from, to).
  int from(int i) const { return steps_[i].done; }
  int to(int i) const { return steps_[i].planned; }
  void finish(int i) { steps_[i].done = steps_[i].planned; }

  // Rows of the i-th state's window, all of them where it has none.
  int window(int i) const { return steps_[i].window; }
  // The row at the front of the i-th state's memory.
  int first(int i) const { return steps_[i].first; }
  // How many rows behind the first one of the window are no longer read; they make way for this band's, if there is no room.
  int overdue(int i) const;
  void move(int i, int rows) { steps_[i].first += rows; }

 private:
  struct State {
    int done, planned, window, first;
  };

  // The first row of the i-th state that steps have still to read.
  int least_read(int i) const;
  int height(int i) const { return program_.buffers[program_.steps[group_.first_step + i].output].height; }
  void start();

  const Program& program_;
  const Group& group_;
  State steps_[kMaxRollingSteps];
};

}  // namespace pnf
