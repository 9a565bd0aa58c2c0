#include "ops/margin_cross_entropy.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <limits>

#include "ops/check.h"
#include "ops/shape.h"
#include "ops/threads.h"
#include "plan/margin_cross_entropy.h"
#include "plan/workspace.h"

namespace pnf::ops {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* kName = "margin_cross_entropy: ";

// The input and the contiguous tensors that its pointers lie in.
struct Operands {
  Tensor embedding, kernel, label;
  MarginInput input;
};

Operands operands(const Tensor& embedding, const Tensor& kernel, const Tensor& label, double scale,
                  bool bf16_products) {
  PNF_CHECK(embedding.is_cpu() && kernel.is_cpu() && label.is_cpu(), kName, "every tensor must be on the CPU");
  PNF_CHECK(embedding.scalar_type() == ScalarType::Float, kName, "embedding must be float32, got ",
            dtype_of(embedding));
  const bool bf16 = kernel.scalar_type() == ScalarType::BFloat16;
  PNF_CHECK(bf16 || kernel.scalar_type() == ScalarType::Float, kName, "kernel must be float32 or bfloat16, got ",
            dtype_of(kernel));
  PNF_CHECK(label.scalar_type() == ScalarType::Long, kName, "label must be int64, got ", dtype_of(label));
  PNF_CHECK(embedding.dim() == 2 && kernel.dim() == 2 && embedding.size(1) == kernel.size(0), kName,
            "embedding must be N, D and kernel D, classes");
  PNF_CHECK(label.dim() == 1 && label.size(0) == embedding.size(0), kName, "label must have one entry a sample");
  PNF_CHECK(kernel.size(0) > 0 && kernel.size(1) > 0, kName, "kernel must have dimensions and classes");
  constexpr std::int64_t kMost = std::numeric_limits<int>::max() / 2;
  PNF_CHECK(embedding.size(0) <= kMost && kernel.size(0) <= 1 << 16, kName, "at most ", kMost,
            " samples and 65536 dimensions");
  PNF_CHECK(std::isfinite(scale) && scale > 0.0, kName, "scale must be positive and finite, got ", scale);
  Operands result = {torch::stable::contiguous(embedding), torch::stable::contiguous(kernel),
                     torch::stable::contiguous(label), MarginInput{}};
  result.input = {static_cast<int>(embedding.size(0)),
                  static_cast<int>(kernel.size(0)),
                  static_cast<std::ptrdiff_t>(kernel.size(1)),
                  static_cast<const float*>(result.embedding.const_data_ptr()),
                  result.kernel.const_data_ptr(),
                  bf16,
                  static_cast<const std::int64_t*>(result.label.const_data_ptr()),
                  static_cast<float>(scale),
                  bf16_products};
  return result;
}

Tensor per_sample(const Tensor& values, std::int64_t samples, const char* name) {
  PNF_CHECK(
      values.is_cpu() && values.scalar_type() == ScalarType::Double && values.dim() == 1 && values.size(0) == samples,
      kName, name, " must be float64 of ", samples, " on the CPU");
  return torch::stable::contiguous(values);
}

double* doubles(Tensor& values) { return static_cast<double*>(values.mutable_data_ptr()); }
const double* doubles(const Tensor& values) { return static_cast<const double*>(values.const_data_ptr()); }

}  // namespace

std::tuple<Tensor, Tensor> margin_cross_entropy(const Tensor& embedding, const Tensor& kernel, const Tensor& label,
                                                double scale, bool bf16_products) {
  const Operands given = operands(embedding, kernel, label, scale, bf16_products);
  Tensor others = torch::stable::empty({embedding.size(0)}, ScalarType::Double);
  Tensor cosine = torch::stable::empty({embedding.size(0)}, ScalarType::Double);
  told(kName, [&] { margin_forward(given.input, threads_of_call(), doubles(others), doubles(cosine)); });
  return {others, cosine};
}

std::tuple<Tensor, Tensor> margin_cross_entropy_backward(const Tensor& embedding, const Tensor& kernel,
                                                         const Tensor& label, double scale, const Tensor& others,
                                                         const Tensor& grad_others, const Tensor& grad_cosine,
                                                         bool bf16_products) {
  const Operands given = operands(embedding, kernel, label, scale, bf16_products);
  const std::int64_t samples = embedding.size(0);
  const Tensor sums = per_sample(others, samples, "others");
  const Tensor by_others = per_sample(grad_others, samples, "grad_others");
  const Tensor by_cosine = per_sample(grad_cosine, samples, "grad_cosine");
  Tensor grad_embedding = torch::stable::empty({samples, embedding.size(1)}, ScalarType::Float);
  Tensor grad_kernel = torch::stable::empty({kernel.size(0), kernel.size(1)}, kernel.scalar_type());
  advise_huge_pages(grad_kernel.mutable_data_ptr(),
                    static_cast<std::size_t>(grad_kernel.numel()) * (given.input.bf16 ? 2 : sizeof(float)));
  told(kName, [&] {
    margin_backward(given.input, threads_of_call(), doubles(sums), doubles(by_others), doubles(by_cosine),
                    static_cast<float*>(grad_embedding.mutable_data_ptr()), grad_kernel.mutable_data_ptr());
  });
  return {grad_embedding, grad_kernel};
}

}  // namespace pnf::ops
