#include "exchange.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "problem.h"

namespace pocketnet::server {
namespace {

template <typename Value>
std::optional<Value> parsed(const std::string& text) {
  Value value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

const Part* Exchange::optional_part(std::string_view name) const {
  const Part* found = nullptr;
  for (const Part& part : parts) {
    if (part.name != name) continue;
    if (found != nullptr) throw Problem(ProblemKind::kBadRequest, "There is more than one part '" + part.name + "'.");
    found = &part;
  }
  return found;
}

const Part& Exchange::part(std::string_view name) const {
  if (!multipart) {
    throw Problem(ProblemKind::kBadRequest,
                  "The body must be multipart/form-data with a part '" + std::string(name) + "'.");
  }
  const Part* found = optional_part(name);
  if (found == nullptr) throw Problem(ProblemKind::kBadRequest, "A part '" + std::string(name) + "' is missing.");
  return *found;
}

std::optional<std::string> Exchange::query(const std::string& name) const {
  if (request.get_param_value_count(name) > 1) {
    throw Problem(ProblemKind::kBadRequest, "The query has more than one '" + name + "'.");
  }
  if (!request.has_param(name)) return std::nullopt;
  return request.get_param_value(name);
}

bool Exchange::flag(const std::string& name, bool otherwise) const {
  const std::optional<std::string> text = query(name);
  if (!text) return otherwise;
  if (*text == "true" || *text == "1") return true;
  if (*text == "false" || *text == "0") return false;
  throw Problem(ProblemKind::kBadRequest, "'" + name + "' must be true or false.");
}

std::int64_t Exchange::number(const std::string& name, std::int64_t otherwise, std::int64_t least,
                              std::int64_t most) const {
  const std::optional<std::string> text = query(name);
  if (!text) return otherwise;
  const std::optional<std::int64_t> value = parsed<std::int64_t>(*text);
  if (!value || *value < least || *value > most) {
    throw Problem(ProblemKind::kBadRequest, "'" + name + "' must be a whole number from " + std::to_string(least) +
                                                " to " + std::to_string(most) + ".");
  }
  return *value;
}

std::optional<double> Exchange::rate(const std::string& name) const {
  const std::optional<std::string> text = query(name);
  if (!text) return std::nullopt;
  const std::optional<double> value = parsed<double>(*text);
  if (!value || !(*value > 0 && *value < 1)) {
    throw Problem(ProblemKind::kBadRequest, "'" + name + "' must be a rate above 0 and below 1.");
  }
  return value;
}

void Exchange::accept_queries(std::initializer_list<std::string_view> names) const {
  for (const auto& [name, value] : request.params) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    std::string accepted;
    for (const std::string_view known : names) accepted += (accepted.empty() ? "" : ", ") + std::string(known);
    throw Problem(ProblemKind::kBadRequest, "'" + name + "' is no query of this path; " +
                                                (accepted.empty() ? "it has none." : "it has " + accepted + "."));
  }
}

void Exchange::answer(int status, const nlohmann::json& content) {
  response.status = status;
  response.set_content(content.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), "application/json");
}

}  // namespace pocketnet::server
