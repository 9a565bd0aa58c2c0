#include "library/content.h"

#include <string>

#include "library/status.h"

namespace pnf::library {

Content Content::of_file(const char* path, std::size_t) {
  throw Refusal(POCKETNET_UNSUPPORTED, std::string(path) + ": there are no files here, but pocketnet_open_memory()");
}

Content::~Content() = default;

}  // namespace pnf::library
