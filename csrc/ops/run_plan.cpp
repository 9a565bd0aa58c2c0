#include "ops/run_plan.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include <exception>
#include <span>
#include <string>

#include "ops/shape.h"
#include "plan/executor.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check_constant(const Tensor& t, ScalarType type, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == type && t.dim() == 1 && t.is_contiguous(), "run_plan: ", name,
                  " must be a contiguous 1-D CPU tensor of ", type == ScalarType::Int ? "int32" : "float32");
}

}  // namespace

Tensor run_plan(const Tensor& input, const Tensor& program, const Tensor& weights, std::int64_t embedding,
                std::int64_t threads, bool flip) {
  STD_TORCH_CHECK(input.is_cpu() && program.is_cpu() && weights.is_cpu(),
                  "run_plan: these kernels run on the CPU, and the input or the model is elsewhere. For CUDA write an "
                  "AOTInductor package (pocketnet export -o model.pt2 --device cuda), or in Python take "
                  "pocketnet_fast.compile(model, device='cuda')");
  check_constant(program, ScalarType::Int, "program");
  check_constant(weights, ScalarType::Float, "weights");
  STD_TORCH_CHECK(threads >= 0 && threads <= 1024, "run_plan: threads must lie in 0..1024, got ", threads);
  const std::span<const std::int32_t> words(static_cast<const std::int32_t*>(program.const_data_ptr()),
                                            static_cast<std::size_t>(program.numel()));
  const std::span<const float> constants(static_cast<const float*>(weights.const_data_ptr()),
                                         static_cast<std::size_t>(weights.numel()));
  try {
    const ProgramInfo info = program_info(words);
    STD_TORCH_CHECK(info.embedding == embedding, "run_plan: the program computes embeddings of ", info.embedding,
                    ", not ", embedding);
    const bool is_float = input.scalar_type() == ScalarType::Float;
    STD_TORCH_CHECK(is_float || input.scalar_type() == ScalarType::Byte,
                    "run_plan: input must be float32 [N, 3, H, W] or uint8 [N, H, W, 3]; the dtype is neither");
    const bool fits = input.dim() == 4 &&
                      (is_float ? input.size(1) == 3 && input.size(2) == info.height && input.size(3) == info.width
                                : input.size(1) == info.height && input.size(2) == info.width && input.size(3) == 3);
    STD_TORCH_CHECK(fits, "run_plan: ", is_float ? "float32" : "uint8", " input must be ",
                    is_float ? "[N, 3, " : "[N, ", info.height, ", ", info.width, is_float ? "]" : ", 3]", ", got ",
                    shape_of(input));
    const Tensor pixels = torch::stable::contiguous(input);
    const std::int64_t size = input.size(0);
    Tensor output = torch::stable::empty({size, embedding}, ScalarType::Float);
    if (size == 0) return output;
    RunOptions options;
    options.threads = static_cast<int>(threads == 0 ? torch::stable::get_num_threads() : threads);
    options.flip = flip;
    const void* data = pixels.const_data_ptr();
    const Batch batch = {size, is_float ? static_cast<const float*>(data) : nullptr,
                         is_float ? nullptr : static_cast<const std::uint8_t*>(data)};
    execute(words, constants, batch, options, static_cast<float*>(output.mutable_data_ptr()));
    return output;
  } catch (const std::invalid_argument& error) {
    STD_TORCH_CHECK(false, "run_plan: ", error.what());
  }
  return Tensor();
}

}  // namespace pnf::ops
