// Sorting without memory of the heap, which std::stable_sort takes.
#pragma once
#include <algorithm>
#include <memory_resource>
#include <numeric>
#include <utility>
#include <vector>

namespace pnf {

// Brings the items in order; those of which neither comes before the other stay as they are.
template <typename Item, typename Before>
void sort_stably(std::pmr::vector<Item>& items, Before before) {
  std::pmr::vector<int> order(items.size(), items.get_allocator().resource());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    if (before(items[a], items[b])) return true;
    return !before(items[b], items[a]) && a < b;
  });
  std::pmr::vector<Item> sorted(items.get_allocator());
  sorted.reserve(items.size());
  for (const int index : order) sorted.push_back(std::move(items[index]));
  items = std::move(sorted);
}

}  // namespace pnf
