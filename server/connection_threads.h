// Threads that each serve one connection at a time: as many as there are connections, up to a limit.
#pragma once
#include <httplib.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace pocketnet::server {

class ConnectionThreads final : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(std::size_t most) : most_(most) {}

  // Runs `serve` on a thread of its own. At the limit it runs here and at once, where `too_many` tells it to refuse.
  void enqueue(std::function<void()> serve) override;

  // Waits until all connections have ended.
  void shutdown() override;

  // Whether the calling thread is to refuse its connection.
  static bool too_many();

 private:
  void work(std::function<void()> serve);

  const std::size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  std::size_t threads_ = 0;
  std::size_t idle_ = 0;
  bool ends_ = false;
};

}  // namespace pocketnet::server
