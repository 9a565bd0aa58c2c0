// Any bytes as a request of the Open Inference Protocol, whose first two bytes say how many of the others are JSON: refused in
// words, or the input has as many values as its shape, and an answer can be written.
#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <string_view>

#include "problem.h"
#include "require.h"
#include "tensor_message.h"

namespace {

using namespace pocketnet::server;

constexpr float kScores[] = {0.5F, -1.25F};
constexpr float kBoxes[] = {1, 2, 3, 4, 5, 6, 7, 8};

void write_answer(const InferenceRequest& request) {
  const InferenceAnswer answer = write_inference(
      request, "faces",
      {{.name = "scores", .shape = {2}, .values = kScores}, {.name = "boxes", .shape = {2, 4}, .values = kBoxes}});
  REQUIRE(answer.json_bytes.value_or(0) <= answer.body.size());
  REQUIRE(answer.body.size() < 10'000 + (request.id.is_null() ? 0 : 6 * request.id.get<std::string>().size()));
  const auto json = nlohmann::json::parse(answer.body.substr(0, answer.json_bytes.value_or(answer.body.size())));
  const std::size_t wanted = request.outputs.empty() ? 2 : request.outputs.size();
  REQUIRE(json["outputs"].size() == wanted && wanted <= 2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t stated = data[0] | data[1] << 8;
  const std::string body(data + 2, data + size);
  try {
    const InferenceRequest request =
        read_inference(body, stated == 0xffff ? std::nullopt : std::optional<std::size_t>(stated));
    const auto elements =
        std::accumulate(request.shape.begin(), request.shape.end(), std::uint64_t{1}, std::multiplies());
    REQUIRE(request.values().size() == elements);
    write_answer(request);
  } catch (const Problem& problem) {
    REQUIRE(problem.status() == 400 && std::string_view(problem.what()).ends_with('.'));
    REQUIRE(!problem.to_json("/v2", "1").empty());
  }
  return 0;
}
