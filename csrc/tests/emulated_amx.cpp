// Linked into a test, this makes the kernels for tile registers available on any CPU with AVX512-BF16 on Linux: the CPU
// refuses their instructions, and the signal that follows carries them out in memory, as Intel's manual describes them
// (Software Developer's Manual, volume 2, "TILELOADD" and its neighbours). Denormals are not flushed. Without
// AVX512-BF16, and where there are tiles, the test is skipped.
//
// Of the other kernels only those for floats of AVX-512 and the scalar ones are available, since the same tests run the
// rest elsewhere.
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "kernels/cpu_features.h"

namespace pnf {

// In front of the library's own.
const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    CpuFeatures emulated;
    emulated.avx512 = emulated.amx_bf16 = true;
    return emulated;
  }();
  return features;
}

}  // namespace pnf

namespace {

constexpr int kTiles = 8, kRows = 16, kBytes = 64, kWords = kBytes / 4;
constexpr int kSkipped = 77;

struct Shapes {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(Shapes) == 64);

struct TileFile {
  Shapes shapes;
  std::uint32_t tile[kTiles][kRows][kWords];
};
thread_local TileFile registers;

[[noreturn]] void refuse(const char* why) {
  std::fprintf(stderr, "emulated tiles: %s\n", why);
  _exit(1);
}

void require(bool condition, const char* why) {
  if (!condition) refuse(why);
}

// What the instructions here have in common: VEX, map 0F38, and a ModRM byte with what it brings.
class Instruction {
 public:
  Instruction(const std::uint8_t* bytes, const greg_t* registers) : registers_(registers) {
    require(bytes[0] == 0xc4 && (bytes[1] & 0x1f) == 2 && (bytes[2] & 0x84) == 0, "not a tile instruction");
    const bool r = !(bytes[1] & 0x80), x = !(bytes[1] & 0x40), b = !(bytes[1] & 0x20);
    source2 = ~bytes[2] >> 3 & 15;
    prefix = bytes[2] & 3;
    opcode = bytes[3];
    const std::uint8_t modrm = bytes[4];
    const int mode = modrm >> 6;
    reg = (modrm >> 3 & 7) | (r ? 8 : 0);
    rm = (modrm & 7) | (b ? 8 : 0);
    const std::uint8_t* next = bytes + 5;
    in_memory = mode != 3;
    if (in_memory) {
      bool relative = false;
      if ((modrm & 7) == 4) {
        const std::uint8_t sib = *next++;
        const int index = (sib >> 3 & 7) | (x ? 8 : 0), scale = sib >> 6;
        if (index != 4) stride = value(index) << scale;
        if ((sib & 7) != 5 || mode != 0) base = value((sib & 7) | (b ? 8 : 0));
        if ((sib & 7) == 5 && mode == 0) next += read_displacement(next, 4);
      } else if ((modrm & 7) == 5 && mode == 0) {
        relative = true;
        next += read_displacement(next, 4);
      } else {
        base = value(rm);
      }
      if (mode == 1) next += read_displacement(next, 1);
      if (mode == 2) next += read_displacement(next, 4);
      if (relative) base += reinterpret_cast<std::intptr_t>(next);
    }
    length = static_cast<int>(next - bytes);
  }

  std::uint8_t* row(int index) const { return reinterpret_cast<std::uint8_t*>(base + index * stride); }

  int prefix, opcode, reg, rm, source2, length;
  bool in_memory;
  std::intptr_t base = 0, stride = 0;

 private:
  std::intptr_t value(int number) const {
    constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return registers_[kOrder[number]];
  }

  int read_displacement(const std::uint8_t* bytes, int size) {
    std::int32_t displacement = static_cast<std::int8_t>(*bytes);
    if (size == 4) std::memcpy(&displacement, bytes, 4);
    base += displacement;
    return size;
  }

  const greg_t* registers_;
};

void configure(const std::uint8_t* memory) {
  Shapes shapes;
  std::memcpy(&shapes, memory, sizeof(shapes));
  registers = {};
  if (shapes.palette == 0) return;
  require(shapes.palette == 1 && shapes.start_row == 0, "no such palette");
  for (int i = 0; i < 16; ++i) {
    require(shapes.rows[i] <= kRows && shapes.row_bytes[i] <= kBytes, "a tile is too large");
    require((shapes.rows[i] == 0) == (shapes.row_bytes[i] == 0), "a tile has rows or bytes only");
    require(i < kTiles || shapes.rows[i] == 0, "more tiles than there are");
  }
  registers.shapes = shapes;
}

int rows_of(int tile) {
  require(registers.shapes.palette == 1 && registers.shapes.rows[tile] > 0, "a tile is not configured");
  return registers.shapes.rows[tile];
}

void load(const Instruction& at) {
  std::memset(registers.tile[at.reg], 0, sizeof(registers.tile[at.reg]));
  for (int i = 0; i < rows_of(at.reg); ++i) {
    std::memcpy(registers.tile[at.reg][i], at.row(i), registers.shapes.row_bytes[at.reg]);
  }
}

void store(const Instruction& at) {
  for (int i = 0; i < rows_of(at.reg); ++i) {
    std::memcpy(at.row(i), registers.tile[at.reg][i], registers.shapes.row_bytes[at.reg]);
  }
}

float low(std::uint32_t word) { return std::bit_cast<float>(word << 16); }
float high(std::uint32_t word) { return std::bit_cast<float>(word & 0xffff0000u); }

void dot(int sums, int a, int b) {
  const Shapes& shapes = registers.shapes;
  const int rows = rows_of(sums), words = shapes.row_bytes[a] / 4, outputs = shapes.row_bytes[sums] / 4;
  require(rows_of(a) == rows && rows_of(b) == words && shapes.row_bytes[b] / 4 == outputs && sums != a && sums != b &&
              a != b,
          "the tiles of a product do not fit");
  for (int m = 0; m < rows; ++m) {
    float first[kWords] = {}, second[kWords] = {};
    for (int k = 0; k < words; ++k) {
      const std::uint32_t x = registers.tile[a][m][k];
      for (int n = 0; n < outputs; ++n) {
        const std::uint32_t w = registers.tile[b][k][n];
        first[n] += low(x) * low(w);
        second[n] += high(x) * high(w);
      }
    }
    for (int n = 0; n < outputs; ++n) {
      std::uint32_t& sum = registers.tile[sums][m][n];
      sum = std::bit_cast<std::uint32_t>(std::bit_cast<float>(sum) + (first[n] + second[n]));
    }
  }
}

void execute(const Instruction& at) {
  constexpr int kNone = 0, k66 = 1, kF3 = 2, kF2 = 3;
  if (at.opcode == 0x49 && at.in_memory && at.prefix == kNone) {
    configure(at.row(0) + at.stride);
  } else if (at.opcode == 0x49 && at.in_memory && at.prefix == k66) {
    std::memcpy(at.row(0) + at.stride, &registers.shapes, sizeof(Shapes));
  } else if (at.opcode == 0x49 && at.prefix == kNone) {
    registers = {};
  } else if (at.opcode == 0x4b && at.in_memory && at.prefix == kF2) {
    load(at);
  } else if (at.opcode == 0x4b && at.in_memory && at.prefix == kF3) {
    store(at);
  } else if (at.opcode == 0x5c && !at.in_memory && at.prefix == kF3) {
    dot(at.reg, at.rm, at.source2);
  } else {
    refuse("an instruction that is not emulated");
  }
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* const gregs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const Instruction instruction(reinterpret_cast<const std::uint8_t*>(gregs[REG_RIP]), gregs);
  execute(instruction);
  gregs[REG_RIP] += instruction.length;
}

__attribute__((constructor)) void install() {
  if (!__builtin_cpu_supports("avx512bf16")) {
    std::fprintf(stderr, "skipped: emulated tiles need a CPU with AVX512-BF16\n");
    _exit(kSkipped);
  }
  // Such a CPU configures its own tiles, without a signal; what the emulation is for it runs itself.
  if (__builtin_cpu_supports("amx-tile")) {
    std::fprintf(stderr, "skipped: this CPU has tiles\n");
    _exit(kSkipped);
  }
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace
