"""What the service takes, and what it says to what it does not take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile_images import Body, bodies
from running import Service, running
from wire import Answer, Wire

from pocketnet_fast import FaceAnalyzer
from pocketnet_fast.export.photos import check_scene

pytestmark = pytest.mark.slow(seconds=15)

LIMIT = 300_000
STATUS = {"unread": 415, "damaged": 422, "pixels": 413, "bytes": 413}


@pytest.fixture(scope="module")
def service(faces_pt: Path) -> Iterator[Service]:
    options = ("--max-body-bytes", LIMIT, "--header-seconds", 1, "--body-seconds", 1, "--idle-seconds", 2)
    with running(faces_pt, *options, "--max-crops", 5) as service:
        yield service


def post(path: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    """A request's bytes; ``length``: what it states instead of the body's."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers]
    if not any(line.startswith(("Transfer-Encoding", "Content-Length")) for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(service: Service, data: bytes) -> Answer:
    with Wire(service.url) as wire:
        wire.send(data)
        answer = wire.answer()
    assert answer is not None
    return answer


def code_of(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status and problem["detail"] and problem["request_id"]
    assert answer.headers["x-request-id"] == problem["request_id"]
    return str(problem["type"]).removeprefix("urn:pocketnet:problem:")


def alive(service: Service) -> bool:
    return service.ask("/healthz")[0] == 200


def test_the_same_faces_as_in_python(service: Service, analyzer: FaceAnalyzer, photo: bytes) -> None:
    status, _, body = service.ask("/v1/faces?embeddings=true", photo)
    answer = json.loads(body)
    expected = [face for face in analyzer.analyze(check_scene()) if face.doubt is None]
    assert status == 200 and (answer["width"], answer["height"]) == (480, 300)
    assert len(answer["faces"]) == len(expected) == 2
    for face, truth in zip(answer["faces"], expected, strict=True):
        assert truth.embedding is not None
        np.testing.assert_allclose(face["box"], truth.box, atol=1e-2)
        np.testing.assert_allclose(face["landmarks"], truth.landmarks, atol=1e-2)
        np.testing.assert_allclose(face["embedding"], truth.embedding, atol=1e-5)
        assert face["turn"] == truth.turn


def test_embeddings_of_crops(service: Service, analyzer: FaceAnalyzer) -> None:
    crops = np.stack([face.crop for face in analyzer.analyze(check_scene())])
    truth = np.stack([face.embedding for face in analyzer.analyze(check_scene())])
    status, headers, raw = service.ask("/v1/embed", crops.tobytes(), {"Accept": "application/octet-stream"})
    assert status == 200 and headers["X-Embedding-Dimensions"] == "128"
    np.testing.assert_allclose(np.frombuffer(raw, "<f4").reshape(2, 128), truth, atol=1e-5)
    _, _, body = service.ask("/v1/embed", crops.tobytes())
    np.testing.assert_array_equal(
        np.float32(json.loads(body)["embeddings"]).ravel(), np.frombuffer(raw, "<f4")
    )


@pytest.mark.parametrize("body", list(bodies()), ids=lambda body: body.name)
def test_hostile_images(service: Service, body: Body) -> None:
    data, code = body.data, body.code
    if len(data) > LIMIT:
        code = "bytes"  # by the service's own limit
    answer = ask(service, post("/v1/faces", "Content-Type: image/jpeg", body=data))
    expected = 422 if not data else STATUS[code]
    assert answer.status == expected, answer.body
    code_of(answer)


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (post("/v1/faces", length=LIMIT + 1), 413, "too-large"),
        (post("/v1/faces", length=10**30), 413, "too-large"),
        (post("/v1/faces", "Content-Length: -1"), 400, "bad-request"),
        (post("/v1/faces", "Content-Length: 1", "Content-Length: 2", body=b"x"), 400, "bad-request"),
        (post("/v1/faces", "Content-Length: 1", "Transfer-Encoding: chunked", body=b"x"), 400, "bad-request"),
        (post("/v1/faces", "Transfer-Encoding: gzip, chunked"), 400, "bad-request"),
        (post("/v1/faces", "Content-Encoding: gzip", body=b"x"), 415, "unsupported-media"),
        (b"POST /v1/faces HTTP/1.1\r\nHost: x\r\n\r\n", 411, "length-required"),
        (b"GET /v1/faces HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method-not-allowed"),
        (b"PUT /v1/model HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "method-not-allowed"),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not-found"),
        (b"GET /v1/galleries/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not-found"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not-found"),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "path-too-long"),
        (post("/v1/faces?max_faces=-1", body=b"x"), 400, "bad-request"),
        (post("/v1/faces?faces=2", body=b"x"), 400, "bad-request"),
        (post("/v1/embed", body=bytes(112 * 112 * 3 - 1)), 422, "unreadable"),
        (post("/v1/embed", body=bytes(6 * 112 * 112 * 3)), 413, "too-large"),
        (post("/v1/verify", body=b"x"), 400, "bad-request"),
        (b"NONSENSE\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431, "headers-too-large"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431, "headers-too-large"),
    ],
)  # fmt: skip
def test_what_is_refused(service: Service, request_bytes: bytes, status: int, code: str) -> None:
    answer = ask(service, request_bytes)
    assert (answer.status, code_of(answer)) == (status, code), answer.body
    assert alive(service)


def test_chunks_beyond_the_limit(service: Service) -> None:
    with Wire(service.url) as wire:
        wire.send(post("/v1/faces", "Transfer-Encoding: chunked"))
        for _ in range(LIMIT // 10_000 + 2):
            wire.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
        answer = wire.answer()
    assert answer is not None and (answer.status, code_of(answer)) == (413, "too-large")


def test_chunks_within_the_limit(service: Service, photo: bytes) -> None:
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(photo[i : i + 7_000]), photo[i : i + 7_000])
        for i in range(0, len(photo), 7_000)
    )
    answer = ask(service, post("/v1/faces", "Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n"))
    assert answer.status == 200 and len(json.loads(answer.body)["faces"]) == 2


def test_requests_one_behind_the_other(service: Service, photo: bytes) -> None:
    with Wire(service.url) as wire:
        first = post("/v1/faces", "X-Request-Id: one", body=photo)
        wire.send(first + b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: two\r\n\r\n")
        answers = [wire.answer(), wire.answer()]
    assert [answer and answer.headers["x-request-id"] for answer in answers] == ["one", "two"]


def test_a_refused_body_is_no_request(service: Service) -> None:
    """Bytes of a body that was refused must not be read as the next request."""
    smuggled = b"GET /v1/model HTTP/1.1\r\nHost: x\r\n\r\n"
    with Wire(service.url) as wire:
        wire.send(post("/nothing", body=smuggled))
        answer = wire.answer()
        assert answer is not None and answer.status == 404 and answer.headers["connection"] == "close"
        assert wire.is_closed()


@pytest.mark.parametrize("begin", [b"GET /healthz HT", post("/v1/faces", length=1000, body=b"x" * 100)])
def test_who_stops_half_way(service: Service, begin: bytes) -> None:
    with Wire(service.url) as wire:
        wire.send(begin)
        wire.end_sending()
        wire.answer()
    assert alive(service)


@pytest.mark.parametrize("begin", [b"", post("/v1/faces", length=1000)])
def test_who_sends_slowly(service: Service, begin: bytes) -> None:
    """A byte now and then keeps no connection beyond the time for a request's headers, or its body."""
    with Wire(service.url) as wire:
        wire.send(begin or b"GET /healthz HTTP/1.1\r\n")
        wire.drip(b"X-Slow: 1234567890123456789012345678901234567890", 0.1)
        answer = wire.answer()
        assert answer is None or answer.status == 400
    assert alive(service)


def test_who_says_nothing(service: Service) -> None:
    with Wire(service.url, timeout=5) as wire:
        assert wire.is_closed()


def test_a_word_of_the_client_is_no_header(service: Service) -> None:
    status, headers, _ = service.ask("/healthz", headers={"X-Request-Id": "a b<c>"})
    assert status == 200 and headers["X-Request-Id"] != "a b<c>"
