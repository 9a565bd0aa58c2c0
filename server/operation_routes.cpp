// Health, metrics, the model in use, the description of all this, and the page.
#include "embedded_files.h"
#include "problem.h"
#include "service.h"

namespace pocketnet::server {
namespace {

void require_ready(const std::function<bool()>& draining) {
  if (draining()) throw Problem(ProblemKind::kDraining, "The service is shutting down.");
}

void add_file(Router& router, const char* pattern, std::string_view content, const char* type,
              const char* security_policy) {
  router.add({.method = "GET", .pattern = pattern, .access = Access::kOpen, .handle = [=](Exchange& exchange) {
                exchange.response.status = 200;
                exchange.response.set_content(content.data(), content.size(), type);
                if (security_policy != nullptr) {
                  exchange.response.set_header("Content-Security-Policy", security_policy);
                  exchange.response.set_header("Referrer-Policy", "no-referrer");
                }
              }});
}

}  // namespace

void add_operation_routes(Router& router, Service& service, std::function<bool()> draining) {
  const auto get = [&](const char* pattern, Access access, std::function<void(Exchange&)> handle) {
    router.add({.method = "GET", .pattern = pattern, .access = access, .handle = std::move(handle)});
  };
  get("/healthz", Access::kOpen, [](Exchange& exchange) { exchange.answer(200, {{"status", "alive"}}); });
  get("/readyz", Access::kOpen, [draining](Exchange& exchange) {
    require_ready(draining);
    exchange.answer(200, {{"status", "ready"}});
  });
  get("/v2/health/live", Access::kToken, [](Exchange& exchange) { exchange.answer(200, {{"live", true}}); });
  get("/v2/health/ready", Access::kToken, [draining](Exchange& exchange) {
    require_ready(draining);
    exchange.answer(200, {{"ready", true}});
  });
  get("/metrics", Access::kToken, [&service](Exchange& exchange) {
    exchange.response.status = 200;
    exchange.response.set_content(service.metrics().text(), "text/plain; version=0.0.4; charset=utf-8");
  });
  get("/v1/model", Access::kToken,
      [&service](Exchange& exchange) { exchange.answer(200, service.models().current()->description()); });
  router.add(
      {.method = "POST",
       .pattern = "/v1/model:reload",
       .body = BodyKind::kBytes,
       .handle = [&service](Exchange& exchange) { exchange.answer(200, {{"model", service.reload()->brief()}}); }});
  add_file(router, "/openapi.json", embedded::kOpenApi, "application/json", nullptr);
  add_file(router, "/", embedded::kPage, "text/html; charset=utf-8", embedded::kPagePolicy.data());
}

}  // namespace pocketnet::server
