"""A load of HTTP requests from one thread: kept connections, requests as ready bytes, no library in between.

What it takes itself is taken from the service where both share a machine, so it does little: a request is one
``send``, an answer is read to its Content-Length and looked at no further than its status.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A POST request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        seconds: From the first request to the last answer.
        generator_seconds: Processor time of the generator itself.
        statuses: How many answers had which status.
        latencies: Seconds of each answer, in order of the answers.
    """

    seconds: float = 0.0
    generator_seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def a_second(self) -> float:
        """Answers of status 200 a second."""
        return self.statuses[200] / self.seconds

    def milliseconds(self, percent: float) -> float:
        """A percentile of the latencies."""
        return float(np.percentile(self.latencies, percent)) * 1e3


class _Connection:
    """One client: sends a request, reads the answer."""

    def __init__(self, address: tuple[str, int], selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        selector.register(self.socket, selectors.EVENT_READ, self)
        self.unsent = memoryview(b"")
        self.answer = b""
        self.missing = -1  # bytes of the answer's body; -1: its headers are not complete
        self.begun = 0.0

    def close(self) -> None:
        self.selector.unregister(self.socket)
        self.socket.close()

    def send(self, request: bytes, begun: float) -> None:
        self.unsent, self.answer, self.missing, self.begun = memoryview(request), b"", -1, begun
        self.push()
        if self.unsent:
            self.selector.modify(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def push(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def pull(self) -> int | None:
        """The status, once the answer is complete."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the service closes connections in the middle of requests")
        if self.missing >= 0:
            self.missing -= len(data)
        else:
            self.answer += data
            end = self.answer.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = self.answer[:end].lower().split(b"content-length:")[1].split(b"\r\n")[0]
            self.missing = int(length) - (len(self.answer) - end - 4)
        return int(self.answer[9:12]) if self.missing == 0 else None


def _run(
    address: tuple[str, int],
    requests: Sequence[bytes],
    clients: int,
    next_begin: Callable[[float], float | None],
    *,
    on_time: bool,
) -> Outcome:
    """Send requests by turns; ``next_begin`` says when the next one begins, or None when no more do.

    Latencies are counted from then, or where requests are not ``on_time`` from when they are sent.
    """
    outcome = Outcome()
    idle: list[_Connection] = []
    busy = sent = 0
    with selectors.DefaultSelector() as selector:
        start, used = time.perf_counter(), time.process_time()
        begin = next_begin(0.0)
        while begin is not None or busy:
            now = time.perf_counter() - start
            while begin is not None and begin <= now and busy < clients:
                # The one that was used last, as services close those that say nothing for long.
                connection = idle.pop() if idle else _Connection(address, selector)
                connection.send(requests[sent % len(requests)], begin if on_time else now)
                sent, busy = sent + 1, busy + 1
                begin = next_begin(now)
            wait = None if begin is None or busy == clients else max(0.0, begin - now)
            for key, events in selector.select(wait):
                connection = key.data
                if connection in idle:
                    idle.remove(connection)
                    connection.close()
                    continue
                if events & selectors.EVENT_WRITE:
                    connection.push()
                    if not connection.unsent:
                        selector.modify(connection.socket, selectors.EVENT_READ, connection)
                if events & selectors.EVENT_READ and (status := connection.pull()) is not None:
                    outcome.latencies.append(time.perf_counter() - start - connection.begun)
                    outcome.statuses[status] += 1
                    idle.append(connection)
                    busy -= 1
        outcome.seconds = time.perf_counter() - start
        outcome.generator_seconds = time.process_time() - used
        for connection in idle:
            connection.close()
    return outcome


def closed_loop(
    address: tuple[str, int], requests: Sequence[bytes], *, clients: int, seconds: float
) -> Outcome:
    """Clients that each send the next request when the last one is answered."""
    return _run(address, requests, clients, lambda now: now if now < seconds else None, on_time=False)


def open_loop(
    address: tuple[str, int],
    requests: Sequence[bytes],
    *,
    rate: float,
    clients: int,
    seconds: float,
    seed: int = 0,
) -> Outcome:
    """Requests that come at random moments, so many a second, whether or not others are answered.

    A latency begins at that moment, not when a connection was free, so that a service that stalls is not
    spared the requests that would have come meanwhile.
    """
    generator = np.random.default_rng(seed)
    moment = 0.0

    def next_begin(_: float) -> float | None:
        nonlocal moment
        moment += generator.exponential(1 / rate)
        return moment if moment < seconds else None

    return _run(address, requests, clients, next_begin, on_time=True)
