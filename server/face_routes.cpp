// /v1/faces, /v1/verify and /v1/embed.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "images/image.h"
#include "problem.h"
#include "service.h"

namespace pocketnet::server {
namespace {

constexpr std::int64_t kCropBytes = hosting::kCropSide * hosting::kCropSide * 3;
constexpr const char* kRawType = "application/octet-stream";

void faces(Service& service, Exchange& exchange) {
  exchange.accept_queries({"embeddings", "max_faces"});
  const bool embeddings = exchange.flag("embeddings", false);
  const std::int64_t most = exchange.number("max_faces", 1 << 20, 1, 1 << 20);
  const auto job = service.photo_job(exchange, take_photo(exchange), "The photo");
  service.run(exchange, job);
  nlohmann::json found = nlohmann::json::array();
  for (const Face& face : job->faces) {
    if (static_cast<std::int64_t>(found.size()) == most) break;
    found.push_back(face_as_json(face, embeddings));
  }
  exchange.answer(
      200,
      {{"width", job->width}, {"height", job->height}, {"faces", std::move(found)}, {"model", job->model->brief()}});
}

const Face& main_face(const PhotoJob& job) {
  if (job.faces.empty()) throw Problem(ProblemKind::kNoFace, "No face was found in part '" + job.called + "'.");
  return job.faces.front();
}

void verify(Service& service, Exchange& exchange) {
  exchange.accept_queries({"far"});
  const std::optional<double> far = exchange.rate("far");
  std::shared_ptr<PhotoJob> jobs[2];
  for (int i = 0; i < 2; ++i) {
    const std::string name = i == 0 ? "a" : "b";
    jobs[i] = service.photo_job(exchange, exchange.part(name).content, "The photo '" + name + "'");
  }
  service.models().current()->point(far);  // before the work
  for (const auto& job : jobs) service.submit(exchange, job);
  for (const auto& job : jobs) service.wait(exchange, job);
  const Face& a = main_face(*jobs[0]);
  const Face& b = main_face(*jobs[1]);
  if (jobs[0]->model->space != jobs[1]->model->space) {
    throw Problem(ProblemKind::kConflict, "Another model took over between the two photos; try again.");
  }
  const hosting::CalibratedPoint point = jobs[1]->model->point(far);
  const float cosine = std::inner_product(a.embedding.begin(), a.embedding.end(), b.embedding.begin(), 0.0F);
  exchange.answer(200, {{"cosine", shortest(cosine)},
                        {"same", cosine >= point.threshold},
                        {"threshold", point.threshold},
                        {"far", point.far},
                        {"a", face_as_json(a, false)},
                        {"b", face_as_json(b, false)},
                        {"model", jobs[1]->model->brief()}});
}

void check_count(const Service& service, std::int64_t count) {
  if (count > service.limits().crops) {
    throw Problem(ProblemKind::kTooLarge, "There are " + std::to_string(count) + " crops; at most " +
                                              std::to_string(service.limits().crops) + " are taken in a request.");
  }
}

at::Tensor raw_crops(const Service& service, const std::string& body) {
  const auto bytes = static_cast<std::int64_t>(body.size());
  if (bytes == 0 || bytes % kCropBytes != 0) {
    throw Problem(ProblemKind::kUnreadable, "The body has " + std::to_string(bytes) +
                                                " bytes; crops of 112 x 112 x 3 have a multiple of " +
                                                std::to_string(kCropBytes) + ".");
  }
  check_count(service, bytes / kCropBytes);
  at::Tensor crops = at::empty({bytes / kCropBytes, hosting::kCropSide, hosting::kCropSide, 3}, at::kByte);
  std::memcpy(crops.data_ptr(), body.data(), body.size());
  return crops;
}

// The pixels of a part that is the image of a crop. Whatever else it is, is refused by its header.
at::Tensor crop_of(const Part& part, std::size_t number) {
  constexpr std::int64_t kMostBytes = 1 << 20;
  const std::string called = "Crop " + std::to_string(number);
  try {
    const images::Image image =
        images::decode_image({reinterpret_cast<const std::uint8_t*>(part.content.data()), part.content.size()},
                             {.pixels = hosting::kCropSide * hosting::kCropSide, .bytes = kMostBytes});
    if (image.width != hosting::kCropSide || image.height != hosting::kCropSide) {
      throw Problem(ProblemKind::kUnreadable, called + " has " + std::to_string(image.width) + "x" +
                                                  std::to_string(image.height) + " pixels, not 112x112.");
    }
    return at::from_blob(const_cast<std::uint8_t*>(image.rgb.data()), {image.height, image.width, 3}, at::kByte)
        .clone();
  } catch (const images::ImageError& error) {
    const bool other = error.refusal() == images::Refusal::kUnread;
    throw Problem(other ? ProblemKind::kUnsupportedMedia : ProblemKind::kUnreadable, called + " " + error.what() + ".");
  }
}

at::Tensor crops_of_parts(const Service& service, const Exchange& exchange) {
  const auto is_crop = [](const Part& part) { return part.name == "crop"; };
  if (exchange.parts.empty() || !std::all_of(exchange.parts.begin(), exchange.parts.end(), is_crop)) {
    throw Problem(ProblemKind::kBadRequest, "The body must have parts 'crop', and no others.");
  }
  check_count(service, static_cast<std::int64_t>(exchange.parts.size()));
  std::vector<at::Tensor> crops;
  for (const Part& part : exchange.parts) crops.push_back(crop_of(part, crops.size() + 1));
  return at::stack(crops);
}

nlohmann::json rows_as_json(const at::Tensor& embeddings) {
  const at::Tensor values = embeddings.contiguous();
  nlohmann::json rows = nlohmann::json::array();
  for (std::int64_t row = 0; row < values.size(0); ++row) {
    const float* first = values.const_data_ptr<float>() + row * values.size(1);
    rows.push_back(shortest({first, static_cast<std::size_t>(values.size(1))}));
  }
  return rows;
}

void embed(Service& service, Exchange& exchange) {
  const c10::InferenceMode guard;
  exchange.accept_queries({});
  auto job = std::make_shared<CropsJob>(exchange.deadline, exchange.socket);
  job->crops = exchange.multipart ? crops_of_parts(service, exchange) : raw_crops(service, exchange.body);
  exchange.body.clear();
  service.run(exchange, job);
  if (exchange.request.get_header_value("Accept") == kRawType) {
    const at::Tensor values = job->embeddings.contiguous();
    exchange.response.set_content(static_cast<const char*>(values.const_data_ptr()), values.nbytes(), kRawType);
    exchange.response.set_header("X-Embedding-Dimensions", std::to_string(values.size(1)));
    exchange.response.status = 200;
    return;
  }
  exchange.answer(200, {{"dimensions", job->embeddings.size(1)},
                        {"embeddings", rows_as_json(job->embeddings)},
                        {"model", job->model->brief()}});
}

}  // namespace

void add_face_routes(Router& router, Service& service) {
  const auto add = [&](const char* pattern, void (*handle)(Service&, Exchange&)) {
    router.add({.method = "POST",
                .pattern = pattern,
                .body = BodyKind::kBytesOrParts,
                .handle = [&service, handle](Exchange& exchange) { handle(service, exchange); }});
  };
  add("/v1/faces", faces);
  add("/v1/verify", verify);
  add("/v1/embed", embed);
}

}  // namespace pocketnet::server
