#include "json.h"

#include <cmath>
#include <cstdio>

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", c);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

std::string list(const at::Tensor& values) {
  const at::Tensor all = values.contiguous();
  const float* const data = all.const_data_ptr<float>();
  std::string out = "[";
  for (std::int64_t i = 0; i < all.numel(); ++i) out += (i == 0 ? "" : ", ") + number(data[i]);
  return out + "]";
}
