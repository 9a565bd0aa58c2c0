// Loads a TorchScript file or an AOTInductor package of pocketnet_fast, embeds faces and prints JSON. No Python is involved.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>

#include "crops.h"
#include "decisions.h"
#include "hosting/exported_network.h"
#include "hosting/operators.h"
#include "options.h"
#include "output.h"
#include "photos.h"

namespace hosting = pocketnet::hosting;

namespace {

void run(const Options& options) {
  // The installed library may be gone without harm to a file of ATen operators; one that is named must load.
  const std::string ops = options.ops.empty() ? hosting::installed_operators() : options.ops;
  if (!ops.empty()) hosting::load_operators(ops);
  at::set_num_threads(options.threads);
  const std::unique_ptr<hosting::ExportedNetwork> network =
      hosting::load_network(options.model, static_cast<std::size_t>(std::max(options.callers, 1)));
  Json printed = {{"model", network->metadata().raw}};
  if (!options.crops.empty()) {
    printed.update(embed_file(*network, options));
  } else {
    const std::optional<Decider> by = decider(options.model, network->metadata(), options.far);
    if (network->takes_photos()) {
      printed.update(photos_report(*network, options.images, options.limits, by));
      printed["threads"] = options.threads;
    } else {
      printed.update(crops_report(*network, options, by));
    }
  }
  print(printed);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::optional<Options> options = parse(argc, argv);
    if (options) run(*options);
    return 0;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "cpp_host: %s", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cpp_host: %s\n", hosting::one_line(error).c_str());
    return 1;
  }
}
