// A lowered network's tensors.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <type_traits>

#include "ops/check.h"
#include "ops/shape.h"

namespace pnf::ops {

// The elements of one, int32 words or float32 weights, which operators read as they lie.
template <typename Element>
std::span<const Element> constant(const char* operation, const torch::stable::Tensor& t, const char* name) {
  constexpr bool kWords = std::is_same_v<Element, std::int32_t>;
  constexpr auto kType = kWords ? torch::headeronly::ScalarType::Int : torch::headeronly::ScalarType::Float;
  PNF_CHECK(t.is_cpu() && t.scalar_type() == kType && t.dim() == 1 && t.is_contiguous(), operation, name,
            " must be a contiguous 1-D CPU tensor of ", kWords ? "int32" : "float32", ", got ", dtype_of(t), " ",
            shape_of(t));
  return {static_cast<const Element*>(t.const_data_ptr()), static_cast<std::size_t>(t.numel())};
}

}  // namespace pnf::ops
