// Files of this folder as they are sent; embed_files.cmake writes them into the program.
#pragma once
#include <string_view>

namespace pocketnet::server::embedded {

extern const std::string_view kPage;
extern const std::string_view kOpenApi;

// What the page's answer adds to the policy that stands in the page itself.
inline constexpr std::string_view kPagePolicy = "frame-ancestors 'none'";

}  // namespace pocketnet::server::embedded
