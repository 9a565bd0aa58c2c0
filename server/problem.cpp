#include "problem.h"

#include <array>
#include <nlohmann/json.hpp>

namespace pocketnet::server {
namespace {

struct Row {
  ProblemKind kind;
  int status;
  const char* code;
  const char* title;
};

constexpr std::array kRows{
    Row{ProblemKind::kBadRequest, 400, "bad-request", "The request makes no sense"},
    Row{ProblemKind::kUnauthorized, 401, "unauthorized", "A valid bearer token is needed"},
    Row{ProblemKind::kNotFound, 404, "not-found", "There is no such thing"},
    Row{ProblemKind::kMethodNotAllowed, 405, "method-not-allowed", "The method is not allowed here"},
    Row{ProblemKind::kConflict, 409, "conflict", "This does not fit what is there"},
    Row{ProblemKind::kLengthRequired, 411, "length-required", "The length of the body is not stated"},
    Row{ProblemKind::kTooLarge, 413, "too-large", "More than is accepted"},
    Row{ProblemKind::kPathTooLong, 414, "path-too-long", "The path is too long"},
    Row{ProblemKind::kUnsupportedMedia, 415, "unsupported-media", "A kind of content that is not read"},
    Row{ProblemKind::kUnreadable, 422, "unreadable", "The content cannot be used"},
    Row{ProblemKind::kNoFace, 422, "no-face", "There is no face in the photo"},
    Row{ProblemKind::kQueueFull, 429, "queue-full", "More work than is taken at a time"},
    Row{ProblemKind::kHeadersTooLarge, 431, "headers-too-large", "The headers are too large"},
    Row{ProblemKind::kGone, 499, "gone", "The client has closed the connection"},  // seen in logs alone
    Row{ProblemKind::kInternal, 500, "internal", "An error of the service"},
    Row{ProblemKind::kUnavailable, 501, "unavailable", "The model in use cannot do this"},
    Row{ProblemKind::kDraining, 503, "draining", "The service takes no requests now"},
    Row{ProblemKind::kDeadline, 504, "deadline", "The time for the request is up"},
};

const Row& row_of(ProblemKind kind) {
  for (const Row& row : kRows) {
    if (row.kind == kind) return row;
  }
  return row_of(ProblemKind::kInternal);
}

}  // namespace

int Problem::status() const { return row_of(kind_).status; }

std::string_view Problem::code() const { return row_of(kind_).code; }

std::string Problem::to_json(const std::string& instance, const std::string& request_id) const {
  const Row& row = row_of(kind_);
  nlohmann::json body{{"type", std::string("urn:pocketnet:problem:") + row.code},
                      {"title", row.title},
                      {"status", row.status},
                      {"detail", what()},
                      {"instance", instance},
                      {"request_id", request_id}};
  // Clients of the Open Inference Protocol look for this name.
  if (instance.starts_with("/v2")) body["error"] = what();
  // A client's bytes may stand in instance and detail, and need not be UTF-8.
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Problem problem_of_status(int status) {
  for (const Row& row : kRows) {
    if (row.status == status) return {row.kind, std::string(row.title) + "."};
  }
  return status < 500 ? Problem(ProblemKind::kBadRequest, "The request cannot be read.")
                      : Problem(ProblemKind::kInternal, "The request could not be answered.");
}

}  // namespace pocketnet::server
