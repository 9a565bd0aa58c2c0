// One connection of a client, with a limit of time for each part of a request and of bytes for its headers.
#pragma once
#include <httplib.h>
#include <openssl/ssl.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

namespace pocketnet::server {

struct ConnectionLimits {
  std::size_t header_bytes = 32 << 10;  // of one request, its first line among them
  std::chrono::seconds headers{10};
  std::chrono::seconds body{60};
  std::chrono::seconds answer{60};  // for writing it
  std::chrono::seconds idle{15};    // between two requests
};

class Connection final : public httplib::Stream {
 public:
  // Takes the socket, and a TLS context unless that is null; the destructor closes both.
  Connection(int socket, SSL_CTX* tls, const ConnectionLimits& limits);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // The TLS handshake, where there is one; false if it fails, takes too long, or there is no memory for it.
  bool accept();

  // Waits for the first byte of a request. False when the client has gone, when it says nothing for too long, or
  // `closing` milliseconds after `stopping` became readable.
  bool wait_for_request(int stopping, std::chrono::milliseconds closing);

  // From here on bytes are a body's, so many at most on the wire; or the answer's.
  void headers_end(std::size_t most_body_bytes);
  void answer_begins();
  bool headers_too_large() const { return header_bytes_ > limits_.header_bytes; }

  // Whether the client has closed its side, seen without waiting.
  static bool gone(int socket);

  // What is left of a request's body makes the next request unreadable.
  void close_after_answer() { closes_ = true; }
  bool closes_after_answer() const { return closes_; }

  std::size_t bytes_in() const { return bytes_in_; }
  std::size_t bytes_out() const { return bytes_out_; }
  std::chrono::steady_clock::time_point begun() const { return begun_; }

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, std::size_t size) override;
  ssize_t write(const char* data, std::size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

  // That of the calling thread, between begin and end of a request; null elsewhere.
  static Connection* current();

 private:
  using Time = std::chrono::steady_clock::time_point;
  enum class Part { kHeaders, kBody, kAnswer };

  ssize_t receive(char* data, std::size_t size);
  bool wait(short events, Time until) const;
  void linger();

  int socket_;
  ConnectionLimits limits_;
  const bool is_tls_;
  std::unique_ptr<SSL, decltype(&SSL_free)> tls_;
  std::array<char, 16 << 10> buffer_{};
  std::size_t buffer_begin_ = 0;
  std::size_t buffer_end_ = 0;
  Part part_ = Part::kHeaders;
  Time deadline_;
  Time begun_;
  std::size_t header_bytes_ = 0;
  std::size_t body_bytes_left_ = 0;
  std::size_t bytes_in_ = 0;
  std::size_t bytes_out_ = 0;
  bool closes_ = false;
};

}  // namespace pocketnet::server
