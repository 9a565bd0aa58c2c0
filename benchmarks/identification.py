r"""Searching and scoring embeddings: seconds and memory, ours against whole products in numpy and faiss.

    python benchmarks/identification.py
    python benchmarks/identification.py --rows 100000 --probes 1000 --rounds 3
    python benchmarks/identification.py --part megaface --threads 2

Three parts. search: the five best people of a gallery for a few queries, three faces each, from a gallery on
disk that is in the page cache; the floor is reading the embeddings once (torch's sum of them). megaface: the
protocol with all distractors; the floor is the product alone at the speed of this machine's best block. ijb:
templates pooled from a stream of embeddings, and pairs of them scored from a list on disk, at IJB-C's size
times --scale.

Seconds by the clock, median and best, and the median of processor seconds, which say more on a machine where
other work runs. Embeddings are random directions. Results are compared with a plain computation before
anything is timed. Memory is measured in a process of its own: by how much the peak rises above what is
resident at the start, the embeddings included.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pocketnet_fast.evaluation import megaface
from pocketnet_fast.evaluation.ijb import Templates, verify
from pocketnet_fast.evaluation.ijb_files import IjbFiles
from pocketnet_fast.evaluation.templates import TemplatePool
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.gallery.space import EmbeddingSpace
from pocketnet_fast.machine import processor_name

Embeddings = npt.NDArray[np.float32]

PARTS = ("search", "megaface", "ijb")
PROBE_PEOPLE = 80  # FaceScrub's part of the challenge: 3,530 photos of 80 people
# IJB-C: images, templates, and pairs of templates.
IJBC = (469_375, 23_124, 15_658_489)


def directions(rows: int, dims: int, seed: int) -> Embeddings:
    rng = np.random.default_rng(seed)
    made = np.empty((rows, dims), np.float32)
    for first in range(0, rows, 1 << 16):
        part = rng.standard_normal((min(1 << 16, rows - first), dims), dtype=np.float32)
        made[first : first + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return made


class Times(NamedTuple):
    """Seconds of each round: by the clock, and of processors."""

    clock: list[float]
    processor: list[float]


def timed(run: Callable[[], Any], rounds: int) -> Times:
    run()
    return timed_once(run, rounds)


def timed_once(run: Callable[[], Any], rounds: int = 1) -> Times:
    times = Times([], [])
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        run()
        times.clock.append(time.perf_counter() - start)
        times.processor.append(time.process_time() - used)
    return times


def report(name: str, times: Times, note: str = "") -> None:
    median, best, used = statistics.median(times.clock), min(times.clock), statistics.median(times.processor)
    print(f"{name:<52} {median:>9.4f} {best:>9.4f} {used:>10.4f}  {note}", flush=True)


def search(a: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        rows = directions(a.rows, a.dims, 0)
        gallery = build(Path(folder, "people.gallery"), rows, a)
        queries = directions(1000, a.dims, 1)
        torch.set_num_threads(1)
        mapped = torch.from_numpy(rows)
        read = timed(mapped.sum, a.rounds)
        report("reading the embeddings once, 1 thread: the floor", read, rate(rows.nbytes, read))
        whole = timed(lambda: np.argpartition(-(rows @ queries[0]), 5)[:5], a.rounds)
        report("numpy: whole product, argpartition, 1 query", whole)
        for precision in ("fp32", "int8"):
            for threads in range(1, a.threads + 1):
                for count in (1, 2, 8, 64):

                    def run(count: int = count, threads: int = threads, precision: str = precision) -> None:
                        gallery.search(queries[:count], top=5, threads=threads, precision=precision)

                    seconds = timed(run, a.rounds if count < 64 else 3)
                    name = f"Gallery.search, 5 people, {precision}, {count} queries, {threads} threads"
                    report(name, seconds)
        compare_tops(gallery, queries, a)
        others(rows, queries, a)


def build(path: Path, rows: Embeddings, a: argparse.Namespace) -> Gallery:
    """A gallery with three faces of each person; times what happens once."""
    gallery = Gallery.create(path, EmbeddingSpace("random", "", False, a.dims))
    names = [f"person {row // 3}" for row in range(len(rows))]
    report(f"adding {len(rows):,} faces", timed_once(lambda: gallery.add(names, rows)))
    report("the first search, which makes the cache", timed_once(lambda: gallery.search(rows[:1])))
    opened: list[Gallery] = []

    def opening() -> None:
        opened.append(Gallery(path))
        opened[-1].refresh()

    report("opening the gallery, vectors included", timed(opening, 5))
    found = gallery.search(rows[:3], top=1, threads=1)
    if [matches[0].face for matches in found] != [1, 2, 3]:
        sys.exit("the search does not find a face itself; no time is reported")
    ten = directions(10_000, a.dims, 7)
    report("adding 10,000 faces", timed_once(lambda: gallery.add(["ten thousand"] * 10_000, ten)))
    report("the next search", timed_once(lambda: gallery.search(rows[:1])))
    report("deleting 10,000 faces", timed_once(lambda: gallery.delete_person("ten thousand")))
    report("the next search", timed_once(lambda: gallery.search(rows[:1])))
    return gallery


def compare_tops(gallery: Gallery, queries: Embeddings, a: argparse.Namespace) -> None:
    """How many queries have the same ten best people by bytes as exactly."""
    same = 0
    for first in range(0, len(queries), 50):
        some = queries[first : first + 50]
        exact = gallery.search(some, top=10, threads=a.threads)
        found = gallery.search(some, top=10, threads=a.threads, precision="int8")
        same += sum(
            [m.person for m in one] == [m.person for m in other]
            for one, other in zip(exact, found, strict=True)
        )
    print(f"the same ten people by int8 as by fp32: {same} of {len(queries)} queries")


def others(rows: Embeddings, queries: Embeddings, a: argparse.Namespace) -> None:
    """The ten best faces, where a library is installed that finds them."""
    try:
        import faiss
    except ImportError:
        print("faiss is not installed")
    else:
        faiss.omp_set_num_threads(1)
        kinds = {"IndexFlatIP": faiss.IndexFlatIP(a.dims)}
        quantizer = faiss.ScalarQuantizer
        for name in ("QT_8bit", "QT_bf16", "QT_fp16"):
            kinds[f"IndexScalarQuantizer {name}"] = faiss.IndexScalarQuantizer(
                a.dims, getattr(quantizer, name), faiss.METRIC_INNER_PRODUCT
            )
        for name, index in kinds.items():
            index.train(rows[:100_000])
            index.add(rows)
            for count in (1, 8):
                seconds = timed(lambda c=count, i=index: i.search(queries[:c], 10), a.rounds)
                report(f"faiss {name}, {count} queries, 1 thread", seconds)
            index.reset()
    try:
        from usearch.index import MetricKind
        from usearch.index import search as search_matrix
    except ImportError:
        print("usearch is not installed")
        return
    scale = 127 / np.abs(rows).max()
    for name, matrix, asked in (
        ("f32", rows, queries),
        ("i8", np.rint(rows * scale).astype(np.int8), np.rint(queries[:8] * scale).astype(np.int8)),
    ):
        for count in (1, 8):
            seconds = timed(
                lambda m=matrix, q=asked[:count]: search_matrix(
                    m, q, 10, MetricKind.IP, exact=True, threads=1
                ),
                3,
            )
            report(f"usearch exact search, {name}, {count} queries, 1 thread", seconds)


def rate(size: int, times: Times) -> str:
    return f"{size / min(times.clock) / 1e9:.1f} GB/s at best"


def challenge(a: argparse.Namespace) -> tuple[Embeddings, list[str], Embeddings]:
    people = directions(PROBE_PEOPLE, a.dims, 2)
    ids = np.arange(a.probes) * PROBE_PEOPLE // a.probes
    # Photos of one person at a cosine of about 0.5.
    probes = people[ids] + directions(a.probes, a.dims, 3)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    return probes, [str(person) for person in ids], directions(a.rows, a.dims, 4)


def run_megaface(a: argparse.Namespace) -> None:
    probes, ids, distractors = challenge(a)
    operations = 2 * a.probes * a.rows * a.dims
    few = distractors[:5000]
    scores = probes @ few.T
    mates = [
        (probes[i] @ probes[j], i)
        for i in range(a.probes)
        for j in range(a.probes)
        if i != j and ids[i] == ids[j]
    ]
    highest = scores.max(1)
    rank_one = np.mean([mate > highest[i] for mate, i in mates])
    if megaface.evaluate(probes, ids, few).sizes[-1].identification[1] != rank_one:
        sys.exit("the evaluation differs from numpy's; no time is reported")
    torch.set_num_threads(1)
    block, out = torch.from_numpy(distractors[:512]).T, torch.empty(512, 512)
    query = torch.from_numpy(np.ascontiguousarray(probes[:512]))
    if len(query) == 512:
        peak = min(timed(lambda: torch.mm(query, block, out=out), 300).clock)
        speed = 2 * 512 * 512 * a.dims / peak
        print(f"best block: {speed / 1e9:.0f} GFLOP/s; the products alone take {operations / speed:.1f} s")
    for threads in range(1, a.threads + 1):
        seconds = timed_once(
            lambda threads=threads: megaface.evaluate(probes, ids, distractors, threads=threads)
        )
        note = f"{operations / min(seconds.processor) / 1e9:.0f} GFLOP per processor second"
        report(f"{a.probes} probes x {a.rows} distractors, {threads} threads", seconds, note)
    for threads in range(1, a.threads + 1):
        command = [sys.executable, __file__, "--memory-of", "megaface", "--threads", str(threads)]
        for option in ("rows", "dims", "probes"):
            command += [f"--{option}", str(getattr(a, option))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks = json.loads(done.stdout.splitlines()[-1])
        print(
            f"memory, {threads} threads: embeddings {peaks['embeddings'] / 2**20:.0f} MiB, and at most "
            f"{peaks['beyond'] / 2**20:.0f} MiB while scoring; all scores would be "
            f"{4 * a.probes * a.rows / 2**20:,.0f} MiB"
        )


def megaface_memory(a: argparse.Namespace) -> dict[str, int]:
    probes, ids, distractors = challenge(a)
    megaface.evaluate(probes, ids, distractors[:1000], threads=a.threads)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    before = _status("VmRSS")
    megaface.evaluate(probes, ids, distractors, threads=a.threads)
    return {"embeddings": probes.nbytes + distractors.nbytes, "beyond": _status("VmHWM") - before}


def ijb_sizes(a: argparse.Namespace) -> tuple[int, int, int]:
    images, templates, pairs = (max(int(count * a.scale), 4) for count in IJBC)
    return images, templates, pairs


def run_ijb(a: argparse.Namespace) -> None:
    images, templates, pairs = ijb_sizes(a)
    command = [sys.executable, __file__, "--memory-of", "ijb", "--scale", str(a.scale), "--dims", str(a.dims)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{images:,} images, {templates:,} templates, {pairs:,} pairs, 1 thread")
    print(f"pooling: {found['pooling']:.1f} s, at most {found['pooling_memory'] / 2**20:.0f} MiB")
    print(
        f"reading and scoring pairs: {found['pairs']:.1f} s, at most {found['pairs_memory'] / 2**20:.0f} MiB"
    )
    print(f"all images' embeddings would be {4 * images * a.dims / 2**20:,.0f} MiB")


def ijb_memory(a: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    images, templates, pairs = ijb_sizes(a)
    rng = np.random.default_rng(0)
    owners = np.sort(rng.integers(0, templates, images))
    owners[:templates] = np.arange(templates)
    media = rng.integers(0, 8, images)
    batch = directions(1024, a.dims, 5)
    with tempfile.TemporaryDirectory() as folder:
        files = IjbFiles("ijbc", Path(folder), Path(folder))
        with files.pairs.open("w") as stream:
            for first in range(0, pairs, 1 << 18):
                drawn = rng.integers(0, templates, (min(1 << 18, pairs - first), 3))
                drawn[:, 2] = drawn[:, 2] % 800 == 0
                stream.write("\n".join(" ".join(map(str, row)) for row in drawn.tolist()) + "\n")
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        start = time.perf_counter()
        pool = TemplatePool(owners, media, a.dims)
        for first in range(0, images, len(batch)):
            chosen = np.arange(first, min(first + len(batch), images))
            pool.add(chosen, batch[: len(chosen)], np.full(len(chosen), 0.9))
        pooled = Templates(pool.ids, pool.embeddings())
        middle = time.perf_counter()
        found = {"pooling": middle - start, "pooling_memory": _status("VmHWM") - before}
        del pool
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        start = time.perf_counter()
        verify(files, pooled)
        return found | {"pairs": time.perf_counter() - start, "pairs_memory": _status("VmHWM") - before}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--rows", type=int, default=1_000_000, help="gallery rows, and distractors")
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--probes", type=int, default=3530)
    parser.add_argument("--scale", type=float, default=1.0, help="of IJB-C's size")
    parser.add_argument("--threads", type=int, default=2, help="measure with 1 to this many")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where the gallery is made; default: the temporary one")
    parser.add_argument("--memory-of", choices=("megaface", "ijb"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.memory_of:
        print(json.dumps(megaface_memory(a) if a.memory_of == "megaface" else ijb_memory(a)))
        return
    print(f"{processor_name()}, {os.cpu_count()} cores; numpy {np.__version__}, torch {torch.__version__}")
    print(f"{a.rows:,} rows of {a.dims} numbers, {4 * a.rows * a.dims / 2**20:,.0f} MiB")
    print(f"{'':<52} {'median s':>9} {'best s':>9} {'processor':>10}")
    for part in a.part or PARTS:
        {"search": search, "megaface": run_megaface, "ijb": run_ijb}[part](a)


if __name__ == "__main__":
    main()
