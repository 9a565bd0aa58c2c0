"""A service that answers as the real one does, with faces at known places: for what stands before it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "server" / "web" / "index.html"
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MODEL = {"name": "pocketnet_s128", "weights_sha256": "ab" * 32, "precision": "fp32"}
THRESHOLDS = {1e-3: 0.35, 1e-4: 0.43, 1e-5: 0.49}
COSINE = 0.45
Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""

CODES = {400: "bad-request", 401: "unauthorized", 404: "not-found", 415: "unsupported-media", 503: "draining"}


def faces_of(width: int, height: int) -> list[dict[str, Any]]:
    """Two faces: one in the left half and a smaller one in the right."""
    found = []
    for left, top, part in ((0.1, 0.2, 0.35), (0.6, 0.3, 0.2)):
        box = [left * width, top * height, part * width, part * height]
        places = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
        landmarks = [[box[0] + x * box[2], box[1] + y * box[3]] for x, y in places]
        found.append({"box": box, "landmarks": landmarks, "score": 0.9, "turn": 0})
    return found


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeService:
    """Serves on a free port of 127.0.0.1 inside a ``with`` block.

    Attributes:
        token: What requests must carry; empty: nothing.
        name: Sent as ``X-Replica``.
        draining: Answer everything as a service that ends.
        asked: The requests that came, in order.
    """

    token: str = ""
    name: str = "fake"
    draining: bool = False
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> FakeService:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None: ...

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                service.asked.append(asked)
                status, headers, content = service.reply(asked)
                self.send_response(status)
                self.send_header("X-Request-Id", self.headers.get("X-Request-Id", "made-here"))
                self.send_header("X-Replica", service.name)
                self.send_header("Content-Length", str(len(content)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked_for(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if urlsplit(asked.path).path == path]

    def reply(self, asked: Asked) -> Reply:
        """Status, headers and body of the answer to a request."""
        url = urlsplit(asked.path)
        if self.draining:
            return problem(503, "the server is ending", url.path)
        if url.path == "/":
            return 200, PAGE_HEADERS, PAGE.read_bytes()
        if self.token and asked.headers.get("Authorization") != f"Bearer {self.token}":
            return problem(401, "the token is missing or not valid", url.path)
        routes = {"/v1/model": model, "/v1/faces": faces, "/v1/verify": verify, "/healthz": alive}
        route = routes.get(url.path)
        return route(asked) if route else problem(404, "there is no such route", url.path)


def model(_: Asked) -> Reply:
    thresholds = [{"far": far, "threshold": cosine} for far, cosine in THRESHOLDS.items()]
    facts = {"isa": "avx2", "task": "faces", "dimensions": 128, "default_far": 1e-4}
    return as_json({**MODEL, **facts, "thresholds": thresholds, "metadata": {}})


def faces(asked: Asked) -> Reply:
    picture = cv2.imdecode(np.frombuffer(asked.body, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return problem(415, "the body is no image of a kind that is read: jpeg, png, webp", "/v1/faces")
    height, width = picture.shape[:2]
    # A picture that is black all over has no face.
    found = faces_of(width, height) if picture.max() > 0 else []
    return as_json({"width": width, "height": height, "faces": found, "model": MODEL})


def verify(asked: Asked) -> Reply:
    far = float(parse_qs(urlsplit(asked.path).query).get("far", ["1e-4"])[0])
    threshold = THRESHOLDS[far]
    face = faces_of(100, 100)[0]
    decision = {"cosine": COSINE, "same": threshold <= COSINE, "threshold": threshold, "far": far}
    return as_json({**decision, "a": face, "b": face, "model": MODEL})


def alive(_: Asked) -> Reply:
    return as_json({"status": "alive"})


def as_json(content: object) -> Reply:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def problem(status: int, detail: str, path: str) -> Reply:
    content = {"type": f"urn:pocketnet:problem:{CODES[status]}", "title": CODES[status], "status": status}
    content |= {"detail": detail, "instance": path, "request_id": "made-here"}
    return status, {"Content-Type": "application/problem+json"}, json.dumps(content).encode()
