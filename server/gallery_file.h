// One gallery of people, in the SQLite file that docs/gallery_format.md describes, with its embeddings in memory.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "embedding_space.h"
#include "sqlite.h"

namespace pocketnet::server {

struct PersonRow {
  std::int64_t id = 0;
  std::string name;
  std::string notes;
  std::int64_t faces = 0;
};

struct FaceRow {
  std::int64_t id = 0;
  std::string photo;
  std::optional<std::array<double, 4>> box;
  std::optional<double> quality;
  std::int64_t added = 0;  // seconds since 1970
};

struct NewFace {
  std::vector<float> embedding;  // of length 1
  std::array<float, 4> box{};
};

struct GalleryMatch {
  std::int64_t person = 0;
  std::int64_t face = 0;
  std::string name;
  float cosine = 0;
};

// Any thread may call; a call waits for the one before it. What other programs wrote is seen by the next call.
class GalleryFile {
 public:
  // Throws std::runtime_error, naming the file, for anything but a gallery of this version.
  GalleryFile(std::string path, bool read_only);

  // As the last call saw it: another gallery may have been put into the file.
  EmbeddingSpace space() const;

  std::pair<std::int64_t, std::int64_t> counts();  // people, faces
  std::vector<PersonRow> people(std::int64_t after, std::int64_t most);
  std::optional<PersonRow> person(std::int64_t id);
  std::vector<FaceRow> faces(std::int64_t person);

  // Adds a face to the person of this name, who is made if there is none. Person and face.
  std::pair<std::int64_t, std::int64_t> add(const std::string& name, const NewFace& face);
  // Adds a face to a person; nothing if there is no such person.
  std::optional<std::int64_t> add(std::int64_t person, const NewFace& face);
  // False if there is no such person.
  bool remove(std::int64_t person);

  // The best face of each of the `top` people who are most like the embedding, best first.
  std::vector<GalleryMatch> search(const std::vector<float>& embedding, std::size_t top);

 private:
  void check();
  void read_space();
  void refresh();
  void read_all();
  void read_changes(std::int64_t known);
  void put(std::int64_t face, std::int64_t person, std::span<const std::uint8_t> embedding);
  void drop(std::int64_t face);
  std::int64_t insert_face(std::int64_t person, const NewFace& face);
  std::vector<std::size_t> best_rows(const std::vector<float>& scores, std::size_t top) const;

  const std::string path_;
  mutable std::mutex mutex_;
  std::unique_ptr<SqliteDatabase> database_;
  EmbeddingSpace space_;

  // The state that the vectors below are of.
  std::string uuid_;
  std::int64_t number_ = 0;
  std::int64_t mark_ = 0;
  std::vector<float> vectors_;  // [rows][dimensions]
  std::vector<std::int64_t> face_of_row_;
  std::vector<std::int64_t> person_of_row_;
  std::unordered_map<std::int64_t, std::size_t> row_of_face_;
};

}  // namespace pocketnet::server
