"""The queue, deadlines, clients that go, and many at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import Service, running
from test_requests import code_of, post
from wire import Answer, Wire

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.export.photos import check_scene

pytestmark = pytest.mark.slow(seconds=15)

CROP = 112 * 112 * 3


@pytest.fixture(scope="module")
def large_photo() -> bytes:
    """A picture that keeps a worker for a tenth of a second and more."""
    scene = np.tile(cv2.resize(check_scene(), (480, 304)), (6, 5, 1))
    return encode_image(scene, ".png")


@pytest.fixture(scope="module")
def narrow(faces_pt: Path) -> Iterator[Service]:
    """A service with one worker, and one place to wait for it."""
    with running(faces_pt, "--workers", 1, "--queue", 1) as service:
        yield service


def counted(service: Service, line: str) -> float:
    """The value of one line of the metrics; 0 if there is none."""
    for each in service.ask("/metrics")[2].decode().splitlines():
        if each.startswith(line + " "):
            return float(each.rsplit(" ", 1)[1])
    return 0


def waits(service: Service, line: str, value: float) -> None:
    """Until a line of the metrics has a value."""
    until = time.monotonic() + 30
    while counted(service, line) != value:
        assert time.monotonic() < until, f"{line} is {counted(service, line)}, not {value}"
        time.sleep(0.01)


def test_a_full_queue(narrow: Service, large_photo: bytes) -> None:
    def ask(_: int) -> tuple[int, dict[str, str], bytes]:
        return narrow.ask("/v1/faces", large_photo)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 2
    for status, headers, body in answers:
        if status == 429:
            assert int(headers["Retry-After"]) >= 1
            assert json.loads(body)["type"] == "urn:pocketnet:problem:queue-full"
    assert len({body for status, _, body in answers if status == 200}) == 1


def test_who_has_gone_costs_nothing(narrow: Service, large_photo: bytes) -> None:
    gone = 'pocketnet_dropped_jobs_total{reason="gone"}'
    before = counted(narrow, gone)
    # Metrics that come late on a busy machine may miss the moment when one photo waits for the other.
    for _ in range(20):
        with Wire(narrow.url) as first, Wire(narrow.url) as second:
            first.send(post("/v1/faces", body=large_photo))
            second.send(post("/v1/faces", body=large_photo))
            until = time.monotonic() + 1
            while counted(narrow, "pocketnet_queue_depth") != 1 and time.monotonic() < until:
                time.sleep(0.005)
        waits(narrow, "pocketnet_queue_depth", 0)
        if counted(narrow, gone) > before:
            return
    pytest.fail("work was done for clients that had gone")


def test_a_deadline(faces_pt: Path, large_photo: bytes) -> None:
    with running(faces_pt, "--workers", 1, "--deadline-ms", 40) as service:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: service.ask("/v1/faces", large_photo), range(4)))
        assert {status for status, _, _ in answers} == {504}
        assert {json.loads(body)["type"] for _, _, body in answers} == {"urn:pocketnet:problem:deadline"}
        # Work whose time was up while it waited was not done.
        waits(service, "pocketnet_queue_depth", 0)
        assert counted(service, 'pocketnet_dropped_jobs_total{reason="deadline"}') >= 1
        assert service.ask("/healthz")[0] == 200


def test_crops_of_several_requests_go_together(crops_pt: Path) -> None:
    """Each client gets its own embeddings, whatever was embedded beside its crops."""
    random = np.random.default_rng(5)
    bodies = [random.integers(0, 256, (1 + i % 3, CROP), np.uint8).tobytes() for i in range(24)]
    accept = {"Accept": "application/octet-stream"}
    with running(crops_pt, "--workers", 1, "--batch", 8, "--batch-delay-us", 20_000) as service:
        alone = [service.ask("/v1/embed", body, accept)[2] for body in bodies]
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda body: service.ask("/v1/embed", body, accept)[2], bodies))
        assert alone == together
        assert counted(service, "pocketnet_batch_crops_sum") == 2 * sum(len(body) // CROP for body in bodies)
        assert counted(service, "pocketnet_batch_crops_count") < 2 * len(bodies)


def test_too_many_connections(crops_pt: Path) -> None:
    with running(crops_pt, "--connections", 4) as service:
        held = [Wire(service.url) for _ in range(4)]
        for wire in held:
            wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.answer() is not None
        with Wire(service.url) as more:
            answer = more.answer()
        assert answer is not None and answer.status == 503
        for wire in held:
            wire.__exit__()
        until = time.monotonic() + 10
        while service.ask("/healthz")[0] != 200:
            assert time.monotonic() < until


def test_bodies_beyond_the_memory_for_them(crops_pt: Path) -> None:
    limits = ("--max-body-bytes", 1_000_000, "--max-memory-bytes", 1_500_000)
    with running(crops_pt, *limits) as service, Wire(service.url) as first:
        first.send(post("/v1/embed", body=bytes(900_000), length=1_000_000))
        answer: Answer | None = None
        until = time.monotonic() + 10
        while answer is None or answer.status != 429:
            assert time.monotonic() < until
            with Wire(service.url) as second:
                second.send(post("/v1/embed", body=bytes(900_000)))
                answer = second.answer()
        assert code_of(answer) == "queue-full"


def test_what_waits_without_its_request_counts_as_memory(faces_pt: Path) -> None:
    """A body is held until a worker has had it, however early its request ended."""
    slow = encode_image(np.zeros((7000, 7000, 3), np.uint8), ".png")
    limits = ("--max-body-bytes", 1_000_000, "--max-memory-bytes", 1_500_000)
    with running(faces_pt, "--workers", 1, "--deadline-ms", 60, *limits) as service:

        def status(body: bytes) -> int:
            return service.ask("/v1/faces", body)[0]

        def late() -> bool:
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(status, slow)
                time.sleep(0.02)
                return (status(bytes(900_000)), status(bytes(900_000)), first.result()) == (504, 429, 504)

        assert any(late() for _ in range(10))
        until = time.monotonic() + 30
        while status(bytes(900_000)) != 415:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_idle_costs_no_time(crops_pt: Path) -> None:
    with running(crops_pt) as service:
        service.ask("/v1/embed", bytes(CROP))
        with Wire(service.url) as open_connection:
            open_connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            open_connection.answer()
            before = sum(map(int, Path(f"/proc/{service.process.pid}/stat").read_text().split()[13:15]))
            time.sleep(2)
            after = sum(map(int, Path(f"/proc/{service.process.pid}/stat").read_text().split()[13:15]))
    assert after - before <= 1  # hundredths of a second
