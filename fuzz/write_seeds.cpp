// Writes what the fuzzer of model files begins with to a folder: one file for each precision and task.
#include <cstdio>
#include <fstream>
#include <string>

#include "small_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  for (const bool half : {false, true}) {
    for (const bool photos : {false, true}) {
      const std::string path =
          std::string(argv[1]) + "/" + (photos ? "photos" : "crops") + (half ? "_bf16.pnf" : "_fp32.pnf");
      const std::string bytes = pnf::fuzz::small_model(half, photos);
      std::ofstream stream(path, std::ios::binary);
      stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      if (!stream.flush()) {
        std::fprintf(stderr, "cannot write %s\n", path.c_str());
        return 1;
      }
    }
  }
  return 0;
}
