#include "faces/pooled_detector_network.h"

#include <stdexcept>

namespace pnf {

std::uint8_t* PooledDetectorNetwork::image(int height, int width) {
  prepared_.emplace(program_, weights_, height, width);
  const std::int64_t size = size_of_maps(height, width);
  if (prepared_->info().results != size) throw std::invalid_argument("the program is no face detector's");
  memory_->pixels.resize(std::size_t{3} * height * width);
  memory_->maps.resize(size);
  return memory_->pixels.data();
}

const float* PooledDetectorNetwork::maps() {
  RunOptions run;
  run.threads = threads_;
  prepared_->execute({1, nullptr, memory_->pixels.data()}, run, memory_->maps.data());
  prepared_.reset();
  return memory_->maps.data();
}

}  // namespace pnf
