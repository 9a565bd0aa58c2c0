"""The benchmark of the service, at its smallest, and the load that it makes. No figure is judged."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import program

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.export.photos import check_scene

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def slow_service() -> Iterator[int]:
    """Takes 50 ms for each of the requests that come on one connection; the number of its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(0.05)
            self.send_response(200 if body == b"good" * 70_000 else 400)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(bytes(100_000))

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def test_load(slow_service: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies larger than a socket's buffer, answers in pieces, both loops, and every status counted."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import http_load

    requests = [http_load.post("/", b"good" * 70_000), http_load.post("/", b"bad")]
    closed = http_load.closed_loop(("127.0.0.1", slow_service), requests, clients=4, seconds=0.3)
    assert set(closed.statuses) == {200, 400}
    assert abs(closed.statuses[200] - closed.statuses[400]) <= 1
    assert 4 <= len(closed.latencies) <= 4 * 7
    assert min(closed.latencies) >= 0.05 and closed.seconds >= 0.3
    # One client cannot answer 100 a second: what comes meanwhile waits, and its latency says so.
    late = http_load.open_loop(
        ("127.0.0.1", slow_service), requests[:1], rate=100, clients=1, seconds=0.3, seed=1
    )
    assert late.statuses[200] == len(late.latencies) > 15
    assert late.latencies[-1] > 10 * late.latencies[0] > 0.5


@pytest.mark.slow(seconds=25)
def test_smallest_run(tmp_path: Path, yunet: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    (tmp_path / "a.jpg").write_bytes(encode_image(check_scene(), ".jpg"))
    command = [sys.executable, BENCHMARKS / "server.py", tmp_path, "--server", program(), "--detector", yunet]
    command += ["--workers", 1, "--clients", 2, "--crops", 1, "--rounds", 1, "--seconds", 0.2]
    command += ["--latency-seconds", 0.3, "--idle-seconds", 0.2, "--json", tmp_path / "a.json"]
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    assert set(record["rounds"]) == {"in process", "ours", "FastAPI, onnxruntime, OpenCV"}
    for name in record["services"]:
        assert name in done.stdout


@pytest.mark.slow(seconds=15)
def test_smallest_soak(tmp_path: Path) -> None:
    """Hostile clients, reloads and a SIGTERM under load: no answer is wrong, and none is lost."""
    (tmp_path / "a.jpg").write_bytes(encode_image(check_scene(), ".jpg"))
    command = [sys.executable, BENCHMARKS / "server_soak.py", tmp_path, "--server", program()]
    command += ["--minutes", 0.1, "--settle", 0, "--clients", 10, "--reloads", 3, "--sigterms", 2]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout)
    assert record["statuses"].get("200", 0) > 0 and record["sigterms"] == 2
