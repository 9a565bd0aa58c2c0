// pocketnet_server: a service around a file that `pocketnet export` wrote. docs/server.md describes it.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <ATen/Parallel.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "hosting/one_line.h"
#include "hosting/operators.h"
#include "log.h"
#include "options.h"
#include "problem.h"
#include "service.h"

namespace pocketnet::server {
namespace {

sigset_t handled_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  return signals;
}

void log_request(Metrics& metrics, const RequestRecord& record) {
  metrics.add_request(record);
  nlohmann::json stages = nlohmann::json::object();
  for (const auto& [stage, milliseconds] : record.stages) {
    stages[stage] = stages.value(stage, 0.0) + milliseconds;
  }
  log(LogLevel::kInfo, "request",
      {{"request_id", record.request_id},
       {"method", record.method},
       {"route", record.route},
       {"status", record.status},
       {"bytes_in", record.bytes_in},
       {"bytes_out", record.bytes_out},
       {"milliseconds", record.milliseconds},
       {"stages", stages}});
}

// A file that is refused leaves the one in use; the log says why.
void reload(Service& service) {
  try {
    service.reload();
  } catch (const Problem&) {
  }
}

// Waits for signals until the service is to end, and drains it. A second SIGTERM or SIGINT, or the end of the time for
// draining, ends the process at once.
void wait_for_signals(HttpServer& http, Service& service, int drain_seconds, const std::function<bool()>& ended) {
  const sigset_t signals = handled_signals();
  for (int signal = SIGHUP; signal == SIGHUP;) {
    if (sigwait(&signals, &signal) != 0) std::abort();
    if (signal == SIGHUP) reload(service);
  }
  log(LogLevel::kInfo, "draining", {{"seconds", drain_seconds}});
  http.drain();
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(drain_seconds);
  while (!ended()) {
    const timespec moment{0, 20'000'000};
    const int signal = sigtimedwait(&signals, nullptr, &moment);
    const bool late = std::chrono::steady_clock::now() >= until;
    if (signal != SIGTERM && signal != SIGINT && !late) continue;
    log(LogLevel::kWarn, late ? "drain_time_is_up" : "aborted", {});
    _exit(late ? 0 : 1);
  }
}

void serve(const Options& options) {
  // One arena a processor is what glibc gives; freed photos would stay in them.
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  at::set_num_threads(1);
  if (!options.operators.empty()) hosting::load_operators(options.operators);
  std::unique_ptr<GalleryStore> galleries;
  if (!options.galleries.empty()) {
    galleries = std::make_unique<GalleryStore>(options.galleries, options.galleries_read_only);
  }
  Service service(options.model, options.engine, options.limits, std::move(galleries));

  HttpServer* running = nullptr;
  Router router;
  add_face_routes(router, service);
  add_gallery_routes(router, service);
  add_inference_routes(router, service);
  add_operation_routes(router, service, [&running] { return running->drains(); });
  HttpServer http(options.http, std::move(router),
                  [&service](const RequestRecord& record) { log_request(service.metrics(), record); });
  running = &http;

  std::atomic<bool> ended = false;
  std::thread serving([&] {
    http.serve();
    ended = true;
  });
  const std::string scheme = http.is_tls() ? "https" : "http";
  const std::string host =
      options.http.host.find(':') == std::string::npos ? options.http.host : "[" + options.http.host + "]";
  log(LogLevel::kInfo, "listening",
      {{"url", scheme + "://" + host + ":" + std::to_string(http.port())},
       {"model", service.models().current()->brief()},
       {"isa", service.models().current()->isa},
       {"workers", options.engine.workers}});
  wait_for_signals(http, service, options.drain_seconds, [&] { return ended.load(); });
  serving.join();
  log(LogLevel::kInfo, "ended", {});
}

}  // namespace
}  // namespace pocketnet::server

int main(int argc, char** argv) {
  using namespace pocketnet;
  // Threads inherit the mask, so that signals reach the one that waits for them.
  const sigset_t signals = server::handled_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  try {
    const server::ParsedOptions parsed = server::parse_options(argc, argv);
    if (parsed.exit_code >= 0) return parsed.exit_code;
    server::set_log_level(parsed.options.log_level);
    server::serve(parsed.options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketnet_server: %s\n", hosting::one_line(error).c_str());
    return 1;
  }
}
