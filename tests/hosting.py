"""Exported files as programs without Python see them: the check that they carry, and what is made of them."""

from __future__ import annotations

import base64
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native import host_build

from pocketnet_fast.data.images import decode_image
from pocketnet_fast.export.check import CHECK_FILE, LEAST_COSINE
from pocketnet_fast.ops.native import library_path


def carried(path: Path) -> dict[str, Any]:
    """The check of a file of either format."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(f"/extra/{CHECK_FILE}"):
                return dict(json.loads(archive.read(name)))
            if name.endswith("_metadata.json") and CHECK_FILE in (stated := json.loads(archive.read(name))):
                return dict(json.loads(stated[CHECK_FILE]))
    raise AssertionError(f"{path} carries no check")


def check_content(check: dict[str, Any], picture: np.ndarray, expected: np.ndarray) -> None:
    assert set(check) == {"image", "embedding", "least_cosine"}
    assert check["least_cosine"] == LEAST_COSINE == 0.999
    assert np.array_equal(decode_image(base64.b64decode(check["image"], validate=True)), picture)
    embedding = np.array(check["embedding"])
    assert embedding.shape == expected.shape
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert embedding @ expected / np.linalg.norm(expected) == pytest.approx(1, abs=1e-6)


def hosted(path: Path, crops: list[Path], *, operators: bool = True) -> dict[str, Any]:
    """What ``csrc/hosting`` makes of a file and of crops (``csrc/tests/run_exported.cpp``).

    Args:
        path: The exported file.
        crops: Image files of 112x112.
        operators: Load ``libpnf_ops.so``.
    """
    program = host_build() / "hosting" / "run_exported"
    command = [program, path, library_path() if operators else "-", *crops]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))
