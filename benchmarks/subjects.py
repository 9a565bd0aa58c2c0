"""The one list of ways to run a PocketNet end to end, ours and its peers, that every benchmark expands.

A subject turns an eager network into a function from float N,3,112,112 to float N,D. Packages are imported
inside the builders, because a subject may be absent, and because some read their environment at import.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import tests_path  # noqa: F401
import torch
from helpers import randomize_
from torch import Tensor, nn

import pocketnet_fast

Runner = Callable[[Tensor], Tensor]
Builder = Callable[[nn.Module, Tensor, int], Runner]

OURS = "pocketnet_fast"
SEED = 20220815


class UnavailableError(Exception):
    """A subject cannot run here; the message is the reason shown."""


@dataclass(frozen=True)
class Subject:
    """One way to run the network.

    Attributes:
        name: Unique; also what the command line selects by.
        build: From the eager network, an example batch and a number of threads, the function to time.
        package: Distribution that provides it, for the version and for the reason when it is absent.
        modules: What must be importable.
        precision: ``fp32``, or the precision the runtime picks on its own.
        min_cosine: Agreement with eager below which the subject is not timed. Random weights amplify rounding
            more than trained ones, which matters for runtimes that choose bfloat16.
        max_error: Largest absolute difference over largest absolute value above which it is not timed.
        environment: Set before anything is imported; such a subject runs in a process of its own only.
    """

    name: str
    build: Builder
    package: str = "torch"
    modules: tuple[str, ...] = ()
    precision: str = "fp32"
    min_cosine: float = 0.99999
    max_error: float = 1e-3
    environment: dict[str, str] = field(default_factory=dict)

    def require(self) -> None:
        """Raise ``UnavailableError`` if a module is missing."""
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if missing:
            raise UnavailableError(f"not installed: {', '.join(missing)}")

    def version(self) -> str:
        """Package and version; for the fused kernels also the instruction set that runs."""
        version = f"{self.package} {metadata.version(self.package)}"
        isa = pocketnet_fast.compiled_isa(self.precision)
        return f"{version}, {isa}" if self.package == OURS else version


def network(name: str) -> nn.Module:
    """The network under test, with random weights that keep activations of order one."""
    return randomize_(pocketnet_fast.create_model(name), SEED)


def batch_of(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED + size)
    return torch.randn(size, 3, 112, 112, generator=generator)


@dataclass(frozen=True)
class Agreement:
    """How close a subject's embeddings are to eager's."""

    cosine: float
    error: float

    def within(self, subject: Subject) -> bool:
        return self.cosine >= subject.min_cosine and self.error <= subject.max_error


def agreement(actual: Tensor, expected: Tensor) -> Agreement:
    actual, expected = actual.double(), expected.double()
    cosine = torch.nn.functional.cosine_similarity(actual, expected, dim=1).min()
    error = (actual - expected).abs().max() / expected.abs().max()
    return Agreement(float(cosine), float(error))


def _eager(model: nn.Module, _example: Tensor, _threads: int) -> Runner:
    return model


def _channels_last(model: nn.Module, _example: Tensor, _threads: int) -> Runner:
    converted = model.to(memory_format=torch.channels_last)
    return lambda x: converted(x.contiguous(memory_format=torch.channels_last))


def _torchscript(model: nn.Module, example: Tensor, _threads: int) -> Runner:
    return torch.jit.optimize_for_inference(torch.jit.trace(model, example))


def _compiled(model: nn.Module, _example: Tensor, _threads: int) -> Runner:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    return torch.compile(model, dynamic=False)


def onnx_file(model: nn.Module, example: Tensor, folder: str) -> str:
    path = str(Path(folder) / "network.onnx")
    # The newer exporter, whose graph OpenVINO runs a quarter faster; a fixed batch, which all prefer.
    torch.onnx.export(model, (example,), path, input_names=["input"], dynamo=True, verbose=False)
    return path


def _onnxruntime(model: nn.Module, example: Tensor, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = onnx_file(model, example, folder)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def _openvino(precision: str | None) -> Builder:
    def build(model: nn.Module, example: Tensor, threads: int) -> Runner:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            converted = openvino.convert_model(onnx_file(model, example, folder))
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision is not None:
            settings["INFERENCE_PRECISION_HINT"] = precision
        request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(request.infer({0: x.numpy()}, share_inputs=True)[0])

        return run

    return build


def ncnn_network(model: nn.Module, example: Tensor, threads: int, *, half: bool = False) -> Any:
    """The network as ncnn runs it, with input "in0" and output "out0"; half: states stored as bfloat16."""
    import ncnn

    converter = Path(sysconfig.get_path("scripts")) / "pnnx"
    if not converter.exists():
        raise UnavailableError("not installed: pnnx, the converter to ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = half
    with tempfile.TemporaryDirectory() as folder:
        torch.jit.trace(model, example[:1]).save(f"{folder}/network.pt")
        command = [str(converter), "network.pt", "inputshape=[1,3,112,112]f32", "fp16=0"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        if net.load_param(f"{folder}/network.ncnn.param") or net.load_model(f"{folder}/network.ncnn.bin"):
            raise UnavailableError("ncnn cannot load what pnnx converted")
    return net


def _ncnn(model: nn.Module, example: Tensor, threads: int) -> Runner:
    import ncnn
    import numpy as np

    net = ncnn_network(model, example, threads)

    def embed(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])

    # ncnn has no batch dimension.
    return lambda x: torch.from_numpy(np.stack([embed(image) for image in x.numpy()]))


def _ours(precision: str) -> Builder:
    def build(model: nn.Module, _example: Tensor, threads: int) -> Runner:
        try:
            return pocketnet_fast.compile(model, precision=precision, threads=threads)
        except ImportError as error:
            raise UnavailableError(str(error)) from None

    return build


# What rounding to bfloat16 makes of random weights.
_HALF = {"min_cosine": 0.95, "max_error": 0.5}
_OPENVINO = {"package": "openvino", "modules": ("openvino", "onnx")}

SUBJECTS = (
    Subject(OURS, _ours("fp32"), "pocketnet_fast"),
    Subject(f"{OURS} bf16", _ours("bf16"), "pocketnet_fast", precision="bf16", **_HALF),
    Subject("eager", _eager),
    Subject("eager channels_last", _channels_last),
    Subject("torchscript", _torchscript),
    Subject("torch.compile", _compiled),
    Subject("onnxruntime", _onnxruntime, "onnxruntime", ("onnxruntime", "onnx")),
    Subject("openvino f32", _openvino("f32"), **_OPENVINO),
    Subject("openvino default", _openvino(None), **_OPENVINO, precision="default", **_HALF),
    Subject("ncnn", _ncnn, "ncnn", ("ncnn",)),
    Subject(f"{OURS} avx2", _ours("fp32"), "pocketnet_fast", environment={"PNF_FORCE_ISA": "avx2"}),
    Subject("openvino f32 avx2", _openvino("f32"), **_OPENVINO, environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
)


def by_name(name: str) -> Subject:
    for subject in SUBJECTS:
        if subject.name == name:
            return subject
    raise KeyError(f"no subject {name!r}; expected one of {', '.join(s.name for s in SUBJECTS)}")


def limit_threads(threads: int) -> None:
    """Give this process ``threads`` threads, and a single thread a processor of its own.

    Pinning a single thread keeps every subject on the same core, and keeps helper threads that a runtime
    starts in spite of its settings from doing part of the work elsewhere.
    """
    torch.set_num_threads(threads)
    available = sorted(os.sched_getaffinity(0))
    if threads < len(available):
        os.sched_setaffinity(0, available[-threads:])
