// Loads a TorchScript file or an AOTInductor package of pocketnet_fast, embeds faces and prints JSON. No Python is involved.
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "decisions.h"
#include "image.h"
#include "json.h"
#include "network.h"
#include "npy.h"
#include "photos.h"

namespace {

constexpr const char* kUsage =
    "usage: cpp_host MODEL IMAGE... [--far F] [--ops libpnf_ops.so] [--repeat N] [--threads N] [--callers N]\n"
    "       cpp_host MODEL --crops CROPS.npy --output EMBEDDINGS.npy [--flip] [--batch N] [...]\n"
    "\n"
    "Of a file that takes photos, prints the faces of each and their embeddings; of one that takes aligned 112x112\n"
    "crops, their embeddings and cosine similarities; or embeds a whole file of crops into another. If the file "
    "carries\n"
    "thresholds, each pair is decided by one, from embeddings as they were when it was calibrated: mostly with those "
    "of\n"
    "the mirror images added, so that the cosines of the decisions differ from the similarities of crops, which are\n"
    "those of the images alone. Of photos, the most prominent faces are compared.\n"
    "  --far F        decide at this false accept rate, one of those that the file carries (default: the file's)\n"
    "  --ops FILE     the operators that a file of fused kernels calls; the default is the installed one that\n"
    "                 CMake found\n"
    "  --max-pixels N the largest image that is decoded (default 50000000, or $POCKETNET_MAX_PIXELS)\n"
    "  --max-bytes N  the largest image file (default 67108864, or $POCKETNET_MAX_BYTES)\n"
    "  --repeat N     timed runs per image count (default 20)\n"
    "  --threads N    threads that one call may use (default 1)\n"
    "  --callers N    also call the module from N threads at once and compare (default 0)\n"
    "  --crops FILE   uint8 RGB crops, N x 112 x 112 x 3\n"
    "  --output FILE  float32 embeddings, N x D, not normalised\n"
    "  --flip         add the embedding of the mirror image to that of each crop\n"
    "  --batch N      crops per call (default 32)\n";

struct Options {
  std::string model;
  std::string ops;
  std::string crops;
  std::string output;
  std::vector<std::string> images;
  ImageLimits limits;
  std::optional<double> far;
  bool flip = false;
  int repeat = 20;
  int threads = 1;
  int callers = 0;
  int batch = 32;
};

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int parse_count(const std::string& name, const std::string& text, int low) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < low || value > 100000) {
    throw UsageError(name + " must be a whole number of at least " + std::to_string(low) + ", got '" + text + "'");
  }
  return static_cast<int>(value);
}

double parse_far(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value > 0 && value < 1)) {
    throw UsageError("--far must be a rate above 0 and below 1, got '" + text + "'");
  }
  return value;
}

std::uint64_t parse_limit(const std::string& name, const std::string& text) {
  const bool digits = !text.empty() && text.size() <= 18 && text.find_first_not_of("0123456789") == std::string::npos;
  const std::uint64_t value = digits ? std::strtoull(text.c_str(), nullptr, 10) : 0;
  if (value == 0) throw UsageError(name + " must be a whole number of at least 1, got '" + text + "'");
  return value;
}

Options parse(int argc, char** argv) {
  constexpr const char* kValued[] = {"--ops",     "--crops",   "--output",     "--batch",     "--repeat",
                                     "--threads", "--callers", "--max-pixels", "--max-bytes", "--far"};
  Options options;
  options.limits = ImageLimits::from_environment();
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--", 0) != 0) {
      (options.model.empty() ? options.model : options.images.emplace_back()) = argument;
      continue;
    }
    if (argument == "--flip") {
      options.flip = true;
      continue;
    }
    if (std::find(std::begin(kValued), std::end(kValued), argument) == std::end(kValued)) {
      throw UsageError("unknown option " + argument);
    }
    if (i + 1 == argc) throw UsageError(argument + " needs a value");
    const std::string value = argv[++i];
    if (argument == "--ops") {
      options.ops = value;
    } else if (argument == "--crops") {
      options.crops = value;
    } else if (argument == "--output") {
      options.output = value;
    } else if (argument == "--batch") {
      options.batch = parse_count(argument, value, 1);
    } else if (argument == "--repeat") {
      options.repeat = parse_count(argument, value, 1);
    } else if (argument == "--threads") {
      options.threads = parse_count(argument, value, 1);
    } else if (argument == "--callers") {
      options.callers = parse_count(argument, value, 0);
    } else if (argument == "--far") {
      options.far = parse_far(value);
    } else if (argument == "--max-pixels") {
      options.limits.pixels = parse_limit(argument, value);
    } else {
      options.limits.bytes = parse_limit(argument, value);
    }
  }
  if (options.crops.empty() != options.output.empty()) throw UsageError("--crops and --output belong together");
  if (options.far && !options.crops.empty()) throw UsageError("--far belongs to images, --crops decides nothing");
  if (options.flip && options.crops.empty()) throw UsageError("--flip belongs to --crops");
  if (options.model.empty() || options.images.empty() == options.crops.empty()) {
    throw UsageError("a model, and either images or --crops, are needed");
  }
  return options;
}

// uint8 [N, 112, 112, 3]
torch::Tensor read_crops(const std::vector<std::string>& paths, const ImageLimits& limits) {
  std::vector<torch::Tensor> crops;
  for (const std::string& path : paths) {
    const Image image = read_image(path, limits);
    if (image.height != 112 || image.width != 112) {
      throw std::runtime_error(path + ": is " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                               "; an aligned crop of 112x112 is needed");
    }
    crops.push_back(
        torch::from_blob(const_cast<std::uint8_t*>(image.rgb.data()), {112, 112, 3}, torch::kUInt8).clone());
  }
  return torch::stack(crops);
}

// Whether the metadata says this of a key; the file is ours and its keys are unique.
bool states(const std::string& metadata, const std::string& what) { return metadata.find(what) != std::string::npos; }

// The three numbers, one a colour, that follow a key of the metadata, as [1, 3, 1, 1].
torch::Tensor per_color(const std::string& metadata, const std::string& key) {
  std::size_t at = metadata.find("\"" + key + "\": [");
  float values[3];
  for (float& value : values) {
    at = metadata.find_first_of("-0123456789", at);
    if (at == std::string::npos) throw std::runtime_error("the file does not say how its input is normalised");
    std::size_t length = 0;
    value = std::stof(metadata.substr(at, 32), &length);
    at += length;
  }
  return torch::tensor({values[0], values[1], values[2]}).view({1, 3, 1, 1});
}

torch::Tensor input_of(const torch::Tensor& rgb, const std::string& metadata) {
  const torch::Tensor crops = states(metadata, "\"color\": \"bgr\"") ? rgb.flip({3}).contiguous() : rgb;
  if (states(metadata, "\"dtype\": \"uint8\"")) return crops;
  const torch::Tensor planar = crops.permute({0, 3, 1, 2}).to(torch::kFloat32).div(255.0);
  return planar.sub(per_color(metadata, "mean")).div(per_color(metadata, "std")).contiguous();
}

// uint8 [N, 112, 112, 3] to float32 [N, D]
torch::Tensor embed(Network& network, const torch::Tensor& rgb, const std::string& metadata, bool flip) {
  torch::Tensor embedding = network.forward(input_of(rgb, metadata));
  if (flip) embedding = embedding + network.forward(input_of(rgb.flip({2}), metadata));
  return embedding.contiguous();
}

std::string decisions(Network& network, const torch::Tensor& rgb, const std::string& metadata,
                      const std::optional<Decider>& by) {
  if (!by) return "null";
  std::vector<std::size_t> names(rgb.size(0));
  std::iota(names.begin(), names.end(), std::size_t{0});
  return decisions_as_json(*by, cosines(embed(network, rgb, metadata, by->flip)), names,
                           by->flip ? "cosines of embeddings with those of the mirror images added, as calibrated"
                                    : "cosines of the embeddings above, as calibrated");
}

// A file of crops to a file of embeddings; prints what it did.
void embed_file(Network& network, const Options& options, const std::string& metadata) {
  CropFile crops(options.crops);
  std::vector<torch::Tensor> parts;
  const auto start = std::chrono::steady_clock::now();
  for (auto pixels = crops.read(options.batch); !pixels.empty(); pixels = crops.read(options.batch)) {
    const auto size = static_cast<std::int64_t>(pixels.size()) / CropFile::kBytes;
    const torch::Tensor rgb =
        torch::from_blob(pixels.data(), {size, CropFile::kSide, CropFile::kSide, 3}, torch::kUInt8);
    parts.push_back(embed(network, rgb, metadata, options.flip));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (parts.empty()) throw std::runtime_error(options.crops + ": holds no crop");
  const torch::Tensor all = torch::cat(parts);
  write_npy(options.output, all.data_ptr<float>(), all.size(0), all.size(1));
  std::printf("{\n\"model\": %s,\n\"crops\": %lld,\n\"flip\": %s,\n\"threads\": %d,\n\"seconds\": %.3f\n}\n",
              metadata.c_str(), static_cast<long long>(all.size(0)), options.flip ? "true" : "false", options.threads,
              elapsed.count());
}

double median_milliseconds(Network& network, const torch::Tensor& input, int repeat) {
  std::vector<double> times;
  for (int i = -2; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    network.forward(input);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (i >= 0) times.push_back(elapsed.count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// Whether many threads on the one module get what one thread gets.
bool callers_agree(Network& network, const torch::Tensor& input, const torch::Tensor& expected, int callers) {
  std::vector<char> same(callers, 0);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&, caller] {
      const c10::InferenceMode guard;
      bool all = true;
      for (int i = 0; i < 10; ++i) all = all && torch::equal(network.forward(input), expected);
      same[caller] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::all_of(same.begin(), same.end(), [](char s) { return s != 0; });
}

// Held to the end: the operators that the library registers stay in use. The installed library may be gone without
// harm to a file of ATen operators; one that the caller names must load. The loader looks for a name without folder
// among the system's libraries only, so it is given a whole path.
void load_operators(const std::string& named) {
  std::string path = named;
  if (!path.empty()) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
      throw std::runtime_error("cannot load the operators: " + path + " is no file");
    }
    path = std::filesystem::absolute(path).string();
  }
#ifdef CPP_HOST_OPS
  if (path.empty() && std::ifstream(CPP_HOST_OPS)) path = CPP_HOST_OPS;
#endif
  if (!path.empty() && dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("cannot load the operators: ") + dlerror());
  }
}

int run(const Options& options) {
  load_operators(options.ops);
  at::set_num_threads(options.threads);
  const c10::InferenceMode guard;
  const std::unique_ptr<Network> loaded = load_network(options.model);
  Network& network = *loaded;
  const std::string& metadata = network.metadata();

  if (!options.crops.empty()) {
    embed_file(network, options, metadata);
    return 0;
  }
  const std::optional<Decider> by = decider(options.model, metadata, options.far);
  if (network.takes_photos()) {
    std::printf("{\n\"model\": %s,\n\"photos\": %s,\n\"threads\": %d\n}\n", metadata.c_str(),
                faces_as_json(network, options.images, options.limits, by).c_str(), options.threads);
    return 0;
  }
  const torch::Tensor rgb = read_crops(options.images, options.limits);
  const torch::Tensor input = input_of(rgb, metadata);
  const torch::Tensor embedding = network.forward(input).contiguous();
  const torch::Tensor similarity = cosines(embedding);
  const double one = median_milliseconds(network, input.slice(0, 0, 1).contiguous(), options.repeat);
  const double all = median_milliseconds(network, input, options.repeat);

  std::string json = "{\n\"model\": " + metadata + ",\n\"embeddings\": [\n";
  for (std::size_t i = 0; i < options.images.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    json += (i == 0 ? "" : ",\n") + ("{\"file\": " + quoted(options.images[i])) +
            ", \"embedding\": " + list(embedding[row]) + "}";
  }
  json += "\n],\n\"similarity_of\": \"the embeddings above, of the images alone\"";
  json += ",\n\"similarity\": [\n";
  for (std::int64_t i = 0; i < similarity.size(0); ++i) json += (i == 0 ? "" : ",\n") + list(similarity[i]);
  json += "\n],\n\"decisions\": " + decisions(network, rgb, metadata, by);
  json += ",\n\"threads\": " + std::to_string(options.threads);
  json += ",\n\"milliseconds\": " + number(static_cast<float>(one));
  json += ",\n\"milliseconds_per_image\": " + number(static_cast<float>(all / static_cast<double>(input.size(0))));
  if (options.callers > 0) {
    const bool agree = callers_agree(network, input, embedding, options.callers);
    json += std::string(",\n\"callers_agree\": ") + (agree ? "true" : "false");
  }
  std::printf("%s\n}\n", json.c_str());
  return 0;
}

// The one line of an error that says what happened. TorchScript puts the operator's message at the end of a traceback,
// and torch its own in front of one.
std::string one_line(std::string text) {
  const std::string mark = "RuntimeError: ";
  const std::size_t last = text.rfind(mark);
  if (last != std::string::npos) text.erase(0, last + mark.size());
  text.erase(0, text.find_first_not_of(" \n"));
  return text.substr(0, text.find('\n'));
}

}  // namespace

// What runs inside a TorchScript module, torch's own errors too, arrives as std::runtime_error; an operator that is
// called directly throws c10::Error.
int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "cpp_host: %s\n\n%s", error.what(), kUsage);
    return 2;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "cpp_host: %s\n", one_line(error.what_without_backtrace()).c_str());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cpp_host: %s\n", one_line(error.what()).c_str());
    return 1;
  }
}
