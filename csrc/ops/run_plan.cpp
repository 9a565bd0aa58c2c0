#include "ops/run_plan.h"

#include <torch/csrc/stable/ops.h>

#include <span>

#include "ops/check.h"
#include "ops/constant.h"
#include "ops/shape.h"
#include "ops/threads.h"
#include "plan/executor.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "run_plan: ";

}  // namespace

Tensor run_plan(const Tensor& input, const Tensor& program, const Tensor& weights, std::int64_t embedding,
                std::int64_t threads, bool flip) {
  PNF_CHECK(input.is_cpu() && program.is_cpu() && weights.is_cpu(), kName,
            "these kernels run on the CPU, and the input or the model is elsewhere. For CUDA write an "
            "AOTInductor package (pocketnet export -o model.pt2 --device cuda), or in Python take "
            "pocketnet_fast.compile(model, device='cuda')");
  const auto words = constant<std::int32_t>(kName, program, "program");
  const auto constants = constant<float>(kName, weights, "weights");
  const int allowed = threads_of_call(kName, threads);
  return told(kName, [&] {
    // Before anything is allocated: what the words ask for is theirs to justify.
    const PreparedProgram prepared(words, constants);
    const ProgramInfo info = prepared.info();
    PNF_CHECK(info.results == embedding, kName, "the program computes embeddings of ", info.results, ", not ",
              embedding);
    const bool is_float = input.scalar_type() == ScalarType::Float;
    PNF_CHECK(is_float || input.scalar_type() == ScalarType::Byte, kName,
              "input must be float32 [N, 3, H, W] or uint8 [N, H, W, 3], got ", dtype_of(input), " ", shape_of(input));
    const bool fits = input.dim() == 4 &&
                      (is_float ? input.size(1) == 3 && input.size(2) == info.height && input.size(3) == info.width
                                : input.size(1) == info.height && input.size(2) == info.width && input.size(3) == 3);
    PNF_CHECK(fits, kName, is_float ? "float32" : "uint8", " input must be ", is_float ? "[N, 3, " : "[N, ",
              info.height, ", ", info.width, is_float ? "]" : ", 3]", ", got ", shape_of(input));
    const Tensor pixels = torch::stable::contiguous(input);
    const std::int64_t size = input.size(0);
    Tensor output = torch::stable::empty({size, embedding}, ScalarType::Float);
    if (size == 0) return output;
    RunOptions options;
    options.threads = allowed;
    options.flip = flip;
    const void* data = pixels.const_data_ptr();
    const Batch batch = {size, is_float ? static_cast<const float*>(data) : nullptr,
                         is_float ? nullptr : static_cast<const std::uint8_t*>(data)};
    prepared.execute(batch, options, static_cast<float*>(output.mutable_data_ptr()));
    return output;
  });
}

}  // namespace pnf::ops
