// A lowered YuNet on the process's threads, in memory that is kept for its next call.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "faces/detector_network.h"
#include "plan/executor.h"
#include "plan/lease.h"

namespace pnf {

class PooledDetectorNetwork final : public DetectorNetwork {
 public:
  // Words and weights must outlive it.
  PooledDetectorNetwork(std::span<const std::int32_t> program, std::span<const float> weights, int threads)
      : program_(program), weights_(weights), threads_(threads) {}

  std::uint8_t* image(int height, int width) override;
  const float* maps() override;
  std::pmr::memory_resource* memory() override { return std::pmr::get_default_resource(); }

 private:
  struct Memory {
    std::vector<std::uint8_t> pixels;
    std::vector<float> maps;
    std::size_t bytes() const { return pixels.capacity() + maps.capacity() * sizeof(float); }
    bool outgrown() const { return false; }
  };

  std::span<const std::int32_t> program_;
  std::span<const float> weights_;
  int threads_;
  std::optional<PreparedProgram> prepared_;
  Lease<Memory> memory_;
};

}  // namespace pnf
