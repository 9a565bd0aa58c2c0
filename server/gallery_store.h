// The galleries of one folder, by name: people.gallery is "people".
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gallery_file.h"

namespace pocketnet::server {

class GalleryStore {
 public:
  // Opens what there is. Throws std::runtime_error for no such folder, and for a gallery that cannot be read.
  GalleryStore(std::filesystem::path folder, bool read_only);

  bool read_only() const { return read_only_; }

  // By name, in order; galleries that came since are opened, and those whose files went are closed. A file that cannot be
  // read is left out, and the log says why.
  std::map<std::string, std::shared_ptr<GalleryFile>> all();

  // Null if there is none of the name.
  std::shared_ptr<GalleryFile> find(const std::string& name);

  // Why a model of this space cannot take the place of the one in use, or nothing.
  std::optional<std::string> objection(const EmbeddingSpace& space);

  static bool is_name(const std::string& text);

 private:
  std::shared_ptr<GalleryFile> open(const std::string& name);

  const std::filesystem::path folder_;
  const bool read_only_;
  std::mutex mutex_;
  struct Entry {
    std::shared_ptr<GalleryFile> gallery;
    std::pair<std::uint64_t, std::uint64_t> file;  // device and inode
  };
  std::map<std::string, Entry> open_;
};

}  // namespace pocketnet::server
