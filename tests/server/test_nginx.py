"""The example of a proxy, run by nginx itself before two services."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_service import FakeService
from forms import multipart
from gallery_files import empty_gallery
from running import running

pytestmark = pytest.mark.slow(seconds=12)

EXAMPLE = Path(__file__).resolve().parents[2] / "server" / "deploy" / "nginx.conf"
MOST = 64 << 20


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Proxy:
    port: int
    log: Path

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()


@pytest.fixture
def replicas() -> Iterator[list[FakeService]]:
    with FakeService(name="one") as one, FakeService(name="two") as two:
        yield [one, two]


@contextlib.contextmanager
def proxied(ports: list[int], folder: Path) -> Iterator[Proxy]:
    """The example as it stands, but for the ports and the place of the log."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx; `apt install nginx-light`")
    port, log = free_port(), folder / "access.log"
    text = EXAMPLE.read_text()
    changes = {
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "127.0.0.1:8081": f"127.0.0.1:{ports[0]}",
        "127.0.0.1:8082": f"127.0.0.1:{ports[1]}",
        "/var/log/nginx/pocketnet.log": str(log),
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "pocketnet.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    # Workers of nginx started by root would be another user, whom pytest's folders are closed to.
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    whole = f"{user}events {{}}\nhttp {{\n{folders}  include {folder}/pocketnet.conf;\n}}\n"
    (folder / "nginx.conf").write_text(whole)
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    command += ["-g", f"daemon off; pid {folder}/pid;"]
    process = subprocess.Popen([*map(str, command)])
    try:
        _wait_for(port, process, folder / "error.log")
        yield Proxy(port, log)
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def proxy(replicas: list[FakeService], tmp_path: Path) -> Iterator[Proxy]:
    with proxied([replica.port for replica in replicas], tmp_path) as proxy:
        yield proxy


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    pytest.fail(f"nginx does not listen:\n{log.read_text()}")


def test_requests_are_shared_out(proxy: Proxy, replicas: list[FakeService]) -> None:
    answered = Counter(proxy.ask("GET", "/v1/model")[1]["X-Replica"] for _ in range(20))
    assert set(answered) == {"one", "two"}
    assert max(answered.values()) <= 15


def test_request_ids_are_one_throughout(proxy: Proxy, replicas: list[FakeService]) -> None:
    for sent, kept in (("abc-1.2_3", True), ("", False), ("x" * 65, False), ('a"b', False), ("a" * 64, True)):
        status, headers, _ = proxy.ask("GET", "/v1/model", headers={"X-Request-Id": sent} if sent else {})
        assert status == 200
        asked = [request for replica in replicas for request in replica.asked][-1]
        known = {request.headers["X-Request-Id"] for replica in replicas for request in replica.asked}
        answered = headers["X-Request-Id"]
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answered)
        assert answered in known, asked
        assert (answered == sent) == kept


def test_large_bodies_are_refused_as_the_service_does(proxy: Proxy, replicas: list[FakeService]) -> None:
    headers = {"Content-Length": str(MOST + 1), "X-Request-Id": "too-large"}
    status, answered, body = proxy.ask("POST", "/v1/faces", headers=headers)
    assert status == 413
    assert answered["Content-Type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["type"] == "urn:pocketnet:problem:too-large"
    assert problem["request_id"] == answered["X-Request-Id"] == "too-large"
    assert [replica.asked for replica in replicas] == [[], []]
    assert proxy.ask("POST", "/v1/faces", bytes(MOST))[0] == 415, "as much as is allowed is passed on"


def test_what_ends_is_not_seen(proxy: Proxy, replicas: list[FakeService]) -> None:
    """A replica that says that it is ending costs no client an answer, with a body or without."""
    replicas[0].draining = True
    for _ in range(6):
        status, headers, _ = proxy.ask("POST", "/v1/faces", b"no picture")
        assert (status, headers["X-Replica"]) == (415, "two")
        assert proxy.ask("GET", "/v1/model")[0] == 200


def test_adding_a_person_is_tried_once(proxy: Proxy, replicas: list[FakeService]) -> None:
    for replica in replicas:
        replica.draining = True
    status, headers, _ = proxy.ask("POST", "/v1/galleries/staff/people", b"photo")
    assert (status, headers["Content-Type"]) == (503, "application/problem+json")
    assert sum(len(replica.asked) for replica in replicas) == 1


def test_no_replica(proxy: Proxy, replicas: list[FakeService]) -> None:
    for replica in replicas:
        replica.__exit__()
    status, headers, body = proxy.ask("GET", "/v1/model")
    assert status == 503
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body)["detail"] == "no replica answers"


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("POST", "/v1/model:reload")])
def test_what_concerns_one_replica_is_not_passed_on(
    proxy: Proxy, replicas: list[FakeService], method: str, path: str
) -> None:
    status, headers, body = proxy.ask(method, path)
    assert (status, headers["Content-Type"]) == (404, "application/problem+json")
    assert json.loads(body)["status"] == 404
    assert [replica.asked for replica in replicas] == [[], []]


def test_log_names_no_path(proxy: Proxy, replicas: list[FakeService]) -> None:
    proxy.ask("GET", "/v1/galleries/of-somebody?who=somebody", headers={"X-Request-Id": "in-the-log"})
    end = time.monotonic() + 5
    while time.monotonic() < end and not (proxy.log.exists() and proxy.log.read_text()):
        time.sleep(0.02)
    text = proxy.log.read_text()
    assert "in-the-log GET 404 " in text
    assert "somebody" not in text


def test_two_services(tmp_path: Path, faces_pt: Path, photo: bytes) -> None:
    """One gallery, which one of them writes, seen by both; one ends under load, and no client hears of it."""
    galleries = empty_gallery(tmp_path / "galleries", "staff", faces_pt).parent
    options = ("--galleries", galleries, "--workers", 1)
    with running(faces_pt, *options) as one, running(faces_pt, *options, "--galleries-read-only") as two:
        form, kind = multipart({"name": b"Ada", "photo": photo})
        assert one.ask("/v1/galleries/staff/people", form, {"Content-Type": kind})[0] == 201
        ports = [int(service.url.rsplit(":", 1)[1]) for service in (one, two)]
        with proxied(ports, tmp_path) as proxy:
            answers: list[tuple[int, bytes]] = []
            ended = threading.Event()

            def ask() -> None:
                while not ended.is_set():
                    for path in ("/v1/faces", "/v1/galleries/staff:search"):
                        status, _, body = proxy.ask("POST", path, photo, {"Content-Type": "image/png"})
                        answers.append((status, body))

            clients = [threading.Thread(target=ask) for _ in range(4)]
            for client in clients:
                client.start()
            while len(answers) < 20:
                time.sleep(0.01)
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(timeout=30) == 0
            enough = len(answers) + 20
            while len(answers) < enough:
                time.sleep(0.01)
            ended.set()
            for client in clients:
                client.join()
        for service in (one, two):
            routes = {line["route"] for line in service.log if line["event"] == "request"}
            assert {"/v1/faces", "/v1/galleries/{gallery}:search"} <= routes
    assert {status for status, _ in answers} == {200}, [body for status, body in answers if status != 200][:2]
    names = {match["name"] for _, body in answers for match in json.loads(body).get("matches", [])}
    assert names == {"Ada"}
