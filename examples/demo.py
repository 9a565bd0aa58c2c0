"""Two real portraits, altered, and who is who: in Python on the fused kernels, and in C++ without Python.

Run by ``make demo``; needs the installed package, scikit-image and matplotlib (whose portraits it uses),
CMake and a C++ compiler, but no network. Writes a picture, a table and all numbers to demo_out/.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import pocketnet_fast
from pocketnet_fast.data.images import read_image
from pocketnet_fast.faces import Face
from pocketnet_fast.faces.pipeline import normalized
from pocketnet_fast.ops.native import library_path

MODEL = "pocketnet_s128"
HOST = Path(__file__).resolve().parent / "cpp_host"
# Largest difference between embeddings that rounding in another order may cause.
TOLERANCE = 1e-4
# Time for one comparison of speeds.
SECONDS = 10.0


@dataclass(frozen=True)
class Portrait:
    """A photo that an installed package carries."""

    person: str
    package: str
    file: str

    def path(self) -> Path:
        # Asking the import system, not the package: scikit-image's own loader may start a download.
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            sys.exit(f"demo: {self.package} is not installed; pip install 'pocketnet_fast[demo]'")
        path = Path(spec.origin).parent / self.file
        if not path.is_file():
            sys.exit(f"demo: this {self.package} carries no {path}")
        return path


PORTRAITS = (
    Portrait("Eileen Collins", "skimage", "data/astronaut.png"),
    Portrait("Grace Hopper", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)


def original(image: np.ndarray) -> np.ndarray:
    return image


def mirrored(image: np.ndarray) -> np.ndarray:
    return image[:, ::-1]


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.45).astype(np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 0.003 * image.shape[1])


def rotated(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 25, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


ALTERATIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (original, mirrored, darker, blurred, rotated)


def make_photos() -> dict[str, np.ndarray]:
    """Return each altered photo, H x W x 3 uint8, by what it shows."""
    return {
        f"{portrait.person}, {alter.__name__}": np.ascontiguousarray(alter(image))
        for portrait in PORTRAITS
        for image in [read_image(portrait.path())]
        for alter in ALTERATIONS
    }


def find_faces(photos: dict[str, np.ndarray]) -> list[Face]:
    """Return the main face of each photo, with crop and embedding."""
    analyzer = pocketnet_fast.FaceAnalyzer(max_faces=1)
    found = []
    for label, photo in photos.items():
        faces = analyzer.analyze(photo)
        if not faces or faces[0].crop is None:
            sys.exit(f"demo: no face was found in {label}")
        found.append(faces[0])
    return found


def expected_decisions(labels: list[str]) -> list[bool]:
    """Whether each pair of crops, in the order of combinations, shows one person."""
    people = [label.split(", ")[0] for label in labels]
    return [first == second for first, second in itertools.combinations(people, 2)]


def run(command: list[str | os.PathLike[str]], log: Path) -> str:
    """Run a program, keep what it said in ``log``, return its stdout; end the demo if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {' '.join(map(str, command))}\n{done.stdout}{done.stderr}\n")
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        sys.exit(f"demo: {Path(command[0]).name} failed, see {log}\n{tail}")
    return done.stdout


def build_host(build: Path, log: Path) -> Path:
    """Build the C++ program against the LibTorch that pip installed."""
    beside_python = Path(sys.executable).parent
    places = os.pathsep.join([str(beside_python), os.environ.get("PATH", "")])
    cmake = shutil.which("cmake", path=places)
    if cmake is None:
        sys.exit("demo: no cmake; pip install cmake ninja")
    # Fresh, because a second run may follow another Python environment; what is compiled is kept.
    configure: list[str | os.PathLike[str]] = [cmake, "--fresh", "-S", HOST, "-B", build]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    ninja = shutil.which("ninja", path=places)
    if ninja is not None:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run(configure, log)
    run([cmake, "--build", build, "--parallel"], log)
    return build / "cpp_host"


def interleaved_medians(
    candidates: dict[str, Callable[[], Any]], rounds: int, progress: Callable[[str], None]
) -> dict[str, float]:
    """Median milliseconds per call; the candidates take turns, so a busy machine slows all alike.

    The first call of each turn does not count: OpenMP's threads spin for some milliseconds after eager's last
    parallel region, on the processors that the next candidate needs.

    Ends early after ``SECONDS``, but not before three rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + SECONDS
    for index in range(rounds):
        if index >= 3 and time.perf_counter() > end:
            break
        progress(f"timing, round {index + 1} of {rounds}")
        for name, call in candidates.items():
            call()
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def eager_embeddings(model: torch.nn.Module, crops: np.ndarray) -> np.ndarray:
    """Embeddings of crops with those of their mirror images added, of length 1, by plain PyTorch."""
    images = model.input_spec.normalize(torch.from_numpy(crops))
    with torch.inference_mode():
        return normalized((model(images) + model(images.flip(3))).numpy())


def time_engines(
    model: torch.nn.Module, crops: np.ndarray, rounds: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Time eager and fused on one crop and on all, with one thread and with all, from uint8 pixels."""
    rows = []
    all_threads = torch.get_num_threads()
    normalize = model.input_spec.normalize
    fused = pocketnet_fast.compile(model)
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        for pixels in (torch.from_numpy(crops[:1]), torch.from_numpy(crops)):
            with torch.inference_mode():
                wall, own = time.perf_counter(), time.thread_time()
                medians = interleaved_medians(
                    {
                        "eager": lambda pixels=pixels: model(normalize(pixels)),
                        "fused": lambda pixels=pixels: fused(pixels),
                    },
                    rounds,
                    progress,
                )
                share = (time.thread_time() - own) / (time.perf_counter() - wall)
            per_image = {name: value / len(pixels) for name, value in medians.items()}
            rows.append({"threads": threads, "batch": len(pixels), "cpu_share": share, **per_image})
    torch.set_num_threads(all_threads)
    return rows


def draw(
    path: Path, labels: list[str], crops: np.ndarray, similarity: np.ndarray, threshold: float, title: str
) -> None:
    """Draw the crops along both sides of their similarity matrix; a frame marks who counts as one person."""
    count = len(labels)
    people = list(dict.fromkeys(label.split(", ")[0] for label in labels))
    figure = plt.figure(figsize=(11, 10.5))
    grid = figure.add_gridspec(
        count + 1, count + 1, wspace=0.06, hspace=0.06, left=0.16, right=0.98, top=0.9, bottom=0.02
    )
    for index, (label, crop) in enumerate(zip(labels, crops, strict=True)):
        for cell, side in ((grid[0, index + 1], "top"), (grid[index + 1, 0], "left")):
            axes = figure.add_subplot(cell)
            axes.imshow(crop)
            axes.set_xticks([])
            axes.set_yticks([])
            name = label.split(", ")[1]
            if side == "top":
                axes.set_title(name, fontsize=9)
            else:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    axes = figure.add_subplot(grid[1:, 1:])
    axes.imshow(similarity, cmap="RdYlGn", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for row in range(count):
        for column in range(count):
            value = similarity[row, column]
            ink = "white" if abs(value) > 0.8 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
            if value >= threshold:
                corner = (column - 0.45, row - 0.45)
                axes.add_patch(plt.Rectangle(corner, 0.9, 0.9, fill=False, edgecolor="black", linewidth=1.2))
    half = count / len(people) - 0.5
    axes.axhline(half, color="black", linewidth=1)
    axes.axvline(half, color="black", linewidth=1)
    figure.suptitle(f"{' and '.join(people)}: cosine similarity\n{title}", fontsize=12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def false_accepts(far: float) -> str:
    """What a false accept rate means, in words."""
    return f"which takes 1 of {round(1 / far):,} pairs of two people for one"


def tables(results: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, header and rows of each table."""
    decisions = results["decisions"]
    decided = [
        [name, str(row["pairs"]), f"{row['lowest']:.3f}", f"{row['highest']:.3f}", str(row["right"])]
        for name, row in decisions["groups"].items()
    ]
    agreement = [[name, f"{value:.1e}"] for name, value in results["max_abs_difference"].items()]
    speed = [
        [
            str(row["threads"]),
            str(row["batch"]),
            f"{row['eager']:.2f}",
            f"{row['fused']:.2f}",
            f"{row['eager'] / row['fused']:.1f}x",
        ]
        for row in results["milliseconds_per_image"]
    ]
    rate = false_accepts(decisions["far"])
    return [
        (
            f"Decisions of the C++ host at cosine {decisions['threshold']:.3f}, {rate}",
            ["pairs of", "pairs", "lowest cosine", "highest cosine", "decided right"],
            decided,
        ),
        ("Agreement with eager PyTorch", ["path", "max abs difference"], agreement),
        ("Milliseconds per image, medians", ["threads", "batch", "eager", "fused", "ratio"], speed),
    ]


def write_markdown(path: Path, caption: str, results: dict[str, Any]) -> None:
    lines = [f"# {results['model']} on {results['isa']}", "", caption, ""]
    for title, header, rows in tables(results):
        lines += [f"## {title}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
        lines.append("")
    lines.append(f"C++ host: {results['cpp_host_milliseconds_per_photo']:.1f} ms per photo.")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def summarize(answer: dict[str, Any], expected: list[bool]) -> dict[str, Any]:
    """Put the C++ host's decisions together: for pairs of one person and of two, how they were decided."""
    groups = {}
    for name, wanted in (("one person", True), ("two people", False)):
        chosen = [pair for pair, same in zip(answer["pairs"], expected, strict=True) if same == wanted]
        cosines = [pair["cosine"] for pair in chosen]
        groups[name] = {
            "pairs": len(chosen),
            "lowest": min(cosines),
            "highest": max(cosines),
            "right": sum(pair["same"] == wanted for pair in chosen),
        }
    return {"threshold": answer["threshold"], "far": answer["far"], "groups": groups}


def measure(out: Path, rounds: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Do everything that takes time, draw the picture, and return the numbers."""
    log = out / "log.txt"
    log.unlink(missing_ok=True)
    (out / "photos").mkdir(parents=True, exist_ok=True)

    progress("finding and embedding the faces in Python")
    photos = make_photos()
    labels, faces = list(photos), find_faces(photos)
    crops = np.stack([face.crop for face in faces])
    fused = np.stack([face.embedding for face in faces])
    model = pocketnet_fast.create_model(MODEL, pretrained=True).eval()
    eager = eager_embeddings(model, crops)

    files = []
    for label, photo in photos.items():
        # PPM, which the C++ host reads even where no libpng was found to build it with.
        files.append(out / "photos" / (label.lower().replace(", ", "-").replace(" ", "_") + ".ppm"))
        cv2.imwrite(str(files[-1]), photo[..., ::-1])

    progress("exporting TorchScript")
    script = out / "faces.pt"
    pocketnet_fast.export_torchscript(pocketnet_fast.FaceAnalyzer(max_faces=1), script)
    progress("building the C++ host")
    host = build_host(out / "cpp_host_build", log)
    progress("running the C++ host")
    answer = json.loads(run([host, script, "--ops", library_path(), *files], log))
    if not all(photo["faces"] for photo in answer["photos"]):
        sys.exit("demo: the C++ host found no face in a photo in which Python found one")
    in_cpp = np.array([photo["faces"][0]["embedding"] for photo in answer["photos"]], np.float32)
    decisions = summarize(answer["decisions"], expected_decisions(labels))

    speed = time_engines(model, crops, rounds, progress)
    similarity = np.eye(len(labels))
    for pair in answer["decisions"]["pairs"]:
        similarity[pair["a"], pair["b"]] = similarity[pair["b"], pair["a"]] = pair["cosine"]
    # One thread on a core of its own runs all the time; less means that other programs took their part.
    busy = min(row["cpu_share"] for row in speed if row["threads"] == 1) < 0.9
    results = {
        "model": MODEL,
        "machine_was_busy": busy,
        "isa": pocketnet_fast.compiled_isa(),
        "decisions": decisions,
        "max_abs_difference": {
            "fused kernels, Python": float(np.abs(fused - eager).max()),
            "fused kernels, C++ host": float(np.abs(in_cpp - eager).max()),
        },
        "milliseconds_per_image": speed,
        "cpp_host_milliseconds_per_photo": statistics.median(
            photo["milliseconds"] for photo in answer["photos"]
        ),
        "photos": [str(file) for file in files],
        "similarity": similarity.tolist(),
    }
    threshold, rate = decisions["threshold"], false_accepts(decisions["far"])
    title = f"framed: one person, by the weights' threshold {threshold:.3f}, {rate}"
    draw(out / "demo.png", labels, crops, similarity, threshold, title)
    return results


def report(console: Console, out: Path, results: dict[str, Any]) -> None:
    """Print and write what was found."""
    groups = results["decisions"]["groups"].values()
    right, pairs = sum(row["right"] for row in groups), sum(row["pairs"] for row in groups)
    caption = f"{right} of {pairs} pairs of photos were decided right: one person or two?"
    if results["machine_was_busy"]:
        caption += " Other programs competed for the processor: do not trust the timings."
    write_markdown(out / "table.md", caption, results)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    console.print(f"\n[bold]{MODEL}[/bold] on {results['isa']} kernels. {caption}\n")
    for name, header, rows in tables(results):
        table = Table(*header, title=name, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    in_cpp = results["cpp_host_milliseconds_per_photo"]
    console.print(f"C++ host without Python, from pixels to embedding: {in_cpp:.1f} ms per photo.")
    console.print(f"Picture, table and numbers: {out}/demo.png, table.md, results.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder to write")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the timing")
    arguments = parser.parse_args()
    console = Console()
    with console.status("") as status:
        results = measure(arguments.output, arguments.rounds, status.update)
    report(console, arguments.output, results)
    worst = max(results["max_abs_difference"].values())
    if not worst <= TOLERANCE:
        sys.exit(f"demo: embeddings differ by {worst:.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
