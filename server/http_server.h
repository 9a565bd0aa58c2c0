// HTTP/1.1 in front of the routes: httplib reads and writes messages, and this decides who may ask what, and how long.
#pragma once
#include <httplib.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "bearer_tokens.h"
#include "connection.h"
#include "memory_budget.h"
#include "request_body.h"
#include "router.h"

namespace pocketnet::server {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;
  std::size_t connections = 256;
  std::chrono::milliseconds deadline{10'000};
  BodyLimits body;
  std::size_t memory = 512 << 20;  // of all bodies together
  ConnectionLimits connection;
  std::optional<BearerTokens> tokens;
  std::string tls_certificate;  // files in PEM; both or neither
  std::string tls_key;
};

// What became of one request.
struct RequestRecord {
  std::string request_id;
  std::string method;
  std::string route;  // the pattern, or empty where none was found
  int status = 0;
  std::size_t bytes_in = 0;
  std::size_t bytes_out = 0;
  double milliseconds = 0;
  StageTimes stages;
};

class HttpServer final : private httplib::Server {
 public:
  using Recorder = std::function<void(const RequestRecord&)>;

  // Throws std::runtime_error when the address cannot be had or a TLS file is refused.
  HttpServer(HttpOptions options, Router router, Recorder recorder);
  ~HttpServer() override;

  int port() const { return port_; }
  bool is_tls() const { return tls_ != nullptr; }

  // Serves until drain() is called and all connections have ended.
  void serve();

  // Takes no more connections; what was begun is answered, and clients are told to close. While another thread is in
  // serve(), or about to call it.
  void drain();
  bool drains() const { return drains_; }

 private:
  bool process_and_close_socket(socket_t socket) override;
  void serve_connection(Connection& connection);
  void refuse_connection(Connection& connection);

  HandlerResponse route(const httplib::Request& request, httplib::Response& response);
  void answer_with_body(const httplib::Request& request, httplib::Response& response,
                        const httplib::ContentReader& reader);
  Router::Found admitted(const httplib::Request& request) const;
  void answer(const Router::Found& found, const httplib::Request& request, httplib::Response& response,
              const httplib::ContentReader* reader);
  void complete(const httplib::Request& request, httplib::Response& response);
  void record(const httplib::Request& request, const httplib::Response& response);

  HttpOptions options_;
  Router router_;
  Recorder recorder_;
  MemoryBudget memory_;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> tls_;
  int port_ = 0;
  int stopping_ = -1;  // an eventfd, readable from drain() on
  std::atomic<bool> drains_ = false;
  std::atomic<bool> served_ = false;
};

}  // namespace pocketnet::server
