#include "http_server.h"

#include <openssl/err.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>

#include "connection_threads.h"
#include "log.h"
#include "problem.h"

namespace pocketnet::server {
namespace {

constexpr std::size_t kLongestPath = 1024;
constexpr std::size_t kRequestsOfAConnection = 100'000;
// How long an open connection without a request may still send one after drain().
constexpr std::chrono::milliseconds kLastRequests{500};

// What the calling thread's request has come to.
struct Progress {
  std::string request_id;
  std::string route;
  StageTimes stages;
};
thread_local Progress progress;

bool is_request_id(const std::string& text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
  });
}

std::string new_request_id() {
  unsigned char bytes[12];
  if (::getrandom(bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes))) return "unknown";
  std::string text;
  for (const unsigned char byte : bytes) {
    char pair[3];
    std::snprintf(pair, sizeof(pair), "%02x", byte);
    text += pair;
  }
  return text;
}

void write_problem(const Problem& problem, const httplib::Request& request, httplib::Response& response) {
  response.status = problem.status();
  response.set_content(problem.to_json(request.path, progress.request_id), kProblemType);
  if (problem.kind() == ProblemKind::kQueueFull || problem.kind() == ProblemKind::kDraining) {
    response.set_header("Retry-After", "1");
  }
  if (problem.kind() == ProblemKind::kUnauthorized) response.set_header("WWW-Authenticate", "Bearer");
}

std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> tls_context(const HttpOptions& options) {
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(nullptr, &SSL_CTX_free);
  if (options.tls_certificate.empty()) return context;
  context.reset(SSL_CTX_new(TLS_server_method()));
  if (!context) throw std::runtime_error("TLS cannot be set up");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (SSL_CTX_use_certificate_chain_file(context.get(), options.tls_certificate.c_str()) != 1) {
    throw std::runtime_error(options.tls_certificate + ": no certificate in PEM that can be read");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), options.tls_key.c_str(), SSL_FILETYPE_PEM) != 1) {
    throw std::runtime_error(options.tls_key + ": no private key in PEM that fits the certificate");
  }
  return context;
}

}  // namespace

HttpServer::HttpServer(HttpOptions options, Router router, Recorder recorder)
    : options_(std::move(options)),
      router_(std::move(router)),
      recorder_(std::move(recorder)),
      memory_(options_.memory),
      tls_(tls_context(options_)),
      stopping_(::eventfd(0, EFD_CLOEXEC)) {
  if (stopping_ < 0) throw std::runtime_error("the system gives no file descriptor");
  new_task_queue = [this] { return new ConnectionThreads(options_.connections); };
  set_keep_alive_max_count(kRequestsOfAConnection);
  set_keep_alive_timeout(options_.connection.idle.count());
  // Another server's port is not shared, which httplib's own default would do.
  set_socket_options([](socket_t socket) {
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  set_pre_routing_handler([this](const auto& request, auto& response) { return route(request, response); });
  Post(".*", [this](const httplib::Request& request, httplib::Response& response,
                    const httplib::ContentReader& reader) { answer_with_body(request, response, reader); });
  set_expect_100_continue_handler([this](const auto& request, auto& response) {
    return route(request, response) == HandlerResponse::Handled ? response.status : 100;
  });
  set_error_handler(HandlerWithResponse([](const httplib::Request& request, httplib::Response& response) {
    if (response.body.empty()) {
      const bool headers = Connection::current()->headers_too_large();
      write_problem(problem_of_status(headers ? 431 : response.status), request, response);
    }
    return HandlerResponse::Handled;
  }));
  set_post_routing_handler([this](const auto& request, auto& response) { complete(request, response); });
  set_logger([this](const auto& request, const auto& response) { record(request, response); });
  port_ = options_.port == 0 ? bind_to_any_port(options_.host) : options_.port;
  const bool bound = options_.port == 0 ? port_ > 0 : bind_to_port(options_.host, options_.port);
  if (!bound) {
    throw std::runtime_error("cannot listen on " + options_.host + ":" + std::to_string(options_.port) +
                             ": the address is in use or not this machine's");
  }
  // httplib lets five connections wait to be accepted; the attempts of others are dropped, and made again after a second.
  ::listen(svr_sock_, SOMAXCONN);
}

HttpServer::~HttpServer() { ::close(stopping_); }

void HttpServer::serve() {
  listen_after_bind();
  served_ = true;
}

void HttpServer::drain() {
  drains_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stopping_, &one, sizeof(one));
  // httplib's stop() does nothing before its loop runs, which serve() may be about to begin in its thread.
  while (!is_running() && !served_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  stop();
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  Connection connection(socket, tls_.get(), options_.connection);
  if (ConnectionThreads::too_many()) {
    refuse_connection(connection);
  } else if (connection.accept()) {
    serve_connection(connection);
  }
  return true;
}

void HttpServer::serve_connection(Connection& connection) {
  for (std::size_t count = 1; connection.wait_for_request(stopping_, kLastRequests); ++count) {
    progress = {.request_id = new_request_id(), .route = {}, .stages = {}};
    bool closed = false;
    const bool last = drains_ || count == kRequestsOfAConnection;
    const bool answered = process_request(connection, last, closed, [](httplib::Request& request) {
      // Answers are small or numbers: compressing them costs more than it saves. No answer has ranges.
      request.headers.erase("Accept-Encoding");
      request.ranges.clear();
    });
    if (!answered || closed || last || connection.closes_after_answer()) return;
  }
}

// On the thread that accepts connections, so without waiting for anything.
void HttpServer::refuse_connection(Connection& connection) {
  if (is_tls()) return;
  constexpr std::string_view kAnswer =
      "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  connection.write(kAnswer.data(), kAnswer.size());
}

// Throws Problem for who may not ask, and for what is not there.
Router::Found HttpServer::admitted(const httplib::Request& request) const {
  if (request.path.size() > kLongestPath) {
    throw Problem(ProblemKind::kPathTooLong, "A path has at most " + std::to_string(kLongestPath) + " characters.");
  }
  Router::Found found = router_.find(request.method, request.path);
  const bool open = found.route != nullptr && found.route->access == Access::kOpen;
  if (options_.tokens && !open && !options_.tokens->accept(request.get_header_value("Authorization"))) {
    throw Problem(ProblemKind::kUnauthorized, "The header 'Authorization: Bearer TOKEN' with a valid token is needed.");
  }
  if (found.route == nullptr && found.allowed.empty()) {
    throw Problem(ProblemKind::kNotFound, "There is nothing at this path; /openapi.json says what there is.");
  }
  if (found.route == nullptr) {
    throw Problem(ProblemKind::kMethodNotAllowed, "This path has " + found.allowed + ".");
  }
  if (found.route->body != BodyKind::kNone) check_body_headers(request, options_.body);
  return found;
}

httplib::Server::HandlerResponse HttpServer::route(const httplib::Request& request, httplib::Response& response) {
  Connection& connection = *Connection::current();
  const std::string given = request.get_header_value("X-Request-Id");
  if (is_request_id(given)) progress.request_id = given;
  try {
    const Router::Found found = admitted(request);
    progress.route = found.route->pattern;
    connection.headers_end(2 * options_.body.bytes + (1 << 20));
    if (found.route->body != BodyKind::kNone) return HandlerResponse::Unhandled;
    // A body that nobody reads would be taken for the next request.
    const bool body = request.has_header("Transfer-Encoding") || request.has_header("Content-Length");
    if (body && request.get_header_value("Content-Length") != "0") connection.close_after_answer();
    answer(found, request, response, nullptr);
  } catch (const Problem& problem) {
    if (problem.kind() == ProblemKind::kMethodNotAllowed) {
      response.set_header("Allow", router_.find(request.method, request.path).allowed);
    }
    connection.close_after_answer();
    write_problem(problem, request, response);
  }
  connection.answer_begins();
  return HandlerResponse::Handled;
}

void HttpServer::answer_with_body(const httplib::Request& request, httplib::Response& response,
                                  const httplib::ContentReader& reader) {
  const Router::Found found = router_.find(request.method, request.path);
  answer(found, request, response, &reader);
  Connection::current()->answer_begins();
}

void HttpServer::answer(const Router::Found& found, const httplib::Request& request, httplib::Response& response,
                        const httplib::ContentReader* reader) {
  Connection& connection = *Connection::current();
  Exchange exchange(request, response, connection.socket());
  exchange.request_id = progress.request_id;
  exchange.path = found.path;
  exchange.deadline = Exchange::Clock::now() + options_.deadline;
  bool read = reader == nullptr;
  try {
    if (reader != nullptr) {
      read_body(exchange, *reader, memory_, options_.body);
      read = true;
      if (exchange.multipart && found.route->body == BodyKind::kBytes) {
        throw Problem(ProblemKind::kUnsupportedMedia, "The body of this path has no parts.");
      }
      exchange.deadline = Exchange::Clock::now() + options_.deadline;
    }
    found.route->handle(exchange);
  } catch (const Problem& problem) {
    if (!read) connection.close_after_answer();
    write_problem(problem, request, response);
  } catch (const std::bad_alloc&) {
    if (!read) connection.close_after_answer();
    write_problem({ProblemKind::kQueueFull, "There is not enough memory for the request now."}, request, response);
  } catch (const std::exception& error) {
    connection.close_after_answer();
    log(LogLevel::kError, "failure", {{"request_id", progress.request_id}, {"what", error.what()}});
    write_problem({ProblemKind::kInternal, "The service failed at this request; its log says more."}, request,
                  response);
  }
  progress.stages = std::move(exchange.stages);
}

// What every answer has.
void HttpServer::complete(const httplib::Request&, httplib::Response& response) {
  Connection& connection = *Connection::current();
  if (drains_) connection.close_after_answer();
  response.set_header("X-Request-Id", progress.request_id);
  response.set_header("X-Content-Type-Options", "nosniff");
  if (!response.has_header("Cache-Control")) response.set_header("Cache-Control", "no-store");
  if (connection.closes_after_answer()) {
    response.headers.erase("Connection");
    response.headers.erase("Keep-Alive");
    response.set_header("Connection", "close");
  }
  connection.answer_begins();
}

void HttpServer::record(const httplib::Request& request, const httplib::Response& response) {
  const Connection& connection = *Connection::current();
  const std::chrono::duration<double, std::milli> elapsed = Exchange::Clock::now() - connection.begun();
  recorder_({.request_id = progress.request_id,
             .method = progress.route.empty() ? "" : request.method,
             .route = progress.route,
             .status = response.status,
             .bytes_in = connection.bytes_in(),
             .bytes_out = connection.bytes_out(),
             .milliseconds = elapsed.count(),
             .stages = std::move(progress.stages)});
}

}  // namespace pocketnet::server
