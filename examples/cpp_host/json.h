// The little JSON that the host prints.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

std::string quoted(const std::string& text);
// null for what is not finite.
std::string number(double value);
// All elements of a float32 tensor, in order.
std::string list(const at::Tensor& values);
