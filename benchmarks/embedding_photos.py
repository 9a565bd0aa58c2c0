"""Many photos embedded by two workers of Ray, against as many plain processes that share them.

    python benchmarks/embedding_photos.py photos/ --count 10000

The photos of the folder are repeated by links until there are ``--count``. `pocketnet embed --ray` and
`pocketnet embed --shard` take turns, with one thread for each worker and process; a round is the time of the
whole command, from its start to the last file. Starting takes some seconds, so the same is done with
``--few`` photos, and what the others take beyond that is the pace without the start.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pocketnet_fast.machine import processor_name

EMBED = (Path(sys.executable).with_name("pocketnet"), "embed")
Run = Callable[[Path, Path], None]


def repeated(photos: list[Path], count: int, folder: Path) -> Path:
    """A folder with so many links to the photos."""
    folder.mkdir()
    for number in range(count):
        photo = photos[number % len(photos)]
        (folder / f"{number:08}{photo.suffix}").symlink_to(photo.resolve())
    return folder


def on_ray(workers: int) -> Run:
    """One command and its workers."""

    def run(photos: Path, out: Path) -> None:
        command = [*EMBED, photos, "--ray", "--workers", workers, "--skip", "-o", out]
        subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)

    return run


def as_shards(processes: int) -> Run:
    """As many commands at the same time."""

    def run(photos: Path, out: Path) -> None:
        out.mkdir()
        started = []
        for number in range(1, processes + 1):
            command = [
                *EMBED,
                photos,
                "--shard",
                f"{number}/{processes}",
                "--threads",
                1,
                "--skip",
                "-o",
                out,
            ]
            started.append(subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL))
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit("a process failed")

    return run


def seconds(run: Run, photos: Path) -> float:
    """Of the whole, by the clock."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(photos, Path(folder) / "out")
        return time.perf_counter() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a folder of .jpg or .png files")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument(
        "--few", type=int, default=16, help="photos of the runs that show what starting takes"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    photos = sorted([*arguments.photos.glob("*.jpg"), *arguments.photos.glob("*.png")])
    if not photos:
        parser.error(f"{arguments.photos} holds no .jpg or .png")
    if not 0 < arguments.few < arguments.count:
        parser.error("--few is below --count, and at least 1")
    runs = {"Ray": on_ray(arguments.workers), "plain processes": as_shards(arguments.workers)}
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        many = repeated(photos, arguments.count, Path(folder) / "many")
        few = repeated(photos, arguments.few, Path(folder) / "few")
        for turn in range(arguments.rounds):
            for name, run in list(runs.items())[:: 1 if turn % 2 == 0 else -1]:
                whole, start = seconds(run, many), seconds(run, few)
                rounds[name].append(
                    {
                        "seconds": whole,
                        "start_seconds": start,
                        "photos_a_second": arguments.count / whole,
                        "photos_a_second_after_the_start": (arguments.count - arguments.few)
                        / (whole - start),
                    }
                )
    record: dict[str, Any] = {
        "cpu": processor_name(),
        "load_average": os.getloadavg()[0],
        "photos": arguments.count,
        "workers": arguments.workers,
        "rounds": rounds,
    }
    print_table(rounds, arguments.count, arguments.workers)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=2))


def print_table(rounds: dict[str, list[dict[str, float]]], count: int, workers: int) -> None:
    """Medians, and what Ray reaches of the plain processes' pace."""
    table = Table(title=f"{count:,} photos, {workers} workers with one thread each")
    keys = (
        "seconds",
        "start_seconds",
        "photos_a_second",
        "photos_a_second_after_the_start",
    )
    for column in ("", *(key.replace("_", " ") for key in keys)):
        table.add_column(column, justify="left" if not column else "right")
    medians = {
        name: {key: statistics.median(one[key] for one in some) for key in keys}
        for name, some in rounds.items()
    }
    for name, figures in medians.items():
        table.add_row(name, *(f"{figures[key]:.1f}" for key in keys))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for key in keys[2:]:
        part = medians["Ray"][key] / medians["plain processes"][key]
        console.print(f"Ray reaches {part:.2f} of the plain processes' {key.replace('_', ' ')}")


if __name__ == "__main__":
    main()
