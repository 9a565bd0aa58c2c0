#include "hosting/check_record.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

namespace pocketnet::hosting {

namespace {

std::vector<std::uint8_t> from_base64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::vector<std::uint8_t> bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char digit : text) {
    const std::size_t value = kDigits.find(digit);
    if (value == std::string_view::npos) throw std::runtime_error("its check's picture is no base64");
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<std::uint8_t>(bits >> count));
  }
  return bytes;
}

}  // namespace

Check parse_check(const std::string& text) {
  constexpr char kNotStated[] = "its check does not state image, embedding and least_cosine as it should";
  try {
    const auto stated = nlohmann::json::parse(text);
    Check check = {
        from_base64(stated.at("image").get_ref<const std::string&>()), {}, stated.at("least_cosine").get<double>()};
    for (const double value : stated.at("embedding").get<std::vector<double>>()) {
      if (std::abs(value) > 1) throw std::runtime_error(kNotStated);
      check.embedding.push_back(static_cast<float>(value));
    }
    if (check.embedding.empty() || std::abs(check.least_cosine) > 1) throw std::runtime_error(kNotStated);
    return check;
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error(kNotStated);
  }
}

}  // namespace pocketnet::hosting
