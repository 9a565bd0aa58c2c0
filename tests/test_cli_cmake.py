"""``pocketnet cmake``, which names the folders of CMake's packages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import Run, refused, runner

from pocketnet_fast.ops import native


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_cmake_finds_both_packages_there(run: Run) -> None:
    (folder,) = run("cmake").out.splitlines()
    assert (Path(folder) / "pocketnet" / "pocketnet-config.cmake").is_file()
    assert (Path(folder) / "pocketnet_fast" / "pocketnet_fast-config.cmake").is_file()


def test_libtorch_stands_behind(run: Run) -> None:
    (folder,) = run("cmake").out.splitlines()
    assert run("cmake", "--torch").out == f"{folder};{torch.utils.cmake_prefix_path}\n"


def test_sources_have_no_libraries(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    native.library_path.cache_clear()
    try:
        assert refused(run("cmake"), "pip install -e .")
    finally:
        native.library_path.cache_clear()
