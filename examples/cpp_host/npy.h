#pragma once
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

// Reads a .npy file of uint8 [count][112][112][3] piece by piece, so that its size does not matter. Errors are
// std::runtime_error, naming the file.
class CropFile {
 public:
  static constexpr std::int64_t kSide = 112;
  static constexpr std::int64_t kBytes = kSide * kSide * 3;

  explicit CropFile(const std::string& path);
  std::int64_t count() const { return count_; }
  // The next crops, [at most limit][112][112][3]; empty after the last.
  std::vector<std::uint8_t> read(std::int64_t limit);

 private:
  std::string path_;
  std::ifstream file_;
  std::int64_t count_ = 0;
  std::int64_t done_ = 0;
};

// Writes float32 [rows][columns] as a .npy file, which appears at the path when it is complete.
void write_npy(const std::string& path, const float* values, std::int64_t rows, std::int64_t columns);
