r"""The service under a load that does not end: many clients, a tenth of them hostile, reloads and SIGTERMs.

    python benchmarks/server_soak.py photos/ --minutes 30 --clients 64 --reloads 1000 --sigterms 100

Every answer to a well-formed request must have status 200, or 429 where more is asked than is taken, and be
the same as the first answer to it. Memory is read every two seconds; its slope is that of a line through the
readings after ``--settle`` minutes. Then the service is ended under load ``--sigterms`` times: it must end
with 0, and no request may stay without an answer but those of connections that the system alone had taken.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from http_load import post
from machine import processors

import pocketnet_fast
from pocketnet_fast.export import export_torchscript
from pocketnet_fast.machine import processor_name

ROOT = Path(__file__).resolve().parent.parent
CROP = 112 * 112 * 3


@dataclass
class Service:
    """A running service; its log is read as it comes, as a full pipe would hold it up."""

    process: subprocess.Popen[str]
    host: str
    log: list[dict[str, object]] = field(default_factory=list)

    def resident(self) -> int:
        """Bytes of memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096


@contextmanager
def serving(program: Path, model: Path, *options: object) -> Iterator[Service]:
    """Start the service; it must still run at the end, unless it was ended meanwhile."""
    command = [program, "--model", model, "--port", 0, "--log-level", "info", *options]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = json.loads(process.stderr.readline())
    service = Service(process, first["url"].removeprefix("http://"))

    def read() -> None:
        for line in process.stderr or ():
            entry = json.loads(line)
            if entry["event"] != "request" or entry["status"] >= 500:
                service.log.append(entry)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
        reader.join()


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        statuses: Of answers to well-formed requests.
        hostile: Of answers to the others; "closed" where the connection was closed instead.
        wrong: Answers that differ from the first one to the same request, and requests without an answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Well:
    """A client that sends well-formed requests, one after the other, and knows the right answers."""

    def __init__(self, service: Service, bodies: dict[str, list[bytes]], tally: Tally, seed: int) -> None:
        self.service, self.bodies, self.tally = service, bodies, tally
        self.random = random.Random(seed)

    def run(self, ends: threading.Event, answers: dict[tuple[str, int], set[bytes]]) -> None:
        connection = http.client.HTTPConnection(self.service.host, timeout=60)
        while not ends.is_set():
            path = self.random.choice(sorted(self.bodies))
            place = self.random.randrange(len(self.bodies[path]))
            try:
                connection.request("POST", path, self.bodies[path][place])
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                if not ends.is_set():
                    self.tally.wrong.append(f"no answer: {error!r}")
                connection.close()
                continue
            self.tally.statuses[response.status] += 1
            if response.status == 200 and body not in answers[path, place]:
                self.tally.wrong.append(f"another answer to {path} {place}")
            if response.status == 429:
                time.sleep(0.01)
        connection.close()


def hostile_requests(photo: bytes) -> list[tuple[str, bytes, float]]:
    """Name, bytes, and seconds between single bytes; 0: all at once."""
    noise = random.Random(1).randbytes(20_000)
    return [
        ("nonsense", noise, 0),
        ("no image", post("/v1/faces", noise), 0),
        ("half an image", post("/v1/faces", photo[: len(photo) // 2]), 0),
        ("half a request", post("/v1/faces", photo)[: len(photo) // 2], 0),
        ("too long", b"POST /v1/faces HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 0),
        ("many headers", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 0),
        ("long path", b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n\r\n", 0),
        ("wrong count", post("/v1/embed", bytes(CROP + 1)), 0),
        ("endless chunks", b"POST /v1/faces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
         + b"10000\r\n" + bytes(1 << 16) + b"\r\n", 0),
        ("slow headers", b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"y" * 200, 0.05),
        ("slow body", post("/v1/faces", photo)[:400], 0.02),
        ("gone before the answer", post("/v1/faces", photo), -1),
        ("nothing", b"", 0),
    ]  # fmt: skip


def be_hostile(service: Service, photo: bytes, tally: Tally, ends: threading.Event, seed: int) -> None:
    """Send one hostile request after the other, each on a connection of its own."""
    generator = random.Random(seed)
    requests = hostile_requests(photo)
    host, port = service.host.rsplit(":", 1)
    while not ends.is_set():
        name, data, pause = generator.choice(requests)
        with suppress(OSError), socket.create_connection((host, int(port)), 20) as connection:
            for piece in [data[i : i + 1] for i in range(len(data))] if pause > 0 else [data]:
                connection.sendall(piece)
                if pause > 0:
                    time.sleep(pause)
            if pause < 0:
                continue
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(64)
            status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"
            tally.hostile[f"{name}: {status}"] += 1


def right_answers(service: Service, bodies: dict[str, list[bytes]]) -> dict[tuple[str, int], set[bytes]]:
    """Ask everything once, with nobody else there."""
    connection = http.client.HTTPConnection(service.host, timeout=60)
    answers: dict[tuple[str, int], set[bytes]] = {}
    for path, each in bodies.items():
        for place, body in enumerate(each):
            connection.request("POST", path, body)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            answers[path, place] = {response.read()}
    connection.close()
    return answers


def reload_often(service: Service, count: int, ends: threading.Event, seconds: float, tally: Tally) -> None:
    """Load the model again ``count`` times, spread over the time."""
    for _ in range(count):
        begin = time.monotonic()
        connection = http.client.HTTPConnection(service.host, timeout=60)
        connection.request("POST", "/v1/model:reload", b"")
        status = connection.getresponse().status
        connection.close()
        if status != 200:
            tally.wrong.append(f"a reload gave {status}")
        if ends.wait(max(0.0, seconds / count - (time.monotonic() - begin))):
            return


def soak(
    service: Service, bodies: dict[str, list[bytes]], arguments: argparse.Namespace
) -> dict[str, object]:
    """Load for the time that was asked for; what the clients saw, and the memory."""
    tally, ends = Tally(), threading.Event()
    answers = right_answers(service, bodies)
    hostile = arguments.clients // 10
    photo = bodies["/v1/faces"][0]
    tasks: list[Callable[[], None]] = []
    for seed in range(arguments.clients - hostile):
        client = Well(service, bodies, tally, seed)
        tasks.append(lambda client=client: client.run(ends, answers))  # type: ignore[misc]
    for seed in range(hostile):
        tasks.append(lambda seed=seed: be_hostile(service, photo, tally, ends, seed))  # type: ignore[misc]
    seconds = 60 * arguments.minutes
    if arguments.reloads:
        tasks.append(lambda: reload_often(service, arguments.reloads, ends, 0.9 * seconds, tally))
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    begin, readings = time.monotonic(), []
    while time.monotonic() - begin < seconds and service.process.poll() is None:
        readings.append((time.monotonic() - begin, service.resident()))
        time.sleep(2)
    ends.set()
    for thread in threads:
        thread.join()
    settled = [(at, size) for at, size in readings if at >= 60 * arguments.settle] or readings
    slope = float(np.polyfit(*np.array(settled).T, 1)[0]) if len(settled) > 2 else float("nan")
    return {
        "seconds": time.monotonic() - begin,
        "alive": service.process.poll() is None,
        "statuses": dict(tally.statuses),
        "hostile": dict(sorted(tally.hostile.items())),
        "wrong": tally.wrong[:20],
        "wrong_count": len(tally.wrong),
        "server_errors": [entry for entry in service.log if entry["event"] != "reloaded"][:20],
        "resident_mib_first": readings[0][1] / 2**20,
        "resident_mib_last": readings[-1][1] / 2**20,
        "slope_mib_in_ten_minutes": slope * 600 / 2**20,
    }


def begun_is_answered(program: Path, model: Path, clients: int) -> tuple[int, list[str]]:
    """SIGTERM under load: how many requests were answered, and what became of those that were not."""
    lost: list[str] = []
    answered = Counter[int]()

    def ask() -> None:
        while True:
            connection = http.client.HTTPConnection(service.host, timeout=60)
            try:
                connection.connect()
                last = False
                while not last:
                    connection.request("POST", "/v1/embed", bytes(CROP))
                    response = connection.getresponse()
                    response.read()
                    answered[response.status] += 1
                    last = response.getheader("Connection") == "close"
            except (
                ConnectionRefusedError,
                ConnectionResetError,
                http.client.RemoteDisconnected,
                BrokenPipeError,
            ):
                return  # the system's, no request that the service had begun: the log below counts those
            except (OSError, http.client.HTTPException) as error:
                lost.append(repr(error))
                return
            finally:
                connection.close()

    with serving(program, model) as service:
        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.2, 0.6))
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        if (code := service.process.wait(60)) != 0:
            lost.append(f"ended with {code}")
    lost += [f"{status} x {count}" for status, count in answered.items() if status not in (200, 429)]
    return answered[200], lost


def main() -> None:
    """Run, print, and end with 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--server", type=Path, default=ROOT / "build" / "server" / "pocketnet_server")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--settle", type=float, default=5, help="minutes before memory counts")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--sigterms", type=int, default=100)
    parser.add_argument("--workers", type=int, default=processors())
    arguments = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(arguments.photos.glob("*.jpg"))[:16]]
    crops = np.random.default_rng(0).integers(0, 256, (4, 2 * CROP), np.uint8)
    bodies = {
        "/v1/faces": photos,
        "/v1/faces?embeddings=true": photos,
        "/v1/embed": [each.tobytes() for each in crops],
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "faces.pt"
        export_torchscript(pocketnet_fast.FaceAnalyzer(), model)
        with serving(
            arguments.server, model, "--workers", arguments.workers, "--connections", 512
        ) as service:
            result = soak(service, bodies, arguments)
        result["exit"] = service.process.returncode
        crops_model = Path(shutil.copy(model, Path(folder) / "again.pt"))
        drained = [begun_is_answered(arguments.server, crops_model, 16) for _ in range(arguments.sigterms)]
    result["sigterms"] = len(drained)
    result["answered_around_sigterms"] = sum(count for count, _ in drained)
    result["lost"] = [each for _, lost in drained for each in lost]
    result["machine"] = processor_name()
    json.dump(result, sys.stdout, indent=1)
    print()
    fine = (
        result["alive"] and not result["wrong_count"] and not result["server_errors"] and not result["lost"]
    )
    sys.exit(0 if fine and result["exit"] == 0 else 1)


if __name__ == "__main__":
    main()
