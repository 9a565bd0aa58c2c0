#include "gallery_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "log.h"

namespace pocketnet::server {
namespace {

constexpr const char* kSuffix = ".gallery";
constexpr std::size_t kLongestName = 64;

bool is_word(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

// Which file stands at a path now; nothing if none does.
std::optional<std::pair<std::uint64_t, std::uint64_t>> file_at(const std::filesystem::path& path) {
  struct stat facts{};
  if (::lstat(path.c_str(), &facts) != 0 || !S_ISREG(facts.st_mode)) return std::nullopt;
  return std::pair{static_cast<std::uint64_t>(facts.st_dev), static_cast<std::uint64_t>(facts.st_ino)};
}

}  // namespace

bool GalleryStore::is_name(const std::string& text) {
  return !text.empty() && text.size() <= kLongestName && is_word(text.front()) &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_word(c) || c == '.'; });
}

GalleryStore::GalleryStore(std::filesystem::path folder, bool read_only)
    : folder_(std::move(folder)), read_only_(read_only) {
  if (!std::filesystem::is_directory(folder_))
    throw std::runtime_error(folder_.string() + ": no such folder of galleries");
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() == kSuffix && is_name(name)) open(name);
  }
}

// The open gallery of a name, opened anew where another file stands in its place. Null if there is none.
std::shared_ptr<GalleryFile> GalleryStore::open(const std::string& name) {
  const std::filesystem::path path = folder_ / (name + kSuffix);
  const auto file = file_at(path);
  const auto known = open_.find(name);
  if (known != open_.end() && file && known->second.file == *file) return known->second.gallery;
  if (known != open_.end()) open_.erase(known);
  if (!file) return nullptr;
  auto gallery = std::make_shared<GalleryFile>(path.string(), read_only_);
  open_[name] = {gallery, *file};
  return gallery;
}

std::map<std::string, std::shared_ptr<GalleryFile>> GalleryStore::all() {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::shared_ptr<GalleryFile>> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != kSuffix || !is_name(name)) continue;
    try {
      if (auto gallery = open(name)) found.emplace(name, std::move(gallery));
    } catch (const std::exception& error) {
      log(LogLevel::kWarn, "gallery_refused", {{"what", error.what()}});
    }
  }
  return found;
}

std::shared_ptr<GalleryFile> GalleryStore::find(const std::string& name) {
  if (!is_name(name)) return nullptr;
  const std::lock_guard lock(mutex_);
  return open(name);
}

std::optional<std::string> GalleryStore::objection(const EmbeddingSpace& space) {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, entry] : open_) {
    if (entry.gallery->space() != space) {
      return "the gallery '" + name + "' is open and holds embeddings of another model, other weights or without the " +
             "same mirror images";
    }
  }
  return std::nullopt;
}

}  // namespace pocketnet::server
