"""The service under what the systemd unit takes from it: system calls, and new machine code."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import confined
import pytest
from forms import multipart
from gallery_files import empty_gallery
from running import running

pytestmark = pytest.mark.slow(seconds=6)


@pytest.fixture(scope="module")
def before() -> list[object]:
    """What is put before a program to confine it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze; `apt install systemd`")
    if (reason := confined.obstacle()) is not None:
        pytest.skip(reason)
    return [sys.executable, confined.__file__]


def test_filter_takes_away_what_it_should(before: list[object]) -> None:
    """Mounting, another priority and writable code are refused: a filter of nothing would prove nothing."""
    attempts = (
        "import ctypes, mmap; c = ctypes.CDLL(None, use_errno=True); "
        "print(c.mount(b'/', b'/', b'', 0, None), ctypes.get_errno()); "
        "print(c.setpriority(0, 0, 1), ctypes.get_errno())\n"
        "try: mmap.mmap(-1, 4096, prot=7)\n"
        "except OSError: print('refused')"
    )
    command = [*map(str, before), sys.executable, "-c", attempts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"-1 {errno.EPERM}\n-1 {errno.EPERM}\nrefused\n", done.stderr


def test_service_does_all_its_work(
    before: list[object], tmp_path: Path, faces_pt: Path, photo: bytes
) -> None:
    galleries = empty_gallery(tmp_path / "galleries", "staff", faces_pt).parent
    with running(faces_pt, "--galleries", galleries, before=before) as service:
        status, _, body = service.ask("/v1/faces", photo, {"Content-Type": "image/png"})
        assert status == 200, body
        assert len(json.loads(body)["faces"]) == 2
        form, kind = multipart({"name": b"Ada", "photo": photo})
        status, _, body = service.ask("/v1/galleries/staff/people", form, {"Content-Type": kind})
        assert status == 201, body
        status, _, body = service.ask("/v1/embed", bytes(2 * 112 * 112 * 3))
        assert status == 200, body
        assert service.ask("/v1/model:reload", b"")[0] == 200
        for path in ("/readyz", "/metrics", "/v1/galleries"):
            assert service.ask(path)[0] == 200
