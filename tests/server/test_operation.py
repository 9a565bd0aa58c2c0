"""Starting, reloading, draining, tokens, TLS, logs and metrics of the service."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from native import tool
from running import Service, program, running
from test_requests import post
from test_work import counted
from wire import Wire

from pocketnet_fast import create_model
from pocketnet_fast.export import export_torchscript

pytestmark = pytest.mark.slow(seconds=40)

CROP = 112 * 112 * 3
TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def other_crops_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with other weights: another embedding space."""
    model = create_model("pocketnet_s128")
    return export_torchscript(model, tmp_path_factory.mktemp("other") / "other.pt", input="uint8").path


@pytest.fixture
def model(crops_pt: Path, tmp_path: Path) -> Path:
    """A file that a test may replace."""
    return Path(shutil.copy(crops_pt, tmp_path / "model.pt"))


def started(*options: object) -> subprocess.CompletedProcess[str]:
    """What a start comes to that must end by itself."""
    command = [str(part) for part in (program(), "--port", 0, *options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def embed(service: Service, value: int = 0) -> tuple[int, bytes]:
    status, _, body = service.ask("/v1/embed", bytes([value]) * CROP, {"Accept": "application/octet-stream"})
    return status, body


def replace(path: Path, content: bytes) -> None:
    """Put another file in the place of one, in one step."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)


def test_files_that_are_refused(tmp_path: Path, crops_pt: Path) -> None:
    content = crops_pt.read_bytes()
    cases = {
        "missing.pt": None,
        "empty.pt": b"",
        "text.pt": b"no model",
        "cut.pt": content[: len(content) // 2],
        "cut_late.pt": content[:-100],
    }
    for name, data in cases.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        done = started("--model", path)
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and len(lines) == 1, (name, done.stderr)
        assert lines[0].startswith(f"pocketnet_server: {path}: "), lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--model is required"),
        (("--model", "x", "--port", 70000), "--port"),
        (("--model", "x", "--workers", 0), "--workers"),
        (("--model", "x", "--nonsense"), "--nonsense"),
        (("--model", "x", "--tls-key", "k"), "--tls-certificate"),
    ],
)
def test_wrong_options(options: tuple[object, ...], words: str) -> None:
    done = started(*options)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


def test_other_machines_need_a_token(crops_pt: Path) -> None:
    done = started("--model", crops_pt, "--host", "0.0.0.0")
    assert done.returncode == 1 and "--tokens" in done.stderr


def test_options_of_the_environment(crops_pt: Path) -> None:
    environment = os.environ | {
        "POCKETNET_MODEL": str(crops_pt),
        "POCKETNET_PORT": "0",
        "POCKETNET_WORKERS": "3",
    }
    process = subprocess.Popen([program()], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["workers"] == 3
    process.terminate()
    assert process.wait(30) == 0


def test_tokens(crops_pt: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# of the tests\n\n{TOKEN}\nanother-token-of-32-characters-xx\n")
    with running(crops_pt, "--tokens", tokens) as service:
        for path in ("/healthz", "/readyz", "/", "/openapi.json"):
            assert service.ask(path)[0] == 200
        for given in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            for path in ("/v1/model", "/metrics", "/v2/models/crops", "/v1/galleries", "/nothing"):
                status, headers, _ = service.ask(path, headers=given)
                assert status == 401 and headers["WWW-Authenticate"] == "Bearer", path
        assert service.ask("/v1/model", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert service.ask("/v1/model", headers={"Authorization": f"bearer {TOKEN}"})[0] == 200
    assert TOKEN not in json.dumps(service.log)
    tokens.write_text("short\n")
    done = started("--model", crops_pt, "--tokens", tokens)
    assert done.returncode == 1 and "line 1" in done.stderr


def test_tls(crops_pt: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with running(
        crops_pt, "--tls-certificate", certificate, "--tls-key", key, "--header-seconds", 1
    ) as service:
        assert service.url.startswith("https://")
        context = ssl.create_default_context(cafile=certificate)
        host = service.url.removeprefix("https://")
        connection = http.client.HTTPSConnection(host, context=context)
        for value in range(3):
            connection.request("POST", "/v1/embed", bytes([value]) * (40 * CROP))
            response = connection.getresponse()
            assert response.status == 200 and len(json.loads(response.read())["embeddings"]) == 40
        connection.close()
        # Who does not speak TLS, or says nothing, is left.
        for begin in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01"):
            with Wire(service.url.replace("https", "http")) as wire:
                wire.send(begin)
                wire.answer()
        with urllib.request.urlopen(f"{service.url}/healthz", context=context) as response:
            assert response.status == 200
    done = started("--model", crops_pt, "--tls-certificate", key, "--tls-key", key)
    assert done.returncode == 1 and "certificate" in done.stderr


def test_reloads(model: Path, other_crops_pt: Path) -> None:
    first, second = model.read_bytes(), other_crops_pt.read_bytes()
    with running(model) as service:
        of_first = embed(service)[1]
        replace(model, second)
        assert embed(service)[1] == of_first
        status, _, body = service.ask("/v1/model:reload", b"")
        assert status == 200 and json.loads(body)["model"]["name"] == "pocketnet_s128"
        of_second = embed(service)[1]
        assert of_second != of_first
        for broken in (b"no model", first[: len(first) // 2]):
            replace(model, broken)
            status, _, body = service.ask("/v1/model:reload", b"")
            assert status == 422 and "stays" in json.loads(body)["detail"]
            assert str(model) not in json.loads(body)["detail"]
            assert embed(service)[1] == of_second
        replace(model, first)
        service.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while embed(service)[1] != of_first:
            assert time.monotonic() < until
        assert counted(service, 'pocketnet_reloads_total{outcome="done"}') == 2
        assert counted(service, 'pocketnet_reloads_total{outcome="refused"}') == 2


def test_reloads_under_load(model: Path, other_crops_pt: Path) -> None:
    """Every answer is of one of the two models, whole, while they take turns."""
    contents = [model.read_bytes(), other_crops_pt.read_bytes()]
    with running(model) as service:
        expected = {embed(service, 7)[1]}
        replace(model, contents[1])
        service.ask("/v1/model:reload", b"")
        expected.add(embed(service, 7)[1])
        assert len(expected) == 2
        wrong: list[object] = []
        ends = threading.Event()

        def ask() -> None:
            while not ends.is_set():
                status, body = embed(service, 7)
                if status != 200 or body not in expected:
                    wrong.append((status, body))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(10):
            replace(model, contents[turn % 2])
            status, _, body = service.ask("/v1/model:reload", b"")
            assert status == 200, body
        ends.set()
        for thread in threads:
            thread.join()
        assert not wrong


class Clients:
    """Clients that ask one request after the other on connections that stay open, until the service is gone.

    Attributes:
        answers: Statuses of complete answers.
        lost: What happened to requests that were not answered, other than by a connection that was refused.
    """

    def __init__(self, service: Service, count: int) -> None:
        self.answers: list[int] = []
        self.lost: list[str] = []
        self._host = service.url.removeprefix("http://")
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while True:
            connection = http.client.HTTPConnection(self._host, timeout=30)
            try:
                connection.connect()
            except OSError:
                return
            began = False
            try:
                closes = False
                while not closes:
                    began = False
                    connection.request("POST", "/v1/embed", bytes(CROP))
                    began = True
                    response = connection.getresponse()
                    response.read()
                    self.answers.append(response.status)
                    closes = response.getheader("Connection") == "close"
            except (ConnectionResetError, http.client.RemoteDisconnected) as error:
                # A connection that the system had taken, and the service had not, is nobody's.
                if began and not self.answers:
                    self.lost.append(repr(error))
                return
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            finally:
                connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_nothing_that_was_begun_is_lost(crops_pt: Path) -> None:
    for _ in range(3):
        with running(crops_pt) as service:
            clients = Clients(service, 6)
            until = time.monotonic() + 30
            while len(clients.answers) < 20 and time.monotonic() < until:
                time.sleep(0.01)
            service.process.terminate()
            clients.join()
            assert service.process.wait(30) == 0
        assert not clients.lost and set(clients.answers) == {200}
        answered = [line for line in service.log if line["event"] == "request"]
        assert len(answered) == len(clients.answers)
        assert service.log[-1]["event"] == "ended"


def test_draining_says_so(crops_pt: Path) -> None:
    with running(crops_pt) as service, Wire(service.url) as wire:
        wire.send(post("/v1/embed", length=CROP))
        time.sleep(0.3)
        service.process.terminate()
        time.sleep(0.3)
        wire.send(bytes(CROP))
        answer = wire.answer()
        assert answer is not None and answer.status == 200
        assert wire.is_closed()


def test_a_second_signal_ends_at_once(crops_pt: Path) -> None:
    command = [str(part) for part in (program(), "--model", crops_pt, "--port", 0)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = json.loads(process.stderr.readline())["url"]
    with Wire(url) as wire:
        wire.send(post("/v1/embed", length=CROP))
        time.sleep(0.2)
        process.terminate()
        assert json.loads(process.stderr.readline())["event"] == "draining"
        process.terminate()
        assert process.wait(10) == 1


def test_the_time_for_draining(crops_pt: Path) -> None:
    with running(crops_pt, "--drain-seconds", 1) as service, Wire(service.url) as wire:
        wire.send(post("/v1/embed", length=CROP))
        time.sleep(0.2)
        begin = time.monotonic()
        service.process.terminate()
        assert service.process.wait(10) == 0
        assert time.monotonic() - begin < 5


def test_killed_and_started_again(crops_pt: Path) -> None:
    for _ in range(2):
        with running(crops_pt) as service:
            clients = Clients(service, 3)
            time.sleep(0.3)
            service.process.kill()
            clients.join()
            service.process.wait(10)
            service.process.returncode = 0  # as was meant
    with running(crops_pt) as service:
        assert embed(service)[0] == 200


def test_the_log_tells_nothing_of_the_clients(faces_pt: Path, photo: bytes) -> None:
    with running(faces_pt) as service:
        service.ask("/v1/faces?embeddings=true", photo, {"X-Request-Id": "seen"})
        service.ask("/v1/galleries/someone-by-name/people")
        service.ask("/v1/faces?someone=by-name", photo)
        service.ask("/somewhere/by-name")
    requests = [line for line in service.log if line["event"] == "request"]
    assert "by-name" not in json.dumps(service.log)
    # A line is written after its answer, by the connection's own thread.
    assert sorted(line["status"] for line in requests) == [200, 400, 404, 404]
    (first,) = (line for line in requests if line["request_id"] == "seen")
    assert (first["status"], first["route"]) == (200, "/v1/faces")
    assert first["bytes_in"] > len(photo) and set(first["stages"]) == {"queue", "decode", "faces"}
    assert set().union(*requests) == {
        "time", "level", "event", "request_id", "method", "route", "status", "bytes_in", "bytes_out",
        "milliseconds", "stages",
    }  # fmt: skip


def test_metrics(faces_pt: Path, photo: bytes) -> None:
    with running(faces_pt) as service:
        service.ask("/v1/faces", photo)
        service.ask("/v1/faces", b"no photo")
        service.ask("/v1/embed", bytes(3 * CROP))
        text = service.ask("/metrics")[2].decode()
    for line in (
        'pocketnet_requests_total{code="200",method="POST",route="/v1/faces"} 1',
        'pocketnet_requests_total{code="415",method="POST",route="/v1/faces"} 1',
        "pocketnet_faces_total 2",
        "pocketnet_queue_depth 0",
        "pocketnet_batch_crops_sum 3",
        'pocketnet_stage_seconds_count{stage="decode"} 1',
        'pocketnet_request_seconds_count{route="/v1/faces"} 2',
    ):
        assert line in text.splitlines(), line
    information = next(line for line in text.splitlines() if line.startswith("pocketnet_model_info{"))
    assert 'isa=""' not in information and 'precision="fp32"' in information
