// What the host prints: one JSON object.
#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>

#include "hosting/shortest.h"

using Json = nlohmann::ordered_json;

using pocketnet::hosting::shortest;

// All elements of a float32 tensor [N], or of the rows of one [N, M], in order.
Json list(const at::Tensor& values);

// To standard output: a key a line, and of a list of objects or lists an element a line. What is not finite is null, and
// bytes of a file's name that are no UTF-8 are replaced.
void print(const Json& object);
