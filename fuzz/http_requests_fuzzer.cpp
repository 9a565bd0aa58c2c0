// Any bytes as what a client sends over a connection to the service, whose routes here do nothing but read: every answer is
// one of HTTP, none says that the service failed, and the connection ends.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <thread>

#include "http_server.h"
#include "log.h"
#include "require.h"

namespace {

using namespace pocketnet::server;

void read_everything(Exchange& exchange) {
  exchange.accept_queries({"flag", "number", "rate"});
  exchange.flag("flag", false);
  exchange.number("number", 1, 0, 9);
  exchange.rate("rate");
  std::size_t bytes = exchange.body.size();
  for (const Part& part : exchange.parts) bytes += part.content.size();
  if (exchange.multipart) exchange.part("photo");
  exchange.answer(200, {{"bytes", bytes}, {"path", exchange.path}});
}

Router routes() {
  Router router;
  router.add({.method = "GET", .pattern = "/people/{person}", .handle = read_everything});
  router.add({.method = "DELETE", .pattern = "/people/{person}", .handle = read_everything});
  router.add({.method = "POST", .pattern = "/{name}:search", .body = BodyKind::kBytes, .handle = read_everything});
  router.add({.method = "POST", .pattern = "/faces", .body = BodyKind::kBytesOrParts, .handle = read_everything});
  return router;
}

// Serves until the process ends; returns the port.
int start_server() {
  set_log_level(LogLevel::kError);
  HttpOptions options;
  options.port = 0;
  options.body = {.bytes = 1 << 16, .parts = 4};
  options.memory = 1 << 17;
  auto* server = new HttpServer(options, routes(), [](const RequestRecord& record) {
    REQUIRE(record.status >= 100 && record.status < 600 && record.status != 500);
  });
  std::thread([server] { server->serve(); }).detach();
  return server->port();
}

// What the service answers to these bytes, after which the client says nothing more.
std::string answers_to(int port, const std::uint8_t* data, std::size_t size) {
  const int client = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{8, 0};
  ::setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  REQUIRE(::connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  // A refused request may end the connection before all of it is sent.
  while (size > 0) {
    const ssize_t sent = ::send(client, data, size, MSG_NOSIGNAL);
    if (sent <= 0) break;
    data += sent;
    size -= static_cast<std::size_t>(sent);
  }
  ::shutdown(client, SHUT_WR);
  std::string answers;
  char buffer[4096];
  ssize_t count;
  while ((count = ::recv(client, buffer, sizeof(buffer), 0)) > 0)
    answers.append(buffer, static_cast<std::size_t>(count));
  REQUIRE(count == 0 || errno == ECONNRESET);
  ::close(client);
  return answers;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const int port = start_server();
  const std::string answers = answers_to(port, data, size);
  REQUIRE(answers.empty() || answers.starts_with("HTTP/1.1 "));
  return 0;
}
