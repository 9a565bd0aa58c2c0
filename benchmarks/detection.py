"""The face detector alone, ours against its peers, taking turns on one thread.

    python benchmarks/detection.py --side 320 --side 640

Each is given the same picture of rendered faces. Ours takes its bytes and gives faces; the peers take floats
that are ready and give the network's maps, but for OpenCV, which does as ours. ``off`` is the largest
difference of a score, box or landmark to ours in float32, for those that give faces, else of a map to eager
PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from call_turns import take_turns
from rich.console import Console
from rich.table import Table
from subjects import limit_threads

from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.lowering.yunet import lower_detector
from pocketnet_fast.machine import processor_name
from pocketnet_fast.models.yunet import YuNet, load_yunet
from pocketnet_fast.ops.detect_faces import detect_faces
from pocketnet_fast.ops.native import compiled_isa

Run = Callable[[], list[np.ndarray]]


def picture(side: int) -> np.ndarray:
    """uint8 side,side,3, RGB: faces of 112 pixels, side by side."""
    result = np.full((side, side, 3), 128, np.uint8)
    for number, corner in enumerate(np.ndindex(side // 128, side // 128)):
        top, left = (128 * place for place in corner)
        result[top : top + 112, left : left + 112] = render_identity(0, number, 0)
    return result


def ours(model: YuNet, image: np.ndarray, precision: str) -> Run:
    """The operator, from bytes to faces."""
    network, pixels = lower_detector(model, precision=precision).encode(), torch.from_numpy(image)
    return lambda: [detect_faces(pixels, *network, threads=1).numpy()]


def _onnx(model: YuNet, example: torch.Tensor, path: Path) -> Path:
    names = ["maps8", "maps16", "maps32"]
    torch.onnx.export(model, (example,), path, output_names=names, dynamo=False)
    return path


def by_onnxruntime(path: Path, example: np.ndarray) -> Run:
    """The network by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: example})


def by_openvino(path: Path, example: np.ndarray, precision: str | None) -> Run:
    """The network by OpenVINO, in a precision or its own choice."""
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    request = core.compile_model(openvino.convert_model(path), "CPU", settings).create_infer_request()
    return lambda: [*request.infer({0: example}, share_inputs=True).values()]


def by_opencv(file: Path, image: np.ndarray) -> Run:
    """OpenCV's detector, from bytes to faces; takes the published file."""
    import cv2

    cv2.setNumThreads(1)
    side = image.shape[0]
    detector = cv2.FaceDetectorYN.create(str(file), "", (side, side), 0.7, 0.3, 1000)
    bgr = np.ascontiguousarray(image[..., ::-1])
    return lambda: [detector.detect(bgr)[1]]


def subjects(side: int, published: Path | None, folder: Path) -> dict[str, tuple[Run, bool]]:
    """What takes turns, and whether it gives faces."""
    model, image = load_yunet(), picture(side)
    example = torch.from_numpy(image).flip(-1).permute(2, 0, 1)[None].float().contiguous()
    found: dict[str, tuple[Run, bool]] = {
        "pocketnet_fast, fp32": (ours(model, image, "fp32"), True),
        "pocketnet_fast, bf16": (ours(model, image, "bf16"), True),
    }
    with torch.inference_mode():
        path = _onnx(model, example, folder / "yunet.onnx")
    for name, build in (
        ("onnxruntime", lambda: by_onnxruntime(path, example.numpy())),
        ("OpenVINO, f32", lambda: by_openvino(path, example.numpy(), "f32")),
        ("OpenVINO, its default", lambda: by_openvino(path, example.numpy(), None)),
    ):
        try:
            found[name] = (build(), False)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    if published is not None:
        found["OpenCV"] = (by_opencv(published, image), True)
    with torch.inference_mode():
        expected = [part.numpy() for part in model(example)]
    found["eager PyTorch"] = (lambda: [part.numpy() for part in _eager(model, example)], False)
    for name, (run, faces) in found.items():
        reference = found["pocketnet_fast, fp32"][0]() if faces else expected
        off = max(
            float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else float("inf")
            for a, b in zip(run(), reference, strict=True)
        )
        print(f"{side}: {name}: off by {off:.2g}")
    return found


@torch.inference_mode()
def _eager(model: YuNet, example: torch.Tensor) -> tuple[torch.Tensor, ...]:
    maps: tuple[torch.Tensor, ...] = model(example)
    return maps


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--side", type=int, action="append", help="of the picture; repeatable; default 320, 640"
    )
    parser.add_argument("--published", type=Path, help="YuNet's published ONNX file, for OpenCV to take part")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    limit_threads(1)
    record: dict[str, Any] = {
        "cpu": processor_name(),
        "isa": [compiled_isa(), compiled_isa("bf16")],
        "load_average": os.getloadavg()[0],
        "milliseconds": {},
    }
    table = Table("side", "", "median ms", "best", "times ours")
    for side in arguments.side or [320, 640]:
        with tempfile.TemporaryDirectory() as folder:
            candidates = subjects(side, arguments.published, Path(folder))
            calls = {name: run for name, (run, _) in candidates.items()}
            times = take_turns(calls, arguments.rounds, 5)
        medians = {name: statistics.median(values) for name, values in times.items()}
        record["milliseconds"][side] = medians
        base = medians["pocketnet_fast, fp32"]
        for name, median in sorted(medians.items(), key=lambda item: item[1]):
            best = min(times[name])
            table.add_row(str(side), name, f"{median:.2f}", f"{best:.2f}", f"{median / base:.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{record['cpu']}, {' and '.join(record['isa'])}, one thread, load {record['load_average']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
