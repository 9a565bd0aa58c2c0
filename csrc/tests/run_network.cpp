// Runs a network on images, without torch: run_network PROGRAM WEIGHTS ISA PIXELS. The files hold the int32 words, the
// float32 weights and uint8 images; the float32 embeddings go to standard output. An instruction counter counts the call
// of pnf::execute.
#include <cstdio>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/executor.h"
#include "read_file.h"

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const std::vector<std::int32_t> words = pnf::test::read_file<std::int32_t>(argv[1]);
  const std::vector<float> weights = pnf::test::read_file<float>(argv[2]);
  const std::vector<std::uint8_t> pixels = pnf::test::read_file<std::uint8_t>(argv[4]);
  pnf::force_isa(argv[3]);
  const pnf::ProgramInfo info = pnf::program_info(words);
  const std::size_t images = pixels.size() / (std::size_t{3} * info.height * info.width);
  std::vector<float> embeddings(images * info.results);
  pnf::execute(words, weights, {static_cast<std::int64_t>(images), nullptr, pixels.data()}, {}, embeddings.data());
  return std::fwrite(embeddings.data(), sizeof(float), embeddings.size(), stdout) != embeddings.size();
}
