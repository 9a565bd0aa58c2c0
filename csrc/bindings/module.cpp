#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ops/api.h"

namespace py = pybind11;

namespace {

template <typename T>
std::span<const T> view(const py::array_t<T, py::array::c_style>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the native kernels, and measurements of them.";
  m.def("compiled_isa", &pnf::api::compiled_isa, py::arg("half"),
        "Name of the instruction set whose kernels run, for floats or for states of half precision.");
  m.def(
      "isas",
      [](bool half) {
        py::dict result;
        for (const pnf::api::Isa& isa : pnf::api::isas(half)) result[py::str(isa.name)] = isa.available;
        return result;
      },
      py::arg("half"), "Compiled instruction sets, best first, and whether this CPU has them.");
  m.def("tiles_denied", &pnf::api::tiles_denied,
        "Whether the CPU has tile registers (AMX) and the system refuses them to this process.");
  m.def("force_isa", &pnf::api::force_isa, py::arg("name"),
        "Use the named kernels from now on; an empty name returns to the default.");
  m.def(
      "processors",
      [] {
        const pnf::api::Processors found = pnf::api::processors();
        return py::dict(py::arg("affinity") = found.affinity, py::arg("quota") = found.quota,
                        py::arg("usable") = found.usable);
      },
      "Processors of the affinity mask and of the control groups' quotas, 0 for no limit, and how many a call uses.");
  m.def("torch_on_this_thread_alone", &pnf::api::torch_on_this_thread_alone,
        "Run torch's operators that the calling thread calls on it alone from now on.");
  m.def(
      "cell_sums",
      [](const std::vector<std::vector<std::int64_t>>& inputs, const std::vector<std::vector<std::int64_t>>& parameters,
         const std::vector<std::int64_t>& structure,
         const std::vector<double>& epsilon) { return pnf::api::cell_sums(inputs, parameters, structure, epsilon); },
      py::arg("inputs"), py::arg("parameters"), py::arg("structure"), py::arg("epsilon"),
      "Channels, height and width of a cell's sums, the shapes of its inputs and parameters checked.");
  m.def(
      "profile",
      [](const py::array_t<std::int32_t, py::array::c_style>& program,
         const py::array_t<float, py::array::c_style>& weights,
         const py::array_t<std::uint8_t, py::array::c_style>& pixels) {
        const py::gil_scoped_release release;
        return pnf::api::profile(view(program), view(weights), view(pixels));
      },
      py::arg("program"), py::arg("weights"), py::arg("pixels"),
      "Seconds spent in each step of a program over uint8 images, on one thread.");
  m.def(
      "exponential",
      [](const py::array_t<float, py::array::c_style>& x) {
        py::array_t<float> result(x.size());
        pnf::api::exponential(view(x), {result.mutable_data(), static_cast<std::size_t>(result.size())});
        return result;
      },
      py::arg("x"), "exp(x) as the kernels compute it; the length of x must be a multiple of 16.");
  m.def("peak_gflops", &pnf::api::peak_gflops, py::arg("half") = false, py::call_guard<py::gil_scoped_release>(),
        "Measured multiply-add peak of the calling thread, of floats or of bfloat16, in GFLOP/s.");
  m.def("read_gbs", &pnf::api::read_gbs, py::arg("bytes"), py::call_guard<py::gil_scoped_release>(),
        "Measured rate at which the calling thread reads so many bytes again and again, in GB/s.");
}
