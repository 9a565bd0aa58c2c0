// Runs a network on one image, for an instruction counter: count_network PROGRAM WEIGHTS ISA. The files hold the int32
// words and the float32 weights; what is to be counted is the call of pnf::execute.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/executor.h"

namespace {

template <typename T>
std::vector<T> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<T> values(bytes.size() / sizeof(T));
  std::copy(bytes.begin(), bytes.begin() + values.size() * sizeof(T), reinterpret_cast<char*>(values.data()));
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::vector<std::int32_t> words = read<std::int32_t>(argv[1]);
  const std::vector<float> weights = read<float>(argv[2]);
  pnf::force_isa(argv[3]);
  const pnf::ProgramInfo info = pnf::program_info(words);
  const std::vector<std::uint8_t> pixels(std::size_t{3} * info.height * info.width, 100);
  std::vector<float> embedding(info.embedding);
  pnf::execute(words, weights, {1, nullptr, pixels.data()}, {}, embedding.data());
  std::printf("%g\n", embedding[0]);
  return 0;
}
