"""From photos to embeddings: the stages of one, a picture of many faces, and many photos over threads.

    python benchmarks/photos.py photos/ --published face_detection_yunet_2023mar.onnx

``photos/`` holds photos of one main face each. The path beside ours, where ``--published`` names YuNet's
published file, is what one puts together from OpenCV and onnxruntime: OpenCV's detector at the same two
sizes, its warp, and the network in onnxruntime. Everything runs on one thread and takes turns, but for
``analyze_many``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from call_turns import take_turns
from rich.console import Console
from rich.table import Table
from subjects import limit_threads

import pocketnet_fast
from pocketnet_fast.data.alignment import TEMPLATE, align, similarity_transform
from pocketnet_fast.data.images import ImageArray, read_image
from pocketnet_fast.data.synthetic import render_identity
from pocketnet_fast.export import export_onnx
from pocketnet_fast.faces import FaceDetector
from pocketnet_fast.machine import processor_name

Call = Callable[[], Any]


def stages(photo: Path, image: ImageArray) -> dict[str, Call]:
    """Each stage of one photo, and the whole."""
    detector = FaceDetector(threads=1)
    as_given = FaceDetector(threads=1, upright=False)
    face = detector.detect(image)[0]
    found: dict[str, Call] = {
        "read": lambda: read_image(photo),
        "find": lambda: detector.detect(image),
        "find, the photo upright": lambda: as_given.detect(image),
        "align": lambda: align(image, face.landmarks),
    }
    crop = torch.from_numpy(align(image, face.landmarks)[None])
    model = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    for precision in ("fp32", "bf16"):
        for flip in (False, True):
            name = f"{precision}{', mirror image added' if flip else ''}"
            compiled = pocketnet_fast.compile(model, precision=precision, flip=flip, threads=1)
            analyzer = pocketnet_fast.FaceAnalyzer(
                model=model, precision=precision, flip=flip, threads=1, max_faces=1
            )
            found[f"embed, {name}"] = lambda compiled=compiled: compiled(crop)
            found[f"photo to embedding, {name}"] = lambda analyzer=analyzer: analyzer.analyze(photo)
    return found


def put_together(published: Path, photo: Path, side: int) -> Call:
    """The same from OpenCV and onnxruntime: read, detect twice, warp, embed."""
    import cv2
    import onnxruntime

    cv2.setNumThreads(1)
    detector = cv2.FaceDetectorYN.create(str(published), "", (side, side), 0.7, 0.3, 1000)
    model = pocketnet_fast.create_model("pocketnet_s128", pretrained=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s128.onnx"
        export_onnx(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def faces_in(image: ImageArray) -> Any:
        detector.setInputSize(image.shape[1::-1])
        return detector.detect(image)[1]

    def run() -> Any:
        image = cv2.imread(str(photo))
        scale = side / max(image.shape[:2])
        row = faces_in(cv2.resize(image, None, fx=scale, fy=scale))[0] / scale
        left, top, wide, high = row[:4]
        x, y = max(0, int(left - wide / 4)), max(0, int(top - high / 4))
        around = image[y : int(top + 1.25 * high), x : int(left + 1.25 * wide)]
        better = 224 / min(wide, high)
        again = faces_in(cv2.resize(around, None, fx=better, fy=better))
        points = again[0, 4:14].reshape(5, 2) / better + (x, y)
        crop = cv2.warpAffine(image, similarity_transform(points, TEMPLATE), (112, 112))
        pixels = (crop[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
        return session.run(None, {name: np.ascontiguousarray(pixels)})[0]

    return run


def group(count: int) -> ImageArray:
    """A picture of rendered faces in rows of five."""
    rows = -(-count // 5)
    result = np.full((160 * rows, 800, 3), 128, np.uint8)
    for number in range(count):
        top, left = 160 * (number // 5) + 24, 160 * (number % 5) + 24
        result[top : top + 112, left : left + 112] = render_identity(0, number, 0)
    return result


def photos_a_second(photos: list[Path], count: int, threads: int) -> float:
    """Of ``analyze_many``, over so many photos, the given ones repeated."""
    analyzer = pocketnet_fast.FaceAnalyzer(threads=threads)
    many = [photos[number % len(photos)] for number in range(count)]
    for _ in analyzer.analyze_many(photos[: 2 * threads]):
        pass
    start = time.perf_counter()
    for _ in analyzer.analyze_many(many):
        pass
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a folder of .jpg or .png files")
    parser.add_argument(
        "--published", type=Path, help="YuNet's published ONNX file, for the path beside ours"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--many", type=int, default=1000, help="photos for analyze_many")
    parser.add_argument("--threads", type=int, action="append", help="of analyze_many; default 1 and 2")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    photos = sorted([*arguments.photos.glob("*.jpg"), *arguments.photos.glob("*.png")])
    if not photos:
        parser.error(f"{arguments.photos} holds no .jpg or .png")
    record: dict[str, Any] = {"cpu": processor_name(), "load_average": os.getloadavg()[0]}
    many = {}
    for threads in arguments.threads or [1, 2]:
        many[threads] = photos_a_second(photos, arguments.many, threads)
    limit_threads(1)
    image = read_image(photos[0])
    calls = stages(photos[0], image)
    if arguments.published is not None:
        calls["photo to embedding, OpenCV and onnxruntime"] = put_together(
            arguments.published, photos[0], 320
        )
    crowd, analyzer = group(20), pocketnet_fast.FaceAnalyzer(threads=1)
    record["faces"] = len(analyzer.analyze(crowd))
    calls[f"a picture of {record['faces']} faces"] = lambda: analyzer.analyze(crowd)
    times = take_turns(calls, arguments.rounds, 8)
    table = Table(f"one thread, {image.shape[1]}x{image.shape[0]}", "median ms", "best")
    for name, values in times.items():
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f}")
    record["milliseconds"] = {name: statistics.median(values) for name, values in times.items()}
    record["photos_a_second"] = many
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{record['cpu']}, load {record['load_average']:.1f}")
    Console().print(table)
    for threads, rate in many.items():
        print(f"analyze_many, {threads} threads: {rate:.1f} photos a second")


if __name__ == "__main__":
    main()
