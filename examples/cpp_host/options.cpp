#include "options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <cstdio>

namespace {

constexpr const char* kDescription =
    "Of a file that takes photos, prints the faces of each and their embeddings; of one that takes aligned 112x112\n"
    "crops, their embeddings and cosine similarities; or embeds a whole file of crops into another. If the file "
    "carries\n"
    "thresholds, each pair is decided by one, from embeddings as they were when it was calibrated: mostly with those "
    "of\n"
    "the mirror images added, so that the cosines of the decisions differ from the similarities of crops, which are\n"
    "those of the images alone. Of photos, the most prominent faces are compared.\n";

// The whole text as a number, if it is one.
template <typename Number>
std::optional<Number> number(const std::string& text) {
  Number value = 0;
  const char* const end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && last == end ? std::optional(value) : std::nullopt;
}

CLI::Validator whole_number(std::uint64_t low, std::uint64_t high) {
  const auto check = [=](const std::string& text) -> std::string {
    const auto value = number<std::uint64_t>(text);
    if (value && *value >= low && *value <= high) return "";
    return "must be a whole number of at least " + std::to_string(low) + ", got '" + text + "'";
  };
  return {check, ""};
}

CLI::Validator rate() {
  const auto check = [](const std::string& text) -> std::string {
    const auto value = number<double>(text);
    return value && *value > 0 && *value < 1 ? "" : "must be a rate above 0 and below 1, got '" + text + "'";
  };
  return {check, ""};
}

}  // namespace

std::optional<Options> parse(int argc, char** argv) {
  constexpr std::uint64_t kMost = 100'000;
  Options options;
  options.limits = pocketnet::images::ImageLimits::from_environment();
  CLI::App app(kDescription, "cpp_host");
  const auto count = [&](const char* name, int& value, std::uint64_t low, const char* about) {
    app.add_option(name, value, about)->check(whole_number(low, kMost))->type_name("N")->capture_default_str();
  };
  const auto limit = [&](const char* name, std::uint64_t& value, const char* about) {
    app.add_option(name, value, about)->check(whole_number(1, UINT64_MAX))->type_name("N")->capture_default_str();
  };
  app.add_option("MODEL", options.model, "what pocketnet export wrote")->required()->type_name("");
  auto* images =
      app.add_option("IMAGE", options.images, "photos, or aligned crops, as the file takes them")->type_name("");
  auto* far =
      app.add_option("--far", options.far,
                     "decide at this false accept rate, one of those that the file carries (default: the file's)");
  far->check(rate())->type_name("F");
  app.add_option("--ops", options.ops,
                 "the operators that a file of fused kernels calls (default: the installed ones that CMake found)")
      ->type_name("libpnf_ops.so");
  limit("--max-pixels", options.limits.pixels, "the largest image that is decoded, or $POCKETNET_MAX_PIXELS");
  limit("--max-bytes", options.limits.bytes, "the largest image file, or $POCKETNET_MAX_BYTES");
  count("--repeat", options.repeat, 1, "timed runs per image count");
  count("--threads", options.threads, 1, "threads that one call may use");
  count("--callers", options.callers, 0, "also call the module from N threads at once and compare");
  auto* crops = app.add_option("--crops", options.crops, "uint8 RGB crops, N x 112 x 112 x 3");
  auto* output = app.add_option("--output", options.output, "float32 embeddings, N x D, not normalised");
  crops->type_name("CROPS.npy")->needs(output)->excludes(far)->excludes(images);
  output->type_name("EMBEDDINGS.npy")->needs(crops);
  app.add_flag("--flip", options.flip, "add the embedding of the mirror image to that of each crop")->needs(crops);
  count("--batch", options.batch, 1, "crops per call");
  try {
    app.parse(argc, argv);
    if (options.images.empty() && options.crops.empty()) throw CLI::RequiredError("IMAGE, or --crops,");
  } catch (const CLI::CallForHelp&) {
    std::printf("%s", app.help().c_str());
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    throw UsageError(std::string(error.what()) + "\n\n" + app.help());
  }
  return options;
}
