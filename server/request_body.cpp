#include "request_body.h"

#include <charconv>
#include <optional>

#include "problem.h"

namespace pocketnet::server {
namespace {

constexpr std::size_t kLongestName = 256;

Problem too_large(const BodyLimits& limits) {
  return {ProblemKind::kTooLarge, "The body has more than the " + std::to_string(limits.bytes) + " bytes accepted."};
}

// Counts what arrives, and says why reading has to end.
class Intake {
 public:
  Intake(MemoryBudget::Share& memory, const BodyLimits& limits) : memory_(memory), limits_(limits) {}

  bool take(std::size_t bytes) {
    bytes_ += bytes;
    if (bytes_ > limits_.bytes) return refuse(too_large(limits_));
    if (!memory_.grow(bytes)) {
      return refuse({ProblemKind::kQueueFull, "The bodies of other requests fill the memory for them; try again."});
    }
    return true;
  }

  bool begin_part(const std::string& name) {
    if (++parts_ > limits_.parts) {
      return refuse(
          {ProblemKind::kTooLarge, "The body has more than the " + std::to_string(limits_.parts) + " parts accepted."});
    }
    if (name.size() > kLongestName) return refuse({ProblemKind::kBadRequest, "The name of a part is too long."});
    return true;
  }

  const std::optional<Problem>& problem() const { return problem_; }

 private:
  bool refuse(const Problem& problem) {
    problem_ = problem;
    return false;
  }

  MemoryBudget::Share& memory_;
  const BodyLimits& limits_;
  std::size_t bytes_ = 0;
  std::size_t parts_ = 0;
  std::optional<Problem> problem_;
};

bool receive_parts(Exchange& exchange, const httplib::ContentReader& reader, Intake& intake) {
  return reader(
      [&](const httplib::MultipartFormData& header) {
        if (!intake.begin_part(header.name)) return false;
        exchange.parts.push_back({header.name, ""});
        return true;
      },
      [&](const char* data, std::size_t size) {
        if (!intake.take(size)) return false;
        exchange.parts.back().content.append(data, size);
        return true;
      });
}

bool receive_bytes(Exchange& exchange, const httplib::ContentReader& reader, Intake& intake) {
  return reader([&](const char* data, std::size_t size) {
    if (!intake.take(size)) return false;
    exchange.body.append(data, size);
    return true;
  });
}

}  // namespace

void check_body_headers(const httplib::Request& request, const BodyLimits& limits) {
  if (request.has_header("Content-Encoding")) {
    throw Problem(ProblemKind::kUnsupportedMedia, "Bodies with a Content-Encoding are not read.");
  }
  const bool chunked = request.has_header("Transfer-Encoding");
  if (request.get_header_value_count("Content-Length") > 1 || (chunked && request.has_header("Content-Length"))) {
    throw Problem(ProblemKind::kBadRequest, "The length of the body is stated more than once.");
  }
  if (chunked) {
    if (request.get_header_value("Transfer-Encoding") != "chunked") {
      throw Problem(ProblemKind::kBadRequest, "The one Transfer-Encoding that is read is 'chunked'.");
    }
    return;
  }
  if (!request.has_header("Content-Length")) {
    throw Problem(ProblemKind::kLengthRequired, "The body needs a Content-Length, or the Transfer-Encoding 'chunked'.");
  }
  const std::string text = request.get_header_value("Content-Length");
  std::uint64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error == std::errc::result_out_of_range) throw too_large(limits);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Problem(ProblemKind::kBadRequest, "The Content-Length is no number of bytes.");
  }
  if (length > limits.bytes) throw too_large(limits);
}

void read_body(Exchange& exchange, const httplib::ContentReader& reader, MemoryBudget& budget,
               const BodyLimits& limits) {
  exchange.memory = std::make_shared<MemoryBudget::Share>(budget);
  Intake intake(*exchange.memory, limits);
  exchange.multipart = exchange.request.is_multipart_form_data();
  const bool complete =
      exchange.multipart ? receive_parts(exchange, reader, intake) : receive_bytes(exchange, reader, intake);
  if (intake.problem()) throw *intake.problem();
  if (!complete) throw Problem(ProblemKind::kBadRequest, "The body ended early, came too slowly, or is malformed.");
}

}  // namespace pocketnet::server
