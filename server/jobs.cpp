#include "jobs.h"

#include <utility>

#include "problem.h"

namespace pocketnet::server {

void Job::wait() {
  std::unique_lock lock(mutex_);
  if (!done_.wait_until(lock, deadline, [this] { return finished_; })) {
    throw Problem(ProblemKind::kDeadline, "The request could not be answered in the time for it.");
  }
  if (error_) std::rethrow_exception(error_);
}

void Job::finish(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  finished_ = true;
  error_ = std::move(error);
  done_.notify_all();
}

}  // namespace pocketnet::server
