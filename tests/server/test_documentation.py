"""What docs/server.md says: its options are those that the program has, and its examples work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gallery_files import empty_gallery
from running import program, running

pytestmark = pytest.mark.slow(seconds=8)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "server.md"
# Defaults that depend on the machine or the build, and flags.
UNSTATED = {"--workers", "--ops", "--galleries-read-only"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_options() -> None:
    done = subprocess.run([program(), "--help"], capture_output=True, text=True, check=True)
    offered = {
        name: default
        for name, default in re.findall(r"^  (--[a-z-]+)(?:.*?=([^ ()]+) \(Env)?", done.stdout, re.MULTILINE)
        if name not in ("--help", "--version")
    }
    stated = {}
    (section,) = re.findall(r"^## Options$(.*?)^## ", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for names, default in re.findall(r"^\| (`--.*?) \| (.*?) \|", section, re.MULTILINE):
        for name in re.findall(r"--[a-z-]+", names):
            stated[name] = default.strip("`")
    assert set(stated) == set(offered)
    for name, default in offered.items():
        if default and name not in UNSTATED:
            assert stated[name] == default, name
        assert f"POCKETNET_{name[2:].upper().replace('-', '_')}" in done.stdout


@pytest.fixture
def folder(tmp_path: Path, photo: bytes) -> Path:
    """The files that the examples name."""
    for name in ("party", "one", "other", "ada", "who"):
        (tmp_path / f"{name}.jpg").write_bytes(photo)
    crops = np.zeros((2, 112, 112, 3), np.uint8)
    (tmp_path / "crops.raw").write_bytes(crops.tobytes())
    np.save(tmp_path / "crops.npy", crops)
    return tmp_path


def test_examples(folder: Path, faces_pt: Path) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("no curl or no bash")
    galleries = empty_gallery(folder / "galleries", "staff", faces_pt).parent
    (commands,) = [block for block in blocks("sh") if block.startswith("url=")]
    (python,) = blocks("python")
    with running(faces_pt, "--galleries", galleries) as service:
        script = 'set -e\ncurl() { command curl --fail-with-body --silent --show-error "$@" && echo; }\n'
        script += commands.replace("http://127.0.0.1:8080", service.url)
        done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"name":"Ada"' in done.stdout
        assert (folder / "embeddings.f32").stat().st_size == 2 * 128 * 4
        pytest.importorskip("tritonclient.http")
        python = python.replace("127.0.0.1:8080", service.url.removeprefix("http://"))
        python += "assert embeddings.shape == (2, 128)\n"
        done = subprocess.run(
            [sys.executable, "-c", python],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode == 0, done.stderr
