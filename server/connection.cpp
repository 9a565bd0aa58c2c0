#include "connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pocketnet::server {
namespace {

using Clock = std::chrono::steady_clock;

thread_local Connection* current_connection = nullptr;

int milliseconds_until(Clock::time_point until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30));
}

void address_of(const sockaddr_storage& storage, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET) {
    const auto& address = reinterpret_cast<const sockaddr_in&>(storage);
    inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text));
    port = ntohs(address.sin_port);
  } else if (storage.ss_family == AF_INET6) {
    const auto& address = reinterpret_cast<const sockaddr_in6&>(storage);
    inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof(text));
    port = ntohs(address.sin6_port);
  }
  ip = text;
}

}  // namespace

Connection::Connection(int socket, SSL_CTX* tls, const ConnectionLimits& limits)
    : socket_(socket), limits_(limits), is_tls_(tls != nullptr), tls_(is_tls_ ? SSL_new(tls) : nullptr, &SSL_free) {
  fcntl(socket_, F_SETFL, fcntl(socket_, F_GETFL, 0) | O_NONBLOCK);
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (tls_) SSL_set_fd(tls_.get(), socket_);
  begun_ = Clock::now();
  deadline_ = begun_ + limits_.headers;
  current_connection = this;
}

Connection::~Connection() {
  current_connection = nullptr;
  if (tls_) SSL_shutdown(tls_.get());
  linger();
  ::close(socket_);
}

Connection* Connection::current() { return current_connection; }

bool Connection::accept() {
  if (is_tls_ && !tls_) return false;
  while (tls_) {
    ERR_clear_error();
    const int result = SSL_accept(tls_.get());
    if (result == 1) return true;
    const int reason = SSL_get_error(tls_.get(), result);
    const short events = reason == SSL_ERROR_WANT_READ ? POLLIN : reason == SSL_ERROR_WANT_WRITE ? POLLOUT : 0;
    if (events == 0 || !wait(events, deadline_)) {
      tls_.reset();
      return false;
    }
  }
  return true;
}

bool Connection::wait(short events, Time until) const {
  pollfd entry{socket_, events, 0};
  for (;;) {
    const int ready = ::poll(&entry, 1, milliseconds_until(until));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

bool Connection::wait_for_request(int stopping, std::chrono::milliseconds closing) {
  part_ = Part::kHeaders;
  header_bytes_ = bytes_in_ = bytes_out_ = 0;
  Time until = Clock::now() + limits_.idle;
  pollfd entries[2] = {{socket_, POLLIN, 0}, {stopping, POLLIN, 0}};
  nfds_t watched = 2;
  const auto buffered = [this] { return buffer_begin_ < buffer_end_ || (tls_ && SSL_pending(tls_.get()) > 0); };
  while (!buffered()) {
    const int ready = ::poll(entries, watched, milliseconds_until(until));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    if (entries[0].revents != 0) break;
    // A client that is about to send gets a moment; the answer then tells it that this was the last.
    until = std::min(until, Clock::now() + closing);
    watched = 1;
  }
  begun_ = Clock::now();
  deadline_ = begun_ + limits_.headers;
  return true;
}

void Connection::headers_end(std::size_t most_body_bytes) {
  part_ = Part::kBody;
  body_bytes_left_ = most_body_bytes;
  deadline_ = Clock::now() + limits_.body;
}

void Connection::answer_begins() {
  part_ = Part::kAnswer;
  deadline_ = Clock::now() + limits_.answer;
}

bool Connection::gone(int socket) {
  pollfd entry{socket, POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

bool Connection::is_readable() const { return buffer_begin_ < buffer_end_ || wait(POLLIN, deadline_); }

bool Connection::is_writable() const { return wait(POLLOUT, deadline_); }

ssize_t Connection::receive(char* data, std::size_t size) {
  for (;;) {
    short events = POLLIN;
    if (tls_) {
      ERR_clear_error();
      const int count = SSL_read(tls_.get(), data, static_cast<int>(std::min<std::size_t>(size, 1 << 30)));
      if (count > 0) return count;
      const int reason = SSL_get_error(tls_.get(), count);
      if (reason == SSL_ERROR_ZERO_RETURN) return 0;
      if (reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_WANT_WRITE) return -1;
      events = reason == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
    } else {
      const ssize_t count = ::recv(socket_, data, size, 0);
      if (count >= 0) return count;
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) return -1;
    }
    if (!wait(events, deadline_)) return -1;
  }
}

ssize_t Connection::read(char* data, std::size_t size) {
  if (part_ == Part::kHeaders ? headers_too_large() : body_bytes_left_ == 0) return -1;
  if (part_ != Part::kHeaders) size = std::min(size, body_bytes_left_);
  if (buffer_begin_ == buffer_end_) {
    // Large pieces of a body go where they belong.
    const bool direct = part_ == Part::kBody && size >= buffer_.size();
    const ssize_t count = direct ? receive(data, size) : receive(buffer_.data(), buffer_.size());
    if (count <= 0) return count;
    bytes_in_ += static_cast<std::size_t>(count);
    if (direct) {
      body_bytes_left_ -= static_cast<std::size_t>(count);
      return count;
    }
    buffer_begin_ = 0;
    buffer_end_ = static_cast<std::size_t>(count);
  }
  const std::size_t taken = std::min(size, buffer_end_ - buffer_begin_);
  std::memcpy(data, buffer_.data() + buffer_begin_, taken);
  buffer_begin_ += taken;
  if (part_ == Part::kHeaders) {
    header_bytes_ += taken;
  } else {
    body_bytes_left_ -= taken;
  }
  return static_cast<ssize_t>(taken);
}

ssize_t Connection::write(const char* data, std::size_t size) {
  for (;;) {
    short events = POLLOUT;
    if (tls_) {
      ERR_clear_error();
      const int count = SSL_write(tls_.get(), data, static_cast<int>(std::min<std::size_t>(size, 1 << 30)));
      if (count > 0) {
        bytes_out_ += static_cast<std::size_t>(count);
        return count;
      }
      const int reason = SSL_get_error(tls_.get(), count);
      if (reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_WANT_WRITE) return -1;
      events = reason == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
    } else {
      const ssize_t count = ::send(socket_, data, size, MSG_NOSIGNAL);
      if (count >= 0) {
        bytes_out_ += static_cast<std::size_t>(count);
        return count;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) return -1;
    }
    if (!wait(events, deadline_)) return -1;
  }
}

// Closing a socket with unread bytes resets the connection, and the client may lose the answer: the bytes are taken and
// dropped, for a second at most.
void Connection::linger() {
  if (!closes_ || ::shutdown(socket_, SHUT_WR) != 0) return;
  const Time until = Clock::now() + std::chrono::seconds(1);
  while (Clock::now() < until && wait(POLLIN, until)) {
    if (::recv(socket_, buffer_.data(), buffer_.size(), 0) <= 0) return;
  }
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&storage), &length) == 0) address_of(storage, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&storage), &length) == 0) address_of(storage, ip, port);
}

}  // namespace pocketnet::server
