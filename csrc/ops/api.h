// What libpnf_ops exports besides its registered operators. Each function may throw as the one it forwards to.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#define PNF_EXPORT __attribute__((visibility("default")))

namespace pnf::api {

struct Isa {
  std::string name;
  bool available;
};

// Of the kernels for floats, or of those for states of half precision.
PNF_EXPORT std::string compiled_isa(bool half);
PNF_EXPORT std::vector<Isa> isas(bool half);
// Whether the CPU has tile registers and the system refuses them.
PNF_EXPORT bool tiles_denied();
PNF_EXPORT void force_isa(const std::string& name);

// Processors in the calling thread's affinity mask and those that the control groups' quotas allow, 0 where there is no
// such limit, and how many a call uses at most.
struct Processors {
  int affinity, quota, usable;
};
PNF_EXPORT Processors processors();

// From now on, torch's operators that the calling thread calls run on it alone; no other thread is concerned.
PNF_EXPORT void torch_on_this_thread_alone();

// Channels, height and width of every sum of a cell that read_cell (plan/cell/structure.h) reads, and throws as it does.
PNF_EXPORT std::vector<std::array<int, 3>> cell_sums(std::span<const std::vector<std::int64_t>> inputs,
                                                     std::span<const std::vector<std::int64_t>> parameters,
                                                     std::span<const std::int64_t> structure,
                                                     std::span<const double> epsilon);

// Seconds per step over `images` images, uint8 [images][height][width][3].
PNF_EXPORT std::vector<double> profile(std::span<const std::int32_t> program, std::span<const float> weights,
                                       std::span<const std::uint8_t> pixels);

// exp(x) as the kernels compute it. The sizes are equal and a multiple of 16, or std::invalid_argument is thrown.
PNF_EXPORT void exponential(std::span<const float> x, std::span<float> out);

// Best of several short runs on the calling thread: multiply-adds from registers, of floats or of pairs of Bf16 where
// the set in use multiplies them; and reading of `bytes` again and again.
PNF_EXPORT double peak_gflops(bool half);
PNF_EXPORT double read_gbs(std::size_t bytes);

}  // namespace pnf::api

// The same as compiled_isa, for programs that load the library and link nothing of it; empty after an error. The text
// lives as long as the library.
extern "C" PNF_EXPORT const char* pnf_compiled_isa(int half) noexcept;
