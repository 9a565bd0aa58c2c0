#include "plan/lease.h"

#include <algorithm>

namespace pnf {
namespace {

struct Shelves {
  std::mutex mutex;
  std::vector<Shelf*> all;
};

}  // namespace

Shelf::Shelf() {
  Shelves& shelves = per_process<Shelves>();
  const std::lock_guard<std::mutex> lock(shelves.mutex);
  shelves.all.push_back(this);
}

Shelf::~Shelf() {
  Shelves& shelves = per_process<Shelves>();
  const std::lock_guard<std::mutex> lock(shelves.mutex);
  std::erase(shelves.all, this);
}

std::size_t clear_shelves() {
  Shelves& shelves = per_process<Shelves>();
  const std::lock_guard<std::mutex> lock(shelves.mutex);
  std::size_t bytes = 0;
  for (Shelf* const shelf : shelves.all) bytes += shelf->clear();
  return bytes;
}

}  // namespace pnf
