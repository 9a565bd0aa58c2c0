"""Images per second of loading, against the reader's own floor; subjects take turns in one process.

    python benchmarks/data_loading.py
    python benchmarks/data_loading.py --records faces/train.rec --images 4096 --batch 128

Without --records, synthetic people are rendered into a temporary record file first. The floor is what nobody
who reads this file with OpenCV can avoid: the records' bytes, and cv2.imdecode of them, in one process. The
subjects above it add the completeness checks and the conversion to RGB (image), and then order, augmentation
and batches (loader). A loader with workers includes starting them, once per epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.loader import make_loader
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.data.synthetic import SyntheticDataset
from pocketnet_fast.data.writing import write_records
from pocketnet_fast.machine import processor_name

FLOOR = "records, cv2.imdecode (the floor)"
EVERY = Augmentation(flip=0.5, crop=0.5, color=0.5, blur=0.5, cutout=0.5)


class Subject(NamedTuple):
    """A pass over some images in random order, and the number of processes that do the work."""

    run: Callable[[], object]
    images: int
    processes: int = 1


def subjects(dataset: RecordDataset, images: int, batch: int) -> dict[str, Subject]:
    order = np.random.default_rng(0).permutation(len(dataset))[:images].tolist()

    def floor() -> None:
        for index in order:
            cv2.imdecode(np.frombuffer(dataset.encoded(index), np.uint8), cv2.IMREAD_COLOR)

    def loader(augmentation: Augmentation, workers: int) -> Callable[[], None]:
        made = make_loader(dataset, batch_size=batch, augmentation=augmentation, seed=0, workers=workers)
        made.sampler.set_position(0, made.sampler.steps_per_epoch - images // batch)

        def run() -> None:
            seen = sum(len(labels) for _, labels in made)
            assert seen == images, (seen, images)

        return run

    people = SyntheticDataset(64, 20)
    drawn = np.random.default_rng(0).permutation(len(people))[: max(images // 16, 1)].tolist()
    return {
        "records": Subject(lambda: [dataset.encoded(index) for index in order], images),
        FLOOR: Subject(floor, images),
        "image": Subject(lambda: [dataset.image(index) for index in order], images),
        "loader, flip, no workers": Subject(loader(Augmentation(), 0), images),
        "loader, flip, 1 worker": Subject(loader(Augmentation(), 1), images),
        "loader, flip, 2 workers": Subject(loader(Augmentation(), 2), images, 2),
        "loader, every change at 0.5, no workers": Subject(loader(EVERY, 0), images),
        "synthetic people, rendered": Subject(lambda: [people.image(index) for index in drawn], len(drawn)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=Path, help="a .rec file; default: synthetic people as JPEG")
    parser.add_argument("--images", type=int, default=4096, help="per pass; a multiple of the batch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    a = parser.parse_args()
    if a.images % a.batch:
        parser.error(f"{a.images} images are no multiple of the batch, {a.batch}")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        path = a.records or Path(folder, "train.rec")
        if a.records is None:
            people = SyntheticDataset(-(-a.images // 32), 32)
            rendering = iter(track(range(len(people)), "rendering", transient=True))

            def read(index: int) -> bytes:
                next(rendering)
                return encode_image(people.image(index), ".jpg")

            write_records(path, people.labels, read)
        measure(RecordDataset(path), a)


def measure(dataset: RecordDataset, a: argparse.Namespace) -> None:
    if len(dataset) < a.images:
        raise SystemExit(f"{dataset.name} holds {len(dataset)} images; --images asks for {a.images}")
    named = subjects(dataset, a.images, a.batch)
    times: dict[str, list[float]] = {name: [] for name in named}
    for subject in named.values():
        subject.run()
    shuffle = random.Random(0)
    for _ in track(range(a.rounds), "measuring", transient=True):
        for name in shuffle.sample([*named], len(named)):
            start = time.perf_counter()
            named[name].run()
            times[name].append((time.perf_counter() - start) / named[name].images)

    size = np.mean([len(dataset.encoded(index)) for index in range(0, len(dataset), 16)])
    versions = f"OpenCV {cv2.__version__}, numpy {np.__version__}, torch {torch.__version__}"
    console = Console()
    console.print(f"{processor_name()}, {os.cpu_count()} cores; {versions}")
    console.print(f"{dataset.name}: {len(dataset):,} images of {size / 1024:.1f} KiB on average")
    table = Table(title=f"{a.images} images, batch {a.batch}, {a.rounds} rounds", title_justify="left")
    table.add_column("subject")
    for column in ("ms per image", "quartiles", "best", "images/s", "per process", "times the floor"):
        table.add_column(column, justify="right")
    floor = statistics.median(times[FLOOR])
    figures = {}
    for name, subject in named.items():
        low, middle, high = statistics.quantiles(times[name], n=4)
        figures[name] = {
            "ms": middle * 1e3,
            "lower_ms": low * 1e3,
            "upper_ms": high * 1e3,
            "best_ms": min(times[name]) * 1e3,
        }
        table.add_row(
            name,
            f"{middle * 1e3:.3f}",
            f"{low * 1e3:.3f} to {high * 1e3:.3f}",
            f"{min(times[name]) * 1e3:.3f}",
            f"{1 / middle:,.0f}",
            f"{1 / middle / subject.processes:,.0f}",
            f"{middle * subject.processes / floor:.2f}",
        )
    console.print(table)
    if a.json:
        a.json.write_text(json.dumps({"records": dataset.name, "images": a.images, "figures": figures}))


if __name__ == "__main__":
    main()
