#include "library/content.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "library/status.h"

namespace pnf::library {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

[[noreturn]] void fail(const char* path, const std::string& what) {
  throw Refusal(POCKETNET_IO, std::string(path) + ": " + what);
}

}  // namespace

Content Content::of_file(const char* path, std::size_t most_bytes) {
  const Descriptor file(open(path, O_RDONLY | O_CLOEXEC));
  struct stat facts;
  if (file.number() < 0 || fstat(file.number(), &facts) != 0) fail(path, std::strerror(errno));
  if (!S_ISREG(facts.st_mode)) fail(path, "no regular file");
  const auto size = static_cast<std::size_t>(facts.st_size);
  if (size > most_bytes) {
    throw Refusal(POCKETNET_LIMIT, std::string(path) + ": a file of " + std::to_string(size) +
                                       " bytes; max_file_bytes is " + std::to_string(most_bytes));
  }
  if (size == 0) fail(path, "an empty file");
  void* const found = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (found == MAP_FAILED) fail(path, std::strerror(errno));
  return {{static_cast<const std::byte*>(found), size}, true};
}

Content::~Content() {
  if (mapped_) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace pnf::library
