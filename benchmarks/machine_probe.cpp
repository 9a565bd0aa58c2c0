// Read bandwidth of the caches' second level and of memory, summed over threads, as JSON in GB/s.
// Build: g++ -O3 -march=native -pthread machine_probe.cpp; run: machine_probe THREADS

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));

std::atomic<float> sink{0.0f};

void read_all(const Vector* data, std::size_t count) {
  Vector sums[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  float total = 0.0f;
  for (const Vector& sum : sums) total += sum[0];
  sink.store(total, std::memory_order_relaxed);
}

double gigabytes_per_second(std::size_t bytes, int threads) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> rates(threads);
  std::vector<std::thread> workers;
  std::atomic<int> ready{0};
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      const std::size_t count = bytes / sizeof(Vector);
      std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(64, bytes), &std::free);
      auto* data = static_cast<Vector*>(memory.get());
      for (std::size_t i = 0; i < count; ++i) data[i] = Vector{};
      ready.fetch_add(1);
      while (ready.load() < threads) {
      }
      double moved = 0.0;
      const auto start = Clock::now();
      std::chrono::duration<double> elapsed{};
      do {
        read_all(data, count);
        moved += static_cast<double>(bytes);
        elapsed = Clock::now() - start;
      } while (elapsed.count() < 0.3);
      rates[t] = moved / elapsed.count() / 1e9;
    });
  }
  double total = 0.0;
  for (int t = 0; t < threads; ++t) {
    workers[t].join();
    total += rates[t];
  }
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double l2 = gigabytes_per_second(std::size_t{512} << 10, threads);
  const double memory = gigabytes_per_second(std::size_t{256} << 20, threads);
  std::printf("{\"l2\": %.1f, \"memory\": %.1f}\n", l2, memory);
}
