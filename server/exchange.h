// One request and its answer, as handlers see them.
#pragma once
#include <httplib.h>

#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hosting/shortest.h"
#include "memory_budget.h"

namespace pocketnet::server {

// A part of a multipart/form-data body.
struct Part {
  std::string name;
  std::string content;
};

// Stages of a request and what they took, for the log and the metrics.
using StageTimes = std::vector<std::pair<const char*, double>>;  // milliseconds

struct Exchange {
  using Clock = std::chrono::steady_clock;

  Exchange(const httplib::Request& request, httplib::Response& response, int socket)
      : request(request), response(response), socket(socket) {}

  const httplib::Request& request;
  httplib::Response& response;
  const int socket;
  std::string request_id;
  std::map<std::string, std::string, std::less<>> path;  // what stands in the place of {name}
  Clock::time_point deadline{};

  // The body, read before the handler is called: its bytes, or its parts.
  std::string body;
  std::vector<Part> parts;
  bool multipart = false;
  // What the body takes of the budget; jobs of it hold it, too, as they may outlast the request.
  std::shared_ptr<MemoryBudget::Share> memory;

  StageTimes stages{};

  // The one part of a name. Throws Problem where there is none or more than one.
  const Part& part(std::string_view name) const;
  const Part* optional_part(std::string_view name) const;

  // Values of the query. Each throws Problem where the text is no such value.
  std::optional<std::string> query(const std::string& name) const;
  bool flag(const std::string& name, bool otherwise) const;
  std::int64_t number(const std::string& name, std::int64_t otherwise, std::int64_t least, std::int64_t most) const;
  std::optional<double> rate(const std::string& name) const;  // above 0 and below 1

  // Throws Problem for a name in the query that is none of these.
  void accept_queries(std::initializer_list<std::string_view> names) const;

  void answer(int status, const nlohmann::json& body);
};

using hosting::shortest;

}  // namespace pocketnet::server
