#include "timing.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

using pocketnet::hosting::ExportedNetwork;

double median_milliseconds(ExportedNetwork& network, const at::Tensor& input, int repeat) {
  std::vector<double> times;
  for (int i = -2; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    network.forward(input);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (i >= 0) times.push_back(elapsed.count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

bool callers_agree(ExportedNetwork& network, const at::Tensor& input, const at::Tensor& expected, int callers) {
  std::vector<char> same(callers, 0);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&, caller] {
      bool all = true;
      for (int i = 0; i < 10; ++i) all = all && network.forward(input).equal(expected);
      same[caller] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::all_of(same.begin(), same.end(), [](char s) { return s != 0; });
}
