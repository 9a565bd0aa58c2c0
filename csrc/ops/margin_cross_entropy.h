#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>

namespace pnf::ops {

// embedding: float32 [N, D]; kernel: float32 or bfloat16 [D, classes]; label: int64 [N], -1 for a class that the
// kernel does not hold; any strides. Returns, float64 [N], what plan/margin_cross_entropy.h calls others and cosine.
std::tuple<torch::stable::Tensor, torch::stable::Tensor> margin_cross_entropy(const torch::stable::Tensor& embedding,
                                                                              const torch::stable::Tensor& kernel,
                                                                              const torch::stable::Tensor& label,
                                                                              double scale, bool bf16_products);

// The gradients of embedding and kernel, contiguous and of their dtypes. others, grad_others, grad_cosine: float64 [N].
std::tuple<torch::stable::Tensor, torch::stable::Tensor> margin_cross_entropy_backward(
    const torch::stable::Tensor& embedding, const torch::stable::Tensor& kernel, const torch::stable::Tensor& label,
    double scale, const torch::stable::Tensor& others, const torch::stable::Tensor& grad_others,
    const torch::stable::Tensor& grad_cosine, bool bf16_products);

}  // namespace pnf::ops
