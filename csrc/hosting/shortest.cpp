#include "hosting/shortest.h"

#include <algorithm>
#include <charconv>

namespace pocketnet::hosting {

double shortest(float value) {
  char digits[32];
  const char* const end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  double same = 0;
  std::from_chars(digits, end, same);
  return same;
}

std::vector<double> shortest(std::span<const float> values) {
  std::vector<double> numbers(values.size());
  std::transform(values.begin(), values.end(), numbers.begin(), [](float value) { return shortest(value); });
  return numbers;
}

}  // namespace pocketnet::hosting
