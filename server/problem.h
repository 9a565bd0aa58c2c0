// What a request is refused with: RFC 9457 problem details.
#pragma once
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pocketnet::server {

enum class ProblemKind {
  kBadRequest,
  kUnauthorized,
  kNotFound,
  kMethodNotAllowed,
  kConflict,
  kLengthRequired,
  kTooLarge,
  kPathTooLong,
  kUnsupportedMedia,
  kUnreadable,
  kNoFace,
  kQueueFull,
  kHeadersTooLarge,
  kGone,
  kInternal,
  kUnavailable,
  kDraining,
  kDeadline,
};

class Problem : public std::runtime_error {
 public:
  // `detail` is one sentence for the client: what was wrong, and what is accepted.
  Problem(ProblemKind kind, const std::string& detail) : std::runtime_error(detail), kind_(kind) {}

  ProblemKind kind() const { return kind_; }
  int status() const;
  std::string_view code() const;  // as in "urn:pocketnet:problem:<code>"

  // The body, application/problem+json.
  std::string to_json(const std::string& instance, const std::string& request_id) const;

 private:
  ProblemKind kind_;
};

// For what httplib itself refuses, by the status that it chose.
Problem problem_of_status(int status);

inline constexpr const char* kProblemType = "application/problem+json";

}  // namespace pocketnet::server
