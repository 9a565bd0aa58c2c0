#include "connection_threads.h"

#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

namespace pocketnet::server {
namespace {

// A thread without a connection ends after it.
constexpr std::chrono::seconds kIdle{10};

thread_local bool refuses = false;

void refuse(const std::function<void()>& serve) {
  refuses = true;
  serve();
  refuses = false;
}

}  // namespace

bool ConnectionThreads::too_many() { return refuses; }

void ConnectionThreads::enqueue(std::function<void()> serve) {
  {
    const std::lock_guard lock(mutex_);
    if (idle_ > waiting_.size()) {
      waiting_.push_back(std::move(serve));
      changed_.notify_one();
      return;
    }
    if (threads_ < most_) {
      try {
        std::thread(&ConnectionThreads::work, this, serve).detach();
        ++threads_;
        return;
      } catch (const std::system_error&) {
        // The system gives no more threads: as at the limit.
      }
    }
  }
  refuse(serve);
}

void ConnectionThreads::work(std::function<void()> serve) {
  for (;;) {
    serve();
    serve = nullptr;
    std::unique_lock lock(mutex_);
    ++idle_;
    changed_.wait_for(lock, kIdle, [this] { return ends_ || !waiting_.empty(); });
    --idle_;
    if (waiting_.empty()) {
      --threads_;
      changed_.notify_all();
      return;
    }
    serve = std::move(waiting_.front());
    waiting_.pop_front();
  }
}

void ConnectionThreads::shutdown() {
  std::unique_lock lock(mutex_);
  ends_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return threads_ == 0; });
}

}  // namespace pocketnet::server
