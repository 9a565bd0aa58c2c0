// Embeddings of aligned crops in C++, one a line. Crops are raw RGB files of the size that the model takes.
//
//   embed s128.pnf crop.rgb...
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <pocketnet.hpp>
#include <vector>

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::cerr << "usage: " << argv[0] << " model.pnf crop.rgb...\n";
    return 2;
  }
  const pocketnet::Model model(argv[1]);
  const pocketnet_info info = model.info();
  auto options = pocketnet::make<pocketnet_context_options>();
  options.crops_only = 1;
  pocketnet::Context context(model, options);
  std::vector<float> embedding(info.embedding_dim);
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};
    if (pixels.size() != std::size_t{3} * info.crop_side * info.crop_side) {
      std::cerr << argv[i] << ": not " << info.crop_side << " x " << info.crop_side << " pixels of RGB\n";
      return 2;
    }
    pocketnet_image crop{};
    crop.pixels = reinterpret_cast<const std::uint8_t*>(pixels.data());
    crop.width = crop.height = info.crop_side;
    context.embed({&crop, 1}, embedding);
    for (const float value : embedding) std::cout << value << ' ';
    std::cout << '\n';
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 2;
}
