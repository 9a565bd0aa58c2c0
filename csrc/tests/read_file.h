// The files of numbers that the programs beside the tests are given.
#pragma once
#include <algorithm>
#include <fstream>
#include <iterator>
#include <vector>

namespace pnf::test {

// As many whole values as the file holds.
template <typename T>
std::vector<T> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<T> values(bytes.size() / sizeof(T));
  std::copy(bytes.begin(), bytes.begin() + values.size() * sizeof(T), reinterpret_cast<char*>(values.data()));
  return values;
}

}  // namespace pnf::test
