// Files that embed_files.cmake writes into the program: those that are sent, and the schema of a gallery.
#pragma once
#include <string_view>

namespace pocketnet::server::embedded {

extern const std::string_view kPage;
extern const std::string_view kOpenApi;
extern const std::string_view kGallerySchema;

// What the page's answer adds to the policy that stands in the page itself.
inline constexpr std::string_view kPagePolicy = "frame-ancestors 'none'";

}  // namespace pocketnet::server::embedded
