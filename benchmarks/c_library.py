"""libpocketnet beside the package, and beside what a program on a device would link instead.

One aligned crop of bytes to one embedding, one thread, in turns within one process:

    pip install ncnn pnnx MNN    # the peers; one that is missing is left out, and said
    python benchmarks/c_library.py --model pocketnet_s128

libpocketnet and the package read the crop's bytes, ncnn, too; MNN is given floats that were prepared before.
All are called through thin layers of Python, which take some microseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from call_turns import take_turns
from subjects import UnavailableError, by_name, ncnn_network, network, onnx_file
from torch import nn

import pocketnet_fast
from pocketnet_fast.export.libpocketnet import LibraryModel, installed_library
from pocketnet_fast.export.library_file import export_library_file
from pocketnet_fast.machine import processor_name

SIDE = 112
Crop = np.ndarray
Embed = Callable[[], np.ndarray]


def library(model: nn.Module, crop: Crop, folder: Path, precision: str) -> Embed:
    path = folder / f"{precision}.pnf"
    export_library_file(model, path, precision=precision, flip=False)
    opened = LibraryModel(path, crops_only=True)
    return lambda: opened.embed(crop[None])[0]


def package(model: nn.Module, crop: Crop, _folder: Path, precision: str) -> Embed:
    compiled = pocketnet_fast.compile(model, precision=precision, threads=1)
    pixels = torch.from_numpy(crop[None])

    def embed() -> np.ndarray:
        return compiled(pixels)[0].numpy()

    return embed


def ncnn(model: nn.Module, crop: Crop, _folder: Path, half: bool) -> Embed:
    by_name("ncnn").require()
    import ncnn

    net = ncnn_network(model, torch.zeros(1, 3, SIDE, SIDE), 1, half=half)

    def embed() -> np.ndarray:
        image = ncnn.Mat.from_pixels(crop, ncnn.Mat.PixelType.PIXEL_RGB, SIDE, SIDE)
        image.substract_mean_normalize([127.5] * 3, [1 / 127.5] * 3)
        extractor = net.create_extractor()
        extractor.input("in0", image)
        return np.array(extractor.extract("out0")[1])

    return embed


def mnn(model: nn.Module, crop: Crop, folder: Path, precision: str) -> Embed:
    if importlib.util.find_spec("MNN") is None:
        raise UnavailableError("not installed: MNN")
    import MNN

    source, converted = onnx_file(model, torch.zeros(1, 3, SIDE, SIDE), str(folder)), folder / "network.mnn"
    # The program `mnnconvert` around it installs packages and reports its use.
    convert = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
    options = [
        "-f",
        "ONNX",
        "--modelFile",
        source,
        "--MNNModel",
        str(converted),
        "--bizCode",
        "benchmark",
    ]
    subprocess.run([sys.executable, "-c", convert, *options], check=True, capture_output=True)
    interpreter = MNN.Interpreter(str(converted))
    session = interpreter.createSession({"backend": "CPU", "numThread": 1, "precision": precision})
    given = interpreter.getSessionInput(session)
    floats = ((crop.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None].copy()
    prepared = MNN.Tensor(floats.shape, MNN.Halide_Type_Float, floats, MNN.Tensor_DimensionType_Caffe)

    def embed() -> np.ndarray:
        given.copyFrom(prepared)
        interpreter.runSession(session)
        found = interpreter.getSessionOutput(session)
        shape = found.getShape()
        host = MNN.Tensor(
            shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe
        )
        found.copyToHostTensor(host)
        return np.array(host.getData(), np.float32).reshape(-1)

    return embed


SUBJECTS: dict[str, tuple[Callable[..., Embed], object, float]] = {
    "libpocketnet fp32": (library, "fp32", 0.99999),
    "pocketnet_fast fp32": (package, "fp32", 0.99999),
    "ncnn fp32": (ncnn, False, 0.99999),
    "MNN fp32": (mnn, "high", 0.99999),
    "libpocketnet bf16": (library, "bf16", 0.95),
    "pocketnet_fast bf16": (package, "bf16", 0.95),
    "ncnn bf16 storage": (ncnn, True, 0.95),
    "MNN low precision": (mnn, "low", 0.95),
}
"""How each is built, its precision, and the least cosine with eager: random weights amplify rounding."""


def sizes() -> dict[str, int]:
    """Bytes of what would be linked, stripped; the peers' are the modules of their Python packages."""
    found = {}
    for name, module in (("ncnn", "ncnn.ncnn"), ("MNN", "_mnncengine")):
        spec = importlib.util.find_spec(module) if importlib.util.find_spec(module.split(".")[0]) else None
        if spec is not None and spec.origin is not None:
            found[f"{name} {metadata.version(name)}, Python module"] = stripped(Path(spec.origin))
    return {"libpocketnet": stripped(installed_library()), **found}


def stripped(path: Path) -> int:
    with tempfile.NamedTemporaryFile() as copy:
        subprocess.run(["strip", "--strip-unneeded", "-o", copy.name, str(path)], check=True)
        return Path(copy.name).stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocketnet_s128")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each subject")
    parser.add_argument("--calls", type=int, default=10, help="calls of a turn that count")
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)

    model = network(arguments.model).eval()
    crop = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(model.input_spec.normalize(torch.from_numpy(crop[None])))[0].numpy()
    calls: dict[str, Embed] = {}
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        for name, (build, option, least) in SUBJECTS.items():
            folder = Path(temporary) / name
            folder.mkdir()
            try:
                embed = build(model, crop, folder, option)
            except UnavailableError as error:
                print(f"{name}: {error}")
                continue
            found = embed()
            cosine = float(found @ expected / np.linalg.norm(found) / np.linalg.norm(expected))
            if cosine < least:
                print(f"{name}: cosine {cosine:.5f} with eager, not timed")
                continue
            calls[name] = embed
        times = take_turns(calls, arguments.rounds, arguments.calls)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{arguments.model}, one crop, one thread, {processor_name()}; medians in ms")
    for name, median in medians.items():
        ours = medians["libpocketnet fp32" if name.endswith("fp32") else "libpocketnet bf16"]
        print(f"{name:22} {median:7.3f}  {median / ours:5.2f} times libpocketnet")
    kilobytes = {name: round(size / 1000) for name, size in sizes().items()}
    print("stripped: " + ", ".join(f"{name} {size:,} KB" for name, size in kilobytes.items()))
    if arguments.out is not None:
        content = {
            "machine": processor_name(),
            "model": arguments.model,
            "medians": medians,
            "kilobytes": kilobytes,
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
