#include "bindings/bindings.h"

#include <exception>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ops/api.h"

namespace {

thread_local std::string last_error;
thread_local std::string last_text;

int failed(int status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

template <typename Call>
int answer(Call&& call) noexcept {
  try {
    std::forward<Call>(call)();
    return PNF_DONE;
  } catch (const std::invalid_argument& error) {
    return failed(PNF_REFUSED, error.what());
  } catch (const std::bad_alloc&) {
    return failed(PNF_NO_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failed(PNF_FAILED, error.what());
  } catch (...) {
    return failed(PNF_FAILED, "unknown error");
  }
}

}  // namespace

const char* pnf_error() { return last_error.c_str(); }

int pnf_isa(int half, const char** name) {
  return answer([&] {
    last_text = pnf::api::compiled_isa(half != 0);
    *name = last_text.c_str();
  });
}

const char* pnf_compiled_isa(int half) noexcept {
  try {
    // A set is named in one of a few constant tables; each name is kept once.
    static std::mutex mutex;
    static std::set<std::string> names;
    const std::lock_guard lock(mutex);
    return names.insert(pnf::api::compiled_isa(half != 0)).first->c_str();
  } catch (...) {
    return "";
  }
}

int pnf_isas(int half, const char** names) {
  return answer([&] {
    last_text.clear();
    for (const pnf::api::Isa& isa : pnf::api::isas(half != 0)) {
      last_text += (isa.available ? "+" : "-") + isa.name + "\n";
    }
    *names = last_text.c_str();
  });
}

int pnf_tiles_denied() { return pnf::api::tiles_denied(); }

int pnf_force_isa(const char* name) {
  return answer([&] { pnf::api::force_isa(name); });
}

int pnf_processors(int* affinity, int* quota, int* usable) {
  return answer([&] {
    const pnf::api::Processors found = pnf::api::processors();
    *affinity = found.affinity;
    *quota = found.quota;
    *usable = found.usable;
  });
}

int pnf_torch_on_this_thread_alone() {
  return answer([] { pnf::api::torch_on_this_thread_alone(); });
}

int pnf_profile(const int32_t* program, size_t words, const float* weights, size_t floats, const uint8_t* pixels,
                size_t bytes, double* seconds, size_t capacity, size_t* steps) {
  return answer([&] {
    const std::vector<double> spent = pnf::api::profile({program, words}, {weights, floats}, {pixels, bytes});
    *steps = spent.size();
    for (size_t i = 0; i < spent.size() && i < capacity; ++i) seconds[i] = spent[i];
  });
}

int pnf_exponential(const float* x, size_t count, float* out) {
  return answer([&] { pnf::api::exponential({x, count}, {out, count}); });
}

int pnf_peak_gflops(int half, double* gflops) {
  return answer([&] { *gflops = pnf::api::peak_gflops(half != 0); });
}

int pnf_read_gbs(size_t bytes, double* gbs) {
  return answer([&] { *gbs = pnf::api::read_gbs(bytes); });
}
