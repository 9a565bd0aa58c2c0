#include "router.h"

#include <optional>
#include <utility>

namespace pocketnet::server {
namespace {

std::vector<std::string> segments_of(std::string_view path) {
  std::vector<std::string> segments;
  for (std::size_t begin = 1; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    segments.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return segments;
}

// What stands in the place of a pattern's {name}, or nothing where the segment is another. Literal text may follow the
// name, as in {name}:search; without it a place takes no colon, so that a path has one meaning.
std::optional<std::pair<std::string, std::string>> place(std::string_view pattern, std::string_view segment) {
  const std::size_t close = pattern.find('}');
  const std::string_view name = pattern.substr(1, close - 1);
  const std::string_view end = pattern.substr(close + 1);
  if (segment.size() <= end.size() || !segment.ends_with(end)) return std::nullopt;
  const std::string_view value = segment.substr(0, segment.size() - end.size());
  if (end.empty() && value.find(':') != std::string_view::npos) return std::nullopt;
  return std::pair{std::string(name), std::string(value)};
}

std::optional<Router::Places> match(const std::vector<std::string>& pattern, const std::vector<std::string>& path) {
  if (pattern.size() != path.size()) return std::nullopt;
  Router::Places places;
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (!pattern[i].starts_with('{')) {
      if (pattern[i] != path[i]) return std::nullopt;
      continue;
    }
    auto found = place(pattern[i], path[i]);
    if (!found) return std::nullopt;
    places.insert(std::move(*found));
  }
  return places;
}

}  // namespace

void Router::add(Route route) {
  std::vector<std::string> segments = segments_of(route.pattern);
  entries_.push_back({std::move(route), std::move(segments)});
}

Router::Found Router::find(std::string_view method, std::string_view path) const {
  Found found;
  const std::vector<std::string> segments = segments_of(path);
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  for (const Entry& entry : entries_) {
    std::optional<Places> places = match(entry.segments, segments);
    if (!places) continue;
    const std::string methods = entry.route.method == "GET" ? "GET, HEAD" : entry.route.method;
    found.allowed += (found.allowed.empty() ? "" : ", ") + methods;
    if (entry.route.method != wanted) continue;
    found.route = &entry.route;
    found.path = std::move(*places);
  }
  return found;
}

}  // namespace pocketnet::server
