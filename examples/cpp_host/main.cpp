// Loads a TorchScript file of pocketnet_fast, embeds aligned face crops and prints JSON. No Python is involved.
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/script.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "image.h"

namespace {

constexpr const char* kMetadata = "pocketnet_fast.json";
constexpr const char* kUsage =
    "usage: cpp_host MODEL.pt IMAGE... [--ops libpnf_ops.so] [--repeat N] [--threads N] [--callers N]\n"
    "\n"
    "Prints the embeddings of aligned 112x112 crops (JPEG, PNG or binary PPM) and their cosine similarities.\n"
    "  --ops FILE   the operators that a file of fused kernels calls; the default is the installed one that\n"
    "               CMake found\n"
    "  --repeat N   timed runs per image count (default 20)\n"
    "  --threads N  threads that one call may use (default 1)\n"
    "  --callers N  also call the module from N threads at once and compare (default 0)\n";

struct Options {
  std::string model;
  std::string ops;
  std::vector<std::string> images;
  int repeat = 20;
  int threads = 1;
  int callers = 0;
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

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--", 0) != 0) {
      (options.model.empty() ? options.model : options.images.emplace_back()) = argument;
      continue;
    }
    if (i + 1 == argc) throw UsageError(argument + " needs a value");
    const std::string value = argv[++i];
    if (argument == "--ops") {
      options.ops = value;
    } else if (argument == "--repeat") {
      options.repeat = parse_count(argument, value, 1);
    } else if (argument == "--threads") {
      options.threads = parse_count(argument, value, 1);
    } else if (argument == "--callers") {
      options.callers = parse_count(argument, value, 0);
    } else {
      throw UsageError("unknown option " + argument);
    }
  }
  if (options.model.empty() || options.images.empty()) throw UsageError("a model and at least one image are needed");
  return options;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", c);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string number(float value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

std::string list(const torch::Tensor& row) {
  std::string out = "[";
  for (std::int64_t i = 0; i < row.size(0); ++i) out += (i == 0 ? "" : ", ") + number(row[i].item<float>());
  return out + "]";
}

// uint8 [N, 112, 112, 3]
torch::Tensor read_crops(const std::vector<std::string>& paths) {
  std::vector<torch::Tensor> crops;
  for (const std::string& path : paths) {
    const Image image = read_image(path);
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

double median_milliseconds(torch::jit::Module& module, const torch::Tensor& input, int repeat) {
  std::vector<double> times;
  for (int i = -2; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    module.forward({input});
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (i >= 0) times.push_back(elapsed.count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// Whether many threads on the one module get what one thread gets.
bool callers_agree(torch::jit::Module& module, const torch::Tensor& input, const torch::Tensor& expected, int callers) {
  std::vector<char> same(callers, 0);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&, caller] {
      const c10::InferenceMode guard;
      bool all = true;
      for (int i = 0; i < 10; ++i) all = all && torch::equal(module.forward({input}).toTensor(), expected);
      same[caller] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::all_of(same.begin(), same.end(), [](char s) { return s != 0; });
}

// Held to the end: the operators that the library registers stay in use. The installed library may be gone without
// harm to a file of ATen operators; one that the caller names must load.
void load_operators(const std::string& named) {
  std::string path = named;
#ifdef CPP_HOST_OPS
  if (path.empty() && std::ifstream(CPP_HOST_OPS)) path = CPP_HOST_OPS;
#endif
  if (!path.empty() && dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("cannot load the operators: ") + dlerror());
  }
}

int run(const Options& options) {
  if (!std::ifstream(options.model)) throw std::runtime_error(options.model + ": cannot be opened");
  load_operators(options.ops);
  at::set_num_threads(options.threads);
  const c10::InferenceMode guard;
  torch::jit::ExtraFilesMap extra = {{kMetadata, ""}};
  torch::jit::Module module;
  try {
    module = torch::jit::load(options.model, torch::kCPU, extra);
  } catch (const c10::Error& error) {
    const bool missing = std::string(error.what()).find("run_plan") != std::string::npos;
    throw std::runtime_error(options.model + (missing ? ": calls the fused kernels; name libpnf_ops.so with --ops"
                                                      : ": is no TorchScript file that this LibTorch can read"));
  }
  module.eval();
  const std::string metadata = extra[kMetadata];
  if (metadata.empty()) throw std::runtime_error(options.model + ": was not exported by pocketnet_fast");

  const torch::Tensor input = input_of(read_crops(options.images), metadata);
  const torch::Tensor embedding = module.forward({input}).toTensor().contiguous();
  const torch::Tensor unit = embedding / embedding.norm(2, {1}, true).clamp_min(1e-12);
  const torch::Tensor similarity = unit.mm(unit.t());
  const double one = median_milliseconds(module, input.slice(0, 0, 1).contiguous(), options.repeat);
  const double all = median_milliseconds(module, input, options.repeat);

  std::string json = "{\n\"model\": " + metadata + ",\n\"embeddings\": [\n";
  for (std::size_t i = 0; i < options.images.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    json += (i == 0 ? "" : ",\n") + ("{\"file\": " + quoted(options.images[i])) +
            ", \"embedding\": " + list(embedding[row]) + "}";
  }
  json += "\n],\n\"similarity\": [\n";
  for (std::int64_t i = 0; i < similarity.size(0); ++i) json += (i == 0 ? "" : ",\n") + list(similarity[i]);
  json += "\n],\n\"threads\": " + std::to_string(options.threads);
  json += ",\n\"milliseconds\": " + number(static_cast<float>(one));
  json += ",\n\"milliseconds_per_image\": " + number(static_cast<float>(all / static_cast<double>(input.size(0))));
  if (options.callers > 0) {
    const bool agree = callers_agree(module, input, embedding, options.callers);
    json += std::string(",\n\"callers_agree\": ") + (agree ? "true" : "false");
  }
  std::printf("%s\n}\n", json.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "cpp_host: %s\n\n%s", error.what(), kUsage);
    return 2;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "cpp_host: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cpp_host: %s\n", error.what());
    return 1;
  }
}
