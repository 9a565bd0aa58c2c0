#include "output.h"

#include <cstdio>
#include <string>

namespace {

std::string text_of(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

Json list(const at::Tensor& values) {
  Json out = Json::array();
  if (values.dim() > 1) {
    for (std::int64_t i = 0; i < values.size(0); ++i) out.push_back(list(values[i]));
    return out;
  }
  const at::Tensor row = values.contiguous();
  const float* const data = row.const_data_ptr<float>();
  for (std::int64_t i = 0; i < row.numel(); ++i) out.push_back(shortest(data[i]));
  return out;
}

void print(const Json& object) {
  std::string text = "{";
  for (const auto& [key, value] : object.items()) {
    text += (text.size() == 1 ? "\n" : ",\n") + text_of(key) + ": ";
    if (!value.is_array() || value.empty() || !value.front().is_structured()) {
      text += text_of(value);
      continue;
    }
    for (std::size_t i = 0; i < value.size(); ++i) text += (i == 0 ? "[\n  " : ",\n  ") + text_of(value[i]);
    text += "\n]";
  }
  std::printf("%s\n}\n", text.c_str());
}
