#include "options.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <fstream>
#include <map>

#include "hosting/operators.h"

namespace pocketnet::server {
namespace {

// Processors that this process may use: those of its affinity mask, and no more than its control group has time for.
int usable_processors() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  int count = ::sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : 1;
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  double allowed = 0, period = 0;
  if (quota >> allowed >> period && period > 0) {
    count = std::min(count, std::max(1, static_cast<int>(allowed / period + 0.5)));
  }
  return std::max(count, 1);
}

std::string environment_name(const std::string& option) {
  std::string name = "POCKETNET_";
  for (const char c : option.substr(2)) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" ||
         (host.rfind("127.", 0) == 0 && host.find_first_not_of("0123456789.") == std::string::npos);
}

class Parser {
 public:
  Parser() : app_("A face service: photos in; faces, embeddings and decisions out, over HTTP.") {
    app_.set_help_flag("--help", "Print this and end");
    app_.set_version_flag("--version", POCKETNET_VERSION);
    app_.get_formatter()->column_width(34);
    options_.engine.workers = usable_processors();
    options_.operators = hosting::installed_operators();
    add_model();
    add_network();
    add_work();
    add_operation();
  }

  ParsedOptions parse(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& success) {
      return {options_, app_.exit(success)};
    } catch (const CLI::ParseError& error) {
      std::fprintf(stderr, "pocketnet_server: %s\n", error.what());
      return {options_, 2};
    }
    return {finished(), -1};
  }

 private:
  template <typename Value>
  CLI::Option* add(const std::string& name, Value& value, const std::string& help) {
    return app_.add_option(name, value, help)->envname(environment_name(name));
  }

  void add_model() {
    add("--model", options_.model.path, "The exported file: .pt or .pt2, of photos or of aligned crops")->required();
    add("--ops", options_.operators, "libpnf_ops.so, which the file calls (default: the installed one)");
    add("--max-faces", max_faces_, "Faces of a photo that are embedded, the most prominent ones")
        ->check(CLI::Range(1, 100'000));
  }

  void add_network() {
    add("--host", options_.http.host, "Address; one that is not this machine alone needs --tokens")
        ->capture_default_str();
    add("--port", options_.http.port, "Port; 0 for any free one, which the log names")
        ->check(CLI::Range(0, 65535))
        ->capture_default_str();
    add("--connections", options_.http.connections, "Connections at a time; more are refused")
        ->check(CLI::Range(1, 100'000))
        ->capture_default_str();
    const auto seconds = [this](const char* name, int& value, const char* help) {
      add(name, value, help)->check(CLI::Range(1, 3600))->capture_default_str();
    };
    seconds("--header-seconds", header_seconds_, "Seconds for the headers of a request");
    seconds("--body-seconds", body_seconds_, "Seconds for its body");
    seconds("--answer-seconds", answer_seconds_, "Seconds for a client to take the answer");
    seconds("--idle-seconds", idle_seconds_, "Seconds that a connection stays open without a request");
    add("--tokens", options_.tokens, "File of bearer tokens, one a line, that clients must show");
    CLI::Option* certificate = add("--tls-certificate", options_.http.tls_certificate, "Certificate chain in PEM");
    CLI::Option* key = add("--tls-key", options_.http.tls_key, "Its private key in PEM");
    certificate->needs(key);
    key->needs(certificate);
  }

  void add_work() {
    add("--workers", options_.engine.workers, "Threads that compute, each with one job or batch at a time")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    add("--batch", options_.engine.batch, "Crops of one call at most")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    add("--batch-delay-us", batch_delay_, "Microseconds that a crop waits for others")
        ->check(CLI::Range(0, 1'000'000))
        ->capture_default_str();
    add("--queue", options_.engine.queue, "Jobs that wait at most; with more, 429 is answered")
        ->check(CLI::Range(1, 1'000'000))
        ->capture_default_str();
    add("--deadline-ms", deadline_, "Milliseconds from a request's body to its answer, else 504")
        ->check(CLI::Range(1, 3'600'000))
        ->capture_default_str();
    add("--max-body-bytes", options_.http.body.bytes, "Bytes of a body")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    add("--max-memory-bytes", options_.http.memory, "Bytes of all bodies together")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    add("--max-pixels", options_.engine.images.pixels, "Pixels of a photo")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    add("--max-crops", options_.limits.crops, "Aligned crops of a request")
        ->check(CLI::Range(1, 100'000))
        ->capture_default_str();
  }

  void add_operation() {
    add("--galleries", options_.galleries, "Folder of galleries, NAME.gallery each");
    app_.add_flag("--galleries-read-only", options_.galleries_read_only, "Change no gallery")
        ->envname(environment_name("--galleries-read-only"));
    add("--drain-seconds", options_.drain_seconds, "Seconds for what was begun when SIGTERM comes")
        ->check(CLI::Range(0, 3600))
        ->capture_default_str();
    const std::map<std::string, LogLevel> levels{
        {"info", LogLevel::kInfo}, {"warn", LogLevel::kWarn}, {"error", LogLevel::kError}};
    add("--log-level", options_.log_level, "info, warn or error")->transform(CLI::CheckedTransformer(levels));
  }

  Options finished() {
    if (options_.tokens.empty() && !is_loopback(options_.http.host)) {
      throw std::runtime_error("--host " + options_.http.host +
                               " can be reached from other machines: --tokens must name a file of tokens");
    }
    if (!options_.tokens.empty()) options_.http.tokens = BearerTokens::read(options_.tokens);
    options_.http.deadline = std::chrono::milliseconds(deadline_);
    options_.http.connection.headers = std::chrono::seconds(header_seconds_);
    options_.http.connection.body = std::chrono::seconds(body_seconds_);
    options_.http.connection.answer = std::chrono::seconds(answer_seconds_);
    options_.http.connection.idle = std::chrono::seconds(idle_seconds_);
    options_.http.body.parts = static_cast<std::size_t>(options_.limits.crops) + 16;
    options_.http.memory = std::max(options_.http.memory, options_.http.body.bytes);
    options_.engine.batch_delay = std::chrono::microseconds(batch_delay_);
    options_.engine.images.bytes = options_.http.body.bytes;
    options_.model.callers = static_cast<std::size_t>(options_.engine.workers);
    options_.model.max_faces = max_faces_;
    return options_;
  }

  CLI::App app_;
  Options options_;
  std::int64_t max_faces_ = 256;
  int header_seconds_ = 10;
  int body_seconds_ = 60;
  int answer_seconds_ = 60;
  int idle_seconds_ = 15;
  int batch_delay_ = 500;
  int deadline_ = 10'000;
};

}  // namespace

ParsedOptions parse_options(int argc, char** argv) { return Parser().parse(argc, argv); }

}  // namespace pocketnet::server
