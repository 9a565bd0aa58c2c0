// Where the states of a program lie: those that are not needed at the same time share memory.
#pragma once
#include <cstdint>
#include <memory_resource>
#include <vector>

#include "plan/program.h"

namespace pnf {

// The first and the last group that touch a buffer; -1: none.
struct Life {
  int first = -1, last = -1;
};

// Of each buffer, in the memory of the program's buffers.
std::pmr::vector<Life> lives_of(const Program& program);

// Sets the offsets of the buffers in the arena, or in the band, that have so many floats each; returns the floats that hold
// them all. Throws std::invalid_argument when these are more than a program may have.
int place(std::pmr::vector<Buffer>& buffers, bool in_band, const std::pmr::vector<Life>& lives,
          const std::pmr::vector<std::int64_t>& floats);

// For a program that one thread runs: states that only a rolling group touches get no more of the arena than their windows.
void place_windows(Program& program);

}  // namespace pnf
