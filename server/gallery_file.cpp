#include "gallery_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "cosines.h"
#include "embedded_files.h"

namespace pocketnet::server {
namespace {

static_assert(std::endian::native == std::endian::little, "embeddings lie in the file as they lie in memory here");

constexpr std::int64_t kApplication = 0x504E4647;  // "PNFG"
constexpr std::int64_t kSchemaVersion = 1;
constexpr std::int64_t kMostDimensions = 65536;
// Tables that SQLite makes for itself.
constexpr const char* kOfSqlite[] = {
    "CREATE TABLE sqlite_sequence(name,seq)",
    "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
};

// A folder that cannot be written has no place for SQLite's shared memory; nobody writes to its files either.
std::unique_ptr<SqliteDatabase> open_read_only(const std::string& path) {
  try {
    auto database = std::make_unique<SqliteDatabase>(path, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOFOLLOW);
    database->prepare("SELECT 1 FROM sqlite_schema").step();
    return database;
  } catch (const SqliteError& error) {
    if (error.code() != SQLITE_CANTOPEN) throw;
  }
  return std::make_unique<SqliteDatabase>("file:" + path + "?immutable=1",
                                          SQLITE_OPEN_READONLY | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_URI);
}

// The statements that make a gallery, as SQLite keeps them: one by one, without the semicolons that end them.
std::set<std::string> schema_statements() {
  constexpr std::string_view kBetween = ";\n\nCREATE ";
  std::string_view text = embedded::kGallerySchema;
  text = text.substr(0, text.find_last_of(';'));
  std::set<std::string> statements;
  for (std::size_t end = text.find(kBetween); end != std::string_view::npos; end = text.find(kBetween)) {
    statements.emplace(text.substr(0, end));
    text.remove_prefix(end + 3);
  }
  statements.emplace(text);
  return statements;
}

}  // namespace

GalleryFile::GalleryFile(std::string path, bool read_only) : path_(std::move(path)) {
  try {
    database_ = read_only ? open_read_only(path_)
                          : std::make_unique<SqliteDatabase>(path_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW);
    database_->execute(
        "PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = "
        "ON");
    if (!read_only) database_->execute("PRAGMA secure_delete = ON");
    check();
    read_space();
    refresh();
  } catch (const SqliteError& error) {
    throw std::runtime_error(path_ + ": no gallery that can be read: " + error.what());
  }
}

void GalleryFile::check() {
  if (database_->pragma("application_id") != kApplication) throw std::runtime_error(path_ + ": is no gallery");
  const std::int64_t version = database_->pragma("user_version");
  if (version != kSchemaVersion) {
    throw std::runtime_error(path_ + ": a gallery of version " + std::to_string(version) + "; this program reads " +
                             std::to_string(kSchemaVersion));
  }
  // A trigger that a gallery does not have is somebody's program, whatever it is called.
  std::set<std::string> found;
  SqliteStatement rows = database_->prepare("SELECT sql FROM sqlite_schema WHERE sql NOT NULL");
  while (rows.step()) found.insert(rows.text(0));
  for (const char* statement : kOfSqlite) found.erase(statement);
  if (found != schema_statements()) throw std::runtime_error(path_ + ": has not the tables and triggers of a gallery");
}

void GalleryFile::read_space() {
  SqliteStatement row = database_->prepare("SELECT model, weights_sha256, flip, dimensions FROM gallery");
  if (!row.step()) throw std::runtime_error(path_ + ": an unfinished gallery");
  // The schema's own bounds hold for what SQLite wrote, and not for what was written past it.
  const std::int64_t dimensions = row.integer(3);
  if (dimensions < 1 || dimensions > kMostDimensions) {
    throw std::runtime_error(path_ + ": damaged: it states " + std::to_string(dimensions) + " dimensions");
  }
  space_ = {row.text(0), row.text(1), row.integer(2) != 0, static_cast<int>(dimensions)};
}

// Brings the vectors to the state of the file. Called inside a transaction, so that what follows is of the same state.
void GalleryFile::refresh() {
  SqliteStatement gallery = database_->prepare("SELECT uuid FROM gallery");
  if (!gallery.step()) throw std::runtime_error(path_ + ": an unfinished gallery");
  const std::string uuid = gallery.text(0);
  SqliteStatement newest = database_->prepare("SELECT number, mark FROM change ORDER BY number DESC LIMIT 1");
  const bool changed = newest.step();
  const std::int64_t number = changed ? newest.integer(0) : 0;
  const std::int64_t mark = changed ? newest.integer(1) : 0;
  if (uuid == uuid_ && number == number_ && mark == mark_) return;
  SqliteStatement known = database_->prepare("SELECT mark FROM change WHERE number = ?");
  known.bind(number_);
  const bool follows = uuid == uuid_ && (number_ == 0 || (known.step() && known.integer(0) == mark_));
  if (follows) {
    read_changes(number_);
  } else {
    read_space();
    read_all();
  }
  uuid_ = uuid;
  number_ = number;
  mark_ = mark;
}

void GalleryFile::read_all() {
  uuid_.clear();  // an error on the way leaves nothing half known
  vectors_.clear();
  face_of_row_.clear();
  person_of_row_.clear();
  row_of_face_.clear();
  SqliteStatement faces = database_->prepare("SELECT id, person, embedding FROM face");
  while (faces.step()) put(faces.integer(0), faces.integer(1), faces.blob(2));
}

void GalleryFile::read_changes(std::int64_t known) {
  SqliteStatement changes = database_->prepare("SELECT DISTINCT face FROM change WHERE number > ? AND face NOT NULL");
  changes.bind(known);
  while (changes.step()) {
    const std::int64_t face = changes.integer(0);
    SqliteStatement row = database_->prepare("SELECT person, embedding FROM face WHERE id = ?");
    row.bind(face);
    if (row.step()) {
      put(face, row.integer(0), row.blob(1));
    } else {
      drop(face);
    }
  }
}

void GalleryFile::put(std::int64_t face, std::int64_t person, std::span<const std::uint8_t> embedding) {
  const auto dimensions = static_cast<std::size_t>(space_.dimensions);
  if (embedding.size() != sizeof(float) * dimensions) {
    throw std::runtime_error(path_ + ": damaged: face " + std::to_string(face) + " has an embedding of " +
                             std::to_string(embedding.size()) + " bytes");
  }
  const auto [place, is_new] = row_of_face_.try_emplace(face, face_of_row_.size());
  if (is_new) {
    face_of_row_.push_back(face);
    person_of_row_.push_back(person);
    vectors_.resize(vectors_.size() + dimensions);
  }
  person_of_row_[place->second] = person;
  std::memcpy(vectors_.data() + place->second * dimensions, embedding.data(), embedding.size());
}

// The last row takes the place of the one that goes.
void GalleryFile::drop(std::int64_t face) {
  const auto place = row_of_face_.find(face);
  if (place == row_of_face_.end()) return;
  const auto dimensions = static_cast<std::size_t>(space_.dimensions);
  const std::size_t row = place->second;
  const std::size_t last = face_of_row_.size() - 1;
  std::copy_n(vectors_.data() + last * dimensions, dimensions, vectors_.data() + row * dimensions);
  face_of_row_[row] = face_of_row_[last];
  person_of_row_[row] = person_of_row_[last];
  row_of_face_[face_of_row_[row]] = row;
  row_of_face_.erase(face);
  face_of_row_.pop_back();
  person_of_row_.pop_back();
  vectors_.resize(last * dimensions);
}

EmbeddingSpace GalleryFile::space() const {
  const std::lock_guard lock(mutex_);
  return space_;
}

std::pair<std::int64_t, std::int64_t> GalleryFile::counts() {
  const std::lock_guard lock(mutex_);
  SqliteStatement row = database_->prepare("SELECT (SELECT count(*) FROM person), (SELECT count(*) FROM face)");
  row.step();
  return {row.integer(0), row.integer(1)};
}

std::vector<PersonRow> GalleryFile::people(std::int64_t after, std::int64_t most) {
  const std::lock_guard lock(mutex_);
  SqliteStatement rows = database_->prepare(
      "SELECT id, name, notes, (SELECT count(*) FROM face WHERE face.person = person.id) FROM person WHERE id > ? "
      "ORDER BY id LIMIT ?");
  rows.bind(after).bind(most);
  std::vector<PersonRow> people;
  while (rows.step()) people.push_back({rows.integer(0), rows.text(1), rows.text(2), rows.integer(3)});
  return people;
}

std::optional<PersonRow> GalleryFile::person(std::int64_t id) {
  const std::lock_guard lock(mutex_);
  SqliteStatement row = database_->prepare(
      "SELECT id, name, notes, (SELECT count(*) FROM face WHERE face.person = person.id) FROM person WHERE id = ?");
  row.bind(id);
  if (!row.step()) return std::nullopt;
  return PersonRow{row.integer(0), row.text(1), row.text(2), row.integer(3)};
}

std::vector<FaceRow> GalleryFile::faces(std::int64_t person) {
  const std::lock_guard lock(mutex_);
  SqliteStatement rows = database_->prepare(
      "SELECT id, photo, box_left, box_top, box_width, box_height, quality, added FROM face WHERE person = ? "
      "ORDER BY id");
  rows.bind(person);
  std::vector<FaceRow> faces;
  while (rows.step()) {
    FaceRow face;
    face.id = rows.integer(0);
    face.photo = rows.text(1);
    face.added = rows.integer(7);
    if (!rows.is_null(2)) face.box = {rows.real(2), rows.real(3), rows.real(4), rows.real(5)};
    if (!rows.is_null(6)) face.quality = rows.real(6);
    faces.push_back(std::move(face));
  }
  return faces;
}

std::int64_t GalleryFile::insert_face(std::int64_t person, const NewFace& face) {
  SqliteStatement insert = database_->prepare(
      "INSERT INTO face (person, embedding, box_left, box_top, box_width, box_height) VALUES (?, ?, ?, ?, ?, ?)");
  insert.bind(person).bind(
      std::span(reinterpret_cast<const std::uint8_t*>(face.embedding.data()), sizeof(float) * face.embedding.size()));
  for (const float side : face.box) insert.bind(static_cast<double>(side));
  insert.run();
  return database_->last_id();
}

std::pair<std::int64_t, std::int64_t> GalleryFile::add(const std::string& name, const NewFace& face) {
  const std::lock_guard lock(mutex_);
  SqliteDatabase::Transaction transaction(*database_, "BEGIN IMMEDIATE");
  SqliteStatement known = database_->prepare("SELECT id FROM person WHERE name = ?");
  known.bind(std::string_view(name));
  std::int64_t person = 0;
  if (known.step()) {
    person = known.integer(0);
  } else {
    database_->prepare("INSERT INTO person (name) VALUES (?)").bind(std::string_view(name)).run();
    person = database_->last_id();
  }
  const std::int64_t id = insert_face(person, face);
  transaction.commit();
  return {person, id};
}

std::optional<std::int64_t> GalleryFile::add(std::int64_t person, const NewFace& face) {
  const std::lock_guard lock(mutex_);
  SqliteDatabase::Transaction transaction(*database_, "BEGIN IMMEDIATE");
  SqliteStatement known = database_->prepare("SELECT 1 FROM person WHERE id = ?");
  known.bind(person);
  if (!known.step()) return std::nullopt;
  const std::int64_t id = insert_face(person, face);
  transaction.commit();
  return id;
}

bool GalleryFile::remove(std::int64_t person) {
  const std::lock_guard lock(mutex_);
  SqliteDatabase::Transaction transaction(*database_, "BEGIN IMMEDIATE");
  database_->prepare("DELETE FROM person WHERE id = ?").bind(person).run();
  const bool removed = database_->changes() > 0;
  transaction.commit();
  return removed;
}

// Rows of the best face of each of the best people: the best rows are sorted, more of them until there are enough people.
std::vector<std::size_t> GalleryFile::best_rows(const std::vector<float>& scores, std::size_t top) const {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto better = [&](std::size_t a, std::size_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : face_of_row_[a] < face_of_row_[b];
  };
  std::vector<std::size_t> rows;
  for (std::size_t looked = std::min(order.size(), 4 * top);; looked = std::min(order.size(), 8 * looked)) {
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(looked), order.end(), better);
    std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(looked), better);
    rows.clear();
    std::unordered_set<std::int64_t> seen;
    for (std::size_t i = 0; i < looked && rows.size() < top; ++i) {
      if (seen.insert(person_of_row_[order[i]]).second) rows.push_back(order[i]);
    }
    if (rows.size() == top || looked == order.size()) return rows;
  }
}

std::vector<GalleryMatch> GalleryFile::search(const std::vector<float>& embedding, std::size_t top) {
  const std::lock_guard lock(mutex_);
  SqliteDatabase::Transaction transaction(*database_, "BEGIN");
  refresh();
  if (face_of_row_.empty()) return {};
  if (embedding.size() != static_cast<std::size_t>(space_.dimensions)) {
    throw std::runtime_error(path_ + ": has become a gallery of " + std::to_string(space_.dimensions) + " dimensions");
  }
  std::vector<float> scores(face_of_row_.size());
  cosines_to(embedding, vectors_, scores);
  // What is NaN has no order to be sorted by.
  for (std::size_t row = 0; row < scores.size(); ++row) {
    if (!std::isfinite(scores[row])) {
      throw std::runtime_error(path_ + ": damaged: the embedding of face " + std::to_string(face_of_row_[row]) +
                               " is not finite");
    }
  }
  std::vector<GalleryMatch> matches;
  for (const std::size_t row : best_rows(scores, top)) {
    SqliteStatement name = database_->prepare("SELECT name FROM person WHERE id = ?");
    name.bind(person_of_row_[row]);
    if (!name.step()) throw std::runtime_error(path_ + ": damaged: a face belongs to nobody");
    matches.push_back({person_of_row_[row], face_of_row_[row], name.text(0), scores[row]});
  }
  return matches;
}

}  // namespace pocketnet::server
