#include "ops/run_plan.h"

#include <torch/csrc/stable/ops.h>

#include <span>

#include "ops/check.h"
#include "ops/shape.h"
#include "ops/threads.h"
#include "plan/executor.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "run_plan: ";

void check_constant(const Tensor& t, ScalarType type, const char* name) {
  PNF_CHECK(t.is_cpu() && t.scalar_type() == type && t.dim() == 1 && t.is_contiguous(), kName, name,
            " must be a contiguous 1-D CPU tensor of ", type == ScalarType::Int ? "int32" : "float32", ", got ",
            dtype_of(t), " ", shape_of(t));
}

}  // namespace

Tensor run_plan(const Tensor& input, const Tensor& program, const Tensor& weights, std::int64_t embedding,
                std::int64_t threads, bool flip) {
  PNF_CHECK(input.is_cpu() && program.is_cpu() && weights.is_cpu(), kName,
            "these kernels run on the CPU, and the input or the model is elsewhere. For CUDA write an "
            "AOTInductor package (pocketnet export -o model.pt2 --device cuda), or in Python take "
            "pocketnet_fast.compile(model, device='cuda')");
  check_constant(program, ScalarType::Int, "program");
  check_constant(weights, ScalarType::Float, "weights");
  PNF_CHECK(threads >= 0 && threads <= 1024, kName, "threads must lie in 0..1024, got ", threads);
  const std::span<const std::int32_t> words(static_cast<const std::int32_t*>(program.const_data_ptr()),
                                            static_cast<std::size_t>(program.numel()));
  const std::span<const float> constants(static_cast<const float*>(weights.const_data_ptr()),
                                         static_cast<std::size_t>(weights.numel()));
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
    options.threads = threads_of_call(threads);
    options.flip = flip;
    const void* data = pixels.const_data_ptr();
    const Batch batch = {size, is_float ? static_cast<const float*>(data) : nullptr,
                         is_float ? nullptr : static_cast<const std::uint8_t*>(data)};
    prepared.execute(batch, options, static_cast<float*>(output.mutable_data_ptr()));
    return output;
  });
}

}  // namespace pnf::ops
