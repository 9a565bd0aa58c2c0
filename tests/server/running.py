"""The service itself: built once, started with options, ended when the block does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from native import server


def program() -> Path:
    """The service, built, unless ``PNF_TEST_SERVER`` names one built otherwise, as with sanitizers."""
    built = os.environ.get("PNF_TEST_SERVER")
    return Path(built) if built else server()


@dataclass
class Service:
    """A running service.

    Attributes:
        url: Where it listens.
        process: The program.
        log: Its lines, as far as they have come.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a GET, or with a body to a POST."""
        request = urllib.request.Request(f"{self.url}{path}", body, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()


@contextlib.contextmanager
def running(model: Path, *options: object, before: Sequence[object] = ()) -> Iterator[Service]:
    """Start the service with a model and options on a free port; SIGTERM ends it, and it must end with 0.

    ``before`` is put before the command. Answers may take long, as other tests take the processors, too.
    """
    patience = () if "--deadline-ms" in options else ("--deadline-ms", 100_000)
    command = [*before, program(), "--model", model, "--port", 0, *patience, *options]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("POCKETNET_", "PNF_"))
    }
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    first = process.stderr.readline()
    try:
        started = json.loads(first)
    except ValueError:
        process.kill()
        raise AssertionError(f"{first}{process.stderr.read()}") from None
    service = Service(started["url"], process, [started])

    def read() -> None:
        for line in process.stderr or ():
            service.log.append(json.loads(line))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield service
    finally:
        # A second signal would end it at once.
        if all(line["event"] != "draining" for line in service.log):
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            reader.join()
        assert code == 0, service.log[-5:]
