"""The service against its own engine in process, and against one that one writes in Python.

    python benchmarks/server.py photos/ --detector face_detection_yunet_2023mar.onnx

``photos/`` holds photos, as JPEG. Throughput is that of ``--clients`` clients, each of which sends the next
request when the last one is answered; the three take turns. Latencies are those of requests that come at
random moments at 70 % of that throughput. The clients run on the same machine, on one thread, and take
processor time from the service: how much, stands beside the figures. The peer needs
``pip install ".[bench]"``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from http_load import Outcome, closed_loop, open_loop, post
from machine import processors
from rich.console import Console
from rich.table import Table
from torch.nn import functional

import pocketnet_fast
from pocketnet_fast.data.images import decode_image
from pocketnet_fast.export import export_onnx, export_torchscript
from pocketnet_fast.machine import processor_name
from pocketnet_fast.ops.native import compiled_isa

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("crops", "photos")
LOAD = 0.7
_RAW = {"Accept": "application/octet-stream", "Content-Type": "application/octet-stream"}


@dataclass
class Work:
    """What is computed: batches of aligned crops, as bytes and as tensors, and photos as files."""

    crops: np.ndarray
    photos: list[bytes]

    def requests(self, kind: str, path: str, query: str = "") -> list[bytes]:
        """The requests for one kind, as they are sent."""
        if kind == "crops":
            return [post(path, batch.tobytes(), _RAW) for batch in self.crops]
        return [post(path + query, photo, {"Content-Type": "image/jpeg"}) for photo in self.photos]

    def images_of(self, kind: str) -> int:
        """How many images one request has."""
        return self.crops.shape[1] if kind == "crops" else 1


@dataclass
class Served:
    """A service that runs: its address, its processes, and the requests that it takes."""

    port: int
    processes: Callable[[], list[int]]
    requests: dict[str, list[bytes]]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port


def in_process(model: Path, work: Work, kind: str, workers: int, seconds: float) -> float:
    """Images a second of the exported file itself, called from as many threads as the service has workers."""
    script = torch.jit.load(model)
    batches = [torch.from_numpy(batch) for batch in work.crops]
    counts = [0] * workers
    end = time.perf_counter() + seconds

    def crops(turn: int) -> int:
        batch = batches[turn % len(batches)]
        functional.normalize(script.embedder(batch))
        return len(batch)

    def photos(turn: int) -> int:
        script(torch.from_numpy(decode_image(work.photos[turn % len(work.photos)])))
        return 1

    one = crops if kind == "crops" else photos

    def run(worker: int) -> None:
        torch.set_num_threads(1)
        turn = worker
        with torch.inference_mode():
            while time.perf_counter() < end:
                counts[worker] += one(turn)
                turn += workers

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


@contextlib.contextmanager
def ours(program: Path, model: Path, work: Work, workers: int) -> Iterator[Served]:
    """The service, started as it comes."""
    command = [program, "--model", model, "--port", 0, "--workers", workers]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    try:
        port = int(json.loads(first)["url"].rsplit(":", 1)[1])
    except ValueError:
        raise SystemExit(f"{program} does not start: {first}{process.stderr.read()}") from None
    # Its log is written, as it is in use, and read by nobody.
    threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
    requests = {
        "crops": work.requests("crops", "/v1/embed"),
        "photos": work.requests("photos", "/v1/faces", "?embeddings=true"),
    }
    try:
        yield Served(port, lambda: [process.pid], requests)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def peer(network: Path, detector: Path, work: Work, workers: int) -> Iterator[Served]:
    """The service in Python, with as many processes as ours has workers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "python_service:app", "--port", port, "--workers", workers]
    command += ["--log-level", "warning", "--no-access-log"]
    files = {"PEER_NETWORK": str(network), "PEER_DETECTOR": str(detector)}
    environment = {**os.environ, "OPENCV_LOG_LEVEL": "ERROR", **files}
    process = subprocess.Popen([*map(str, command)], cwd=Path(__file__).parent, env=environment)

    def processes() -> list[int]:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [process.pid, *map(int, children.split())]

    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/ready", process)
        requests = {kind: work.requests(kind, f"/{kind}") for kind in KINDS}
        yield Served(port, processes, requests)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[Any]) -> None:
    end = time.perf_counter() + 60
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise SystemExit('the peer does not start; `pip install ".[bench]"`')
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the peer is not ready within a minute")


def check(served: Served, work: Work, script: torch.jit.ScriptModule) -> float:
    """The smallest cosine between a service's embeddings of crops and the file's own."""
    connection = socket.create_connection(served.address)
    with connection, connection.makefile("rb") as answer:
        connection.sendall(served.requests["crops"][0])
        status = answer.readline()
        headers = {}
        while (line := answer.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = answer.read(int(headers[b"content-length"]))
    if b" 200 " not in status:
        raise SystemExit(f"a service refuses the first request: {status.decode().strip()} {body[:200]!r}")
    found = torch.from_numpy(np.frombuffer(body, np.float32).reshape(work.crops.shape[1], -1).copy())
    expected = script.embedder(torch.from_numpy(work.crops[0]))
    return float(functional.cosine_similarity(found, expected).min())


def processor_seconds(pids: list[int]) -> float:
    """Processor time that processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pids: list[int]) -> float:
    """The most memory that processes held at a time, added up."""
    kilobytes = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kilobytes / 1024


def idle_percent(served: Served, seconds: float) -> float:
    """Percent of a processor that a service takes while 32 connections are open and none asks."""
    connections = [socket.create_connection(served.address) for _ in range(32)]
    time.sleep(0.5)
    before = processor_seconds(served.processes())
    time.sleep(seconds)
    used = processor_seconds(served.processes()) - before
    for connection in connections:
        connection.close()
    return 100 * used / seconds


def latencies(served: Served, kind: str, a_second: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Of requests at random moments, at a part of the throughput."""
    rate = LOAD * a_second
    outcome = open_loop(
        served.address,
        served.requests[kind],
        rate=rate,
        clients=128,
        seconds=max(arguments.latency_seconds, 10 / rate),
    )
    _all_answered(outcome)
    return {"rate": rate, "p50": outcome.milliseconds(50), "p99": outcome.milliseconds(99)}


def _all_answered(outcome: Outcome) -> None:
    if set(outcome.statuses) != {200}:
        raise SystemExit(f"answers had the statuses {dict(outcome.statuses)}; only 200 is counted")


def measure(
    arguments: argparse.Namespace, model: Path, work: Work, services: dict[str, Served]
) -> dict[str, Any]:
    """Throughput in turns, then latencies and idle time."""
    rounds: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in KINDS} for name in ("in process", *services)
    }
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(arguments.rounds):
        for kind in KINDS:
            names = list(rounds) if turn % 2 == 0 else list(rounds)[::-1]
            for name in names:
                if name == "in process":
                    rounds[name][kind].append(
                        in_process(model, work, kind, arguments.workers, arguments.seconds)
                    )
                    continue
                served = services[name]
                outcome = closed_loop(
                    served.address,
                    served.requests[kind],
                    clients=arguments.clients,
                    seconds=arguments.seconds,
                )
                _all_answered(outcome)
                rounds[name][kind].append(outcome.a_second * work.images_of(kind))
                if name == "ours":
                    shares[kind].append(100 * outcome.generator_seconds / outcome.seconds)
    result: dict[str, Any] = {"rounds": rounds, "services": {}}
    result["generator_percent"] = {kind: statistics.median(shares[kind]) for kind in KINDS}
    for name, served in services.items():
        throughput = {kind: statistics.median(rounds[name][kind]) for kind in KINDS}
        facts: dict[str, Any] = {
            kind: latencies(served, kind, throughput[kind] / work.images_of(kind), arguments)
            for kind in KINDS
        }
        facts["idle_percent"] = idle_percent(served, arguments.idle_seconds)
        facts["peak_megabytes"] = peak_megabytes(served.processes())
        result["services"][name] = facts
    return result


def show(record: dict[str, Any]) -> None:
    """Print what was measured."""
    console = Console(width=110)
    table = Table(title=f"{record['clients']} clients on the same machine, images a second")
    for column in ("", "crops", "of in process", "photos", "of in process"):
        table.add_column(column, justify="left" if column == "" else "right")
    medians = {
        name: {kind: statistics.median(values[kind]) for kind in KINDS}
        for name, values in record["rounds"].items()
    }
    for name, values in medians.items():
        cells = []
        for kind in KINDS:
            cells += [f"{values[kind]:.1f}", f"{100 * values[kind] / medians['in process'][kind]:.0f} %"]
        table.add_row(name, *cells)
    console.print(table)
    table = Table(title=f"Requests at random moments, {LOAD:.0%} of the throughput")
    for column in ("", "a second", "p50 ms", "p99 ms", "p99/p50", "idle % of a core", "peak MB"):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, facts in record["services"].items():
        for kind in KINDS:
            of = facts[kind]
            last = (
                [f"{facts['idle_percent']:.2f}", f"{facts['peak_megabytes']:.0f}"]
                if kind == KINDS[0]
                else ["", ""]
            )
            figures = [of["rate"], of["p50"], of["p99"], of["p99"] / of["p50"]]
            table.add_row(f"{name}, {kind}", *[f"{figure:.1f}" for figure in figures], *last)
    console.print(table)
    shares = ", ".join(f"{kind} {record['generator_percent'][kind]:.0f} %" for kind in KINDS)
    console.print(f"The clients before ours took of a processor: {shares}")


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a folder of .jpg files")
    parser.add_argument("--server", type=Path, default=ROOT / "build" / "server" / "pocketnet_server")
    parser.add_argument("--detector", type=Path, help="YuNet's published ONNX file; without it, no peer")
    parser.add_argument("--workers", type=int, default=processors())
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--crops", type=int, default=8, help="in each request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of throughput")
    parser.add_argument("--latency-seconds", type=float, default=15)
    parser.add_argument("--idle-seconds", type=float, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(arguments.photos.glob("*.jpg"))[:64]]
    if not photos:
        parser.error(f"{arguments.photos} holds no .jpg")
    if not arguments.server.is_file():
        parser.error(f"{arguments.server} is missing; `make server` builds it, --server names another")
    generator = np.random.default_rng(0)
    work = Work(generator.integers(0, 256, (16, arguments.crops, 112, 112, 3), np.uint8), photos)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        model, network = Path(folder) / "faces.pt", Path(folder) / "s128.onnx"
        export_torchscript(pocketnet_fast.FaceAnalyzer(), model)
        services = {"ours": stack.enter_context(ours(arguments.server, model, work, arguments.workers))}
        if arguments.detector is not None:
            export_onnx(pocketnet_fast.create_model("pocketnet_s128", pretrained=True), network)
            detector = arguments.detector.resolve()
            services["FastAPI, onnxruntime, OpenCV"] = stack.enter_context(
                peer(network, detector, work, arguments.workers)
            )
        script = torch.jit.load(model)
        record: dict[str, Any] = {
            "cpu": processor_name(),
            "isa": compiled_isa(),
            "load_average": os.getloadavg()[0],
            "workers": arguments.workers,
            "clients": arguments.clients,
            "crops_in_a_request": arguments.crops,
            "cosines": {name: check(served, work, script) for name, served in services.items()},
        }
        for name, cosine in record["cosines"].items():
            if cosine < 0.999:
                raise SystemExit(f"{name} computes other embeddings: cosine {cosine:.6f}")
        record |= measure(arguments, model, work, services)
    show(record)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
