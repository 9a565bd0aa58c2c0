// Which handler answers which method and path.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "exchange.h"

namespace pocketnet::server {

enum class Access { kOpen, kToken };
enum class BodyKind { kNone, kBytes, kBytesOrParts };

struct Route {
  std::string method;   // GET (HEAD, too), POST or DELETE
  std::string pattern;  // as in /v1/galleries/{gallery}/people/{person}; {name}:search takes what stands before it
  Access access = Access::kToken;
  BodyKind body = BodyKind::kNone;
  std::function<void(Exchange&)> handle;
};

class Router {
 public:
  using Places = std::map<std::string, std::string, std::less<>>;

  struct Found {
    const Route* route = nullptr;  // null where the path is unknown, or none of its methods is asked for
    Places path;
    std::string allowed;  // methods of the path, as in "GET, HEAD"
  };

  void add(Route route);
  Found find(std::string_view method, std::string_view path) const;

 private:
  struct Entry {
    Route route;
    std::vector<std::string> segments;
  };
  std::vector<Entry> entries_;
};

}  // namespace pocketnet::server
