#include "ops/api.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>

#include "kernels/cpu_features.h"
#include "kernels/dispatch.h"
#include "plan/cell/structure.h"
#include "plan/executor.h"
#include "plan/processors.h"

// Of the runtimes that torch brings; either may be missing. Both concern the calling thread, where at::set_num_threads
// changes what threads begin with everywhere.
extern "C" {
__attribute__((weak)) void omp_set_num_threads(int);
__attribute__((weak)) int MKL_Set_Num_Threads_Local(int);
}

namespace pnf::api {

std::string compiled_isa(bool half) { return half ? bf16_kernels().name : kernels().name; }

std::vector<Isa> isas(bool half) {
  std::vector<Isa> result;
  const auto add = [&](const auto& set) { result.push_back({set.name, set.available}); };
  if (half) {
    for (const Bf16KernelSet& set : compiled_bf16_kernels()) add(set);
  } else {
    for (const KernelSet& set : compiled_kernels()) add(set);
  }
  return result;
}

bool tiles_denied() { return cpu_features().tiles_denied; }

void force_isa(const std::string& name) { pnf::force_isa(name); }

Processors processors() { return {affinity_processors(), quota_processors(), usable_processors()}; }

void torch_on_this_thread_alone() {
  // Torch sets a thread's number when it is first used in it, and would set it again after us.
  torch::stable::get_num_threads();
  if (omp_set_num_threads != nullptr) omp_set_num_threads(1);
  if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(1);
}

std::vector<std::array<int, 3>> cell_sums(std::span<const std::vector<std::int64_t>> inputs,
                                          std::span<const std::vector<std::int64_t>> parameters,
                                          std::span<const std::int64_t> structure, std::span<const double> epsilon) {
  const Cell cell = read_cell(inputs, parameters, structure, epsilon);
  std::vector<std::array<int, 3>> sums;
  for (std::size_t i = cell.inputs; i < cell.states.size(); ++i) {
    const CellState& state = cell.states[i];
    sums.push_back({state.channels, state.height, state.width});
  }
  return sums;
}

std::vector<double> profile(std::span<const std::int32_t> program, std::span<const float> weights,
                            std::span<const std::uint8_t> pixels) {
  const ProgramInfo info = program_info(program);
  const std::size_t image = std::size_t{3} * info.height * info.width;
  if (pixels.empty() || pixels.size() % image != 0)
    throw std::invalid_argument("pixels hold no whole number of images");
  const Batch batch = {static_cast<std::int64_t>(pixels.size() / image), nullptr, pixels.data()};
  return PreparedProgram(program, weights).profile(batch);
}

void exponential(std::span<const float> x, std::span<float> out) {
  if (x.size() != out.size() || x.size() % kBlock != 0) throw std::invalid_argument("sizes must be multiples of 16");
  kernels().margin_exp(x.data(), static_cast<int>(x.size()), out.data());
}

double peak_gflops(bool half) {
  constexpr int kRuns = 20;
  constexpr long kIterations = 200000;
  double best = 0.0;
  for (int run = 0; run < kRuns; ++run) {
    alignas(64) float sink[kBlock];
    const auto start = std::chrono::steady_clock::now();
    const double products = (half ? bf16_kernels().probe_fma : kernels().probe_fma)(kIterations, sink);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2e-9 * products / seconds);
  }
  return best;
}

double read_gbs(std::size_t bytes) {
  constexpr int kRuns = 20;
  constexpr std::size_t kStep = 128, kReadPerRun = std::size_t{1} << 26;
  const std::vector<float> data(std::max(bytes / sizeof(float) / kStep, std::size_t{1}) * kStep);
  const std::size_t size = data.size() * sizeof(float), passes = std::max(kReadPerRun / size, std::size_t{1});
  double best = 0.0;
  for (int run = 0; run < kRuns; ++run) {
    alignas(64) float sink[kBlock];
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t pass = 0; pass < passes; ++pass) {
      kernels().probe_read(data.data(), static_cast<long>(data.size()), sink);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 1e-9 * static_cast<double>(size * passes) / seconds);
  }
  return best;
}

}  // namespace pnf::api

// A set is named in one of a few constant tables; each name is kept once.
const char* pnf_compiled_isa(int half) noexcept {
  try {
    static std::mutex mutex;
    static std::set<std::string> names;
    const std::lock_guard lock(mutex);
    return names.insert(pnf::api::compiled_isa(half != 0)).first->c_str();
  } catch (...) {
    return "";
  }
}
