// /v1/galleries: who is in them, and whom a face looks most like.
#include <charconv>
#include <cmath>

#include "problem.h"
#include "service.h"

namespace pocketnet::server {
namespace {

constexpr std::size_t kLongestPersonName = 10'000;
constexpr std::size_t kLongestNumber = 64;  // bytes in JSON, with what is around it

struct Target {
  std::string name;
  std::shared_ptr<GalleryFile> gallery;
};

Target target_of(Service& service, const Exchange& exchange) {
  const std::string& name = exchange.path.find("gallery")->second;
  std::shared_ptr<GalleryFile> gallery = service.galleries() != nullptr ? service.galleries()->find(name) : nullptr;
  if (!gallery) throw Problem(ProblemKind::kNotFound, "There is no gallery of this name.");
  return {name, std::move(gallery)};
}

std::int64_t id_of(const std::string& text, const char* what) {
  std::int64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id < 1) {
    throw Problem(ProblemKind::kBadRequest, std::string(what) + " must be a whole number of at least 1.");
  }
  return id;
}

std::int64_t person_id(const Exchange& exchange) {
  return id_of(exchange.path.find("person")->second, "The person's id in the path");
}

void require_writable(Service& service) {
  if (service.galleries()->read_only()) throw Problem(ProblemKind::kConflict, "The galleries are read-only here.");
}

void require_same_space(const GalleryFile& gallery, const LoadedModel& model) {
  if (gallery.space() == model.space) return;
  throw Problem(ProblemKind::kConflict,
                "The gallery holds embeddings of another model, other weights or without the same mirror images.");
}

// Runs on a worker, and answers with what SQLite and damaged files say.
void on_worker(Service& service, Exchange& exchange, const char* stage, std::function<void()> task) {
  auto job = std::make_shared<TaskJob>(exchange.deadline, exchange.socket);
  job->stage = stage;
  job->task = std::move(task);
  try {
    service.run(exchange, job);
  } catch (const SqliteError& error) {
    if (error.code() == SQLITE_BUSY) {
      throw Problem(ProblemKind::kQueueFull, "Another program is writing to the gallery; try again.");
    }
    throw;
  }
}

nlohmann::json person_as_json(const PersonRow& person) {
  return {{"id", person.id}, {"name", person.name}, {"notes", person.notes}, {"faces", person.faces}};
}

nlohmann::json face_row_as_json(const FaceRow& face) {
  return {{"id", face.id},
          {"photo", face.photo},
          {"box", face.box ? nlohmann::json(*face.box) : nlohmann::json(nullptr)},
          {"quality", face.quality ? nlohmann::json(*face.quality) : nlohmann::json(nullptr)},
          {"added", face.added}};
}

void list_galleries(Service& service, Exchange& exchange) {
  exchange.accept_queries({});
  nlohmann::json galleries = nlohmann::json::array();
  if (service.galleries() != nullptr) {
    for (const auto& [name, gallery] : service.galleries()->all()) {
      const auto [people, faces] = gallery->counts();
      galleries.push_back({{"name", name}, {"people", people}, {"faces", faces}});
    }
  }
  exchange.answer(200, {{"galleries", std::move(galleries)}});
}

void show_gallery(Service& service, Exchange& exchange) {
  exchange.accept_queries({});
  const Target target = target_of(service, exchange);
  const auto [people, faces] = target.gallery->counts();
  const EmbeddingSpace space = target.gallery->space();
  exchange.answer(200, {{"name", target.name},
                        {"people", people},
                        {"faces", faces},
                        {"space",
                         {{"model", space.model},
                          {"weights_sha256", space.weights_sha256},
                          {"flip", space.flip},
                          {"dimensions", space.dimensions}}}});
}

void list_people(Service& service, Exchange& exchange) {
  exchange.accept_queries({"limit", "after"});
  const std::int64_t limit = exchange.number("limit", 100, 1, 1000);
  const std::int64_t after = exchange.number("after", 0, 0, INT64_MAX);
  const std::vector<PersonRow> rows = target_of(service, exchange).gallery->people(after, limit + 1);
  nlohmann::json people = nlohmann::json::array();
  for (const PersonRow& row : rows) {
    if (static_cast<std::int64_t>(people.size()) < limit) people.push_back(person_as_json(row));
  }
  const bool more = static_cast<std::int64_t>(rows.size()) > limit;
  nlohmann::json next = more ? people.back()["id"] : nlohmann::json(nullptr);
  exchange.answer(200, {{"people", std::move(people)}, {"next", std::move(next)}});
}

void show_person(Service& service, Exchange& exchange) {
  exchange.accept_queries({});
  const Target target = target_of(service, exchange);
  const std::optional<PersonRow> person = target.gallery->person(person_id(exchange));
  if (!person) throw Problem(ProblemKind::kNotFound, "The gallery has no person of this id.");
  nlohmann::json json = person_as_json(*person);
  json["faces"] = nlohmann::json::array();
  for (const FaceRow& face : target.gallery->faces(person->id)) json["faces"].push_back(face_row_as_json(face));
  exchange.answer(200, json);
}

void delete_person(Service& service, Exchange& exchange) {
  exchange.accept_queries({});
  const Target target = target_of(service, exchange);
  require_writable(service);
  const std::int64_t id = person_id(exchange);
  auto removed = std::make_shared<bool>(false);
  on_worker(service, exchange, "gallery", [=] { *removed = target.gallery->remove(id); });
  if (!*removed) throw Problem(ProblemKind::kNotFound, "The gallery has no person of this id.");
  exchange.response.status = 204;
}

// The most prominent face of a photo.
Face main_face(Service& service, Exchange& exchange, std::string photo, const GalleryFile& gallery) {
  const auto job = service.photo_job(exchange, std::move(photo), "The photo");
  service.run(exchange, job);
  require_same_space(gallery, *job->model);
  if (job->faces.empty()) throw Problem(ProblemKind::kNoFace, "No face was found in the photo.");
  return std::move(job->faces.front());
}

struct Enrolment {
  std::string name;
  std::optional<std::int64_t> person;
};

Enrolment enrolment_of(const Exchange& exchange) {
  const Part* name = exchange.optional_part("name");
  const Part* person = exchange.optional_part("person");
  if ((name == nullptr) == (person == nullptr)) {
    throw Problem(ProblemKind::kBadRequest, "Either a part 'name' or a part 'person', an id, must say who it is.");
  }
  if (person != nullptr) return {"", id_of(person->content, "The part 'person'")};
  // Any text that JSON can carry.
  const std::string& text = name->content;
  if (text.empty() || text.size() > kLongestPersonName || text.find('\0') != std::string::npos) {
    throw Problem(ProblemKind::kBadRequest,
                  "A name has 1 to " + std::to_string(kLongestPersonName) + " bytes, none of them zero.");
  }
  try {
    static_cast<void>(nlohmann::json(text).dump());
  } catch (const nlohmann::json::exception&) {
    throw Problem(ProblemKind::kBadRequest, "The name is not UTF-8.");
  }
  return {text, std::nullopt};
}

void enrol(Service& service, Exchange& exchange) {
  exchange.accept_queries({});
  const Target target = target_of(service, exchange);
  require_writable(service);
  const Enrolment who = enrolment_of(exchange);
  if (who.person && !target.gallery->person(*who.person)) {
    throw Problem(ProblemKind::kNotFound, "The gallery has no person of this id.");
  }
  require_same_space(*target.gallery, *service.models().current());
  const Face face = main_face(service, exchange, exchange.part("photo").content, *target.gallery);
  const NewFace added{face.embedding, face.box};
  auto ids = std::make_shared<std::optional<std::pair<std::int64_t, std::int64_t>>>();
  on_worker(service, exchange, "gallery", [=] {
    if (!who.person) {
      *ids = target.gallery->add(who.name, added);
    } else if (const auto id = target.gallery->add(*who.person, added)) {
      *ids = {*who.person, *id};
    }
  });
  if (!*ids) throw Problem(ProblemKind::kNotFound, "The gallery has no person of this id any more.");
  exchange.answer(201, {{"person", (*ids)->first}, {"face", (*ids)->second}});
}

// The embedding of a body {"embedding": [...]}, brought to length 1.
std::vector<float> stated_embedding(const std::string& body, const GalleryFile& gallery) {
  const auto dimensions = static_cast<std::size_t>(gallery.space().dimensions);
  // Parsed, lists of lists take a hundred times their text.
  if (body.size() > kLongestNumber * (dimensions + 16)) {
    throw Problem(ProblemKind::kTooLarge,
                  "The body has more bytes than an embedding of " + std::to_string(dimensions) + " numbers takes.");
  }
  const nlohmann::json json = nlohmann::json::parse(body, nullptr, false);
  const bool object = json.is_object() && json.size() == 1 && json.contains("embedding");
  if (!object || !json["embedding"].is_array() || json["embedding"].size() != dimensions) {
    throw Problem(ProblemKind::kBadRequest,
                  "The body must be {\"embedding\": [" + std::to_string(dimensions) + " numbers]}.");
  }
  std::vector<float> embedding;
  double squares = 0;
  for (const nlohmann::json& value : json["embedding"]) {
    if (!value.is_number()) throw Problem(ProblemKind::kBadRequest, "An embedding consists of numbers.");
    embedding.push_back(value.get<float>());
    squares += static_cast<double>(embedding.back()) * embedding.back();
  }
  if (!std::isfinite(squares) || squares < 1e-20) {
    throw Problem(ProblemKind::kBadRequest, "The embedding's length is zero or not finite.");
  }
  for (float& value : embedding) value = static_cast<float>(value / std::sqrt(squares));
  return embedding;
}

void search(Service& service, Exchange& exchange) {
  exchange.accept_queries({"top", "far"});
  const auto top = static_cast<std::size_t>(exchange.number("top", 5, 1, 100));
  const std::optional<double> far = exchange.rate("far");
  const Target target = target_of(service, exchange);
  const ModelPointer model = service.models().current();
  const hosting::CalibratedPoint point = model->point(far);
  require_same_space(*target.gallery, *model);
  const bool json = exchange.request.get_header_value("Content-Type").starts_with("application/json");
  const std::vector<float> embedding =
      json ? stated_embedding(exchange.body, *target.gallery)
           : main_face(service, exchange, take_photo(exchange), *target.gallery).embedding;
  auto matches = std::make_shared<std::vector<GalleryMatch>>();
  on_worker(service, exchange, "search", [=] { *matches = target.gallery->search(embedding, top); });
  nlohmann::json found = nlohmann::json::array();
  for (const GalleryMatch& match : *matches) {
    found.push_back({{"person", match.person},
                     {"name", match.name},
                     {"face", match.face},
                     {"cosine", shortest(match.cosine)},
                     {"same", match.cosine >= point.threshold}});
  }
  exchange.answer(
      200,
      {{"threshold", point.threshold}, {"far", point.far}, {"matches", std::move(found)}, {"model", model->brief()}});
}

}  // namespace

void add_gallery_routes(Router& router, Service& service) {
  const auto add = [&](const char* method, const char* pattern, BodyKind body, void (*handle)(Service&, Exchange&)) {
    router.add({.method = method, .pattern = pattern, .body = body, .handle = [&service, handle](Exchange& exchange) {
                  handle(service, exchange);
                }});
  };
  add("GET", "/v1/galleries", BodyKind::kNone, list_galleries);
  add("GET", "/v1/galleries/{gallery}", BodyKind::kNone, show_gallery);
  add("POST", "/v1/galleries/{gallery}:search", BodyKind::kBytesOrParts, search);
  add("GET", "/v1/galleries/{gallery}/people", BodyKind::kNone, list_people);
  add("POST", "/v1/galleries/{gallery}/people", BodyKind::kBytesOrParts, enrol);
  add("GET", "/v1/galleries/{gallery}/people/{person}", BodyKind::kNone, show_person);
  add("DELETE", "/v1/galleries/{gallery}/people/{person}", BodyKind::kNone, delete_person);
}

}  // namespace pocketnet::server
