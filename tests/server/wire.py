"""Requests byte by byte, as no library would send them."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """One answer as it came: its status, headers by lower-case name, and body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to a service.

    Args:
        url: The service's.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, url: str, timeout: float = 30) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout)
        self._received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def drip(self, data: bytes, seconds: float) -> bool:
        """Send byte by byte with pauses; False if the service closed the connection meanwhile."""
        try:
            for byte in data:
                self._socket.sendall(bytes([byte]))
                time.sleep(seconds)
        except OSError:
            return False
        return True

    def answer(self) -> Answer | None:
        """The next answer; None if the connection was closed instead."""
        while b"\r\n\r\n" not in self._received:
            if not self._more():
                return None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            if not self._more():
                return None
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether the service closes the connection, without a byte more."""
        return not self._received and not self._more()

    def _more(self) -> bool:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._received += data
        return bool(data)
