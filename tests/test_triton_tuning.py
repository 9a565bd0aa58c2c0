"""Measured tiles: what is measured, what is chosen, and the file that keeps it; the timer is made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.ops import triton_tuning
from pocketnet_fast.ops.triton_tuning import (
    Tiles,
    cache_file,
    candidates,
    read_tiles,
    tables,
    tiles_of,
    tuning,
)

RULE = Tiles(64, 32, 64, 4, 2)
WIDE = Tiles(128, 32, 64, 4, 2)
CPU = torch.device("cpu")
DEVICE = "interpreter"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("POCKETNET_CACHE", str(tmp_path / "cache"))
    tables.forget()
    yield cache_file(DEVICE)
    tables.forget()


def most_pixels(launch: Callable[[], object]) -> float:
    launch()
    return -float(launch.args[0].pixels)  # type: ignore[attr-defined]


def nothing(tiles: Tiles) -> None:
    pass


def choose(key: str = "a", launch: Callable[[Tiles], object] = nothing) -> Tiles:
    return tiles_of("node", (key, 1), RULE, CPU, launch)


def test_candidates() -> None:
    found = candidates(RULE)
    assert found[0] == RULE
    assert WIDE in found
    assert len(set(found)) == len(found) >= 5
    smallest = candidates(Tiles(16, 0, 16, 1, 1))
    assert all(t.pixels >= 16 and t.outer >= 16 and t.warps >= 1 and t.stages == 1 for t in smallest)
    huge = Tiles(8192, 0, 64, 4, 1)
    assert candidates(huge) == [huge]


def test_measured_once_and_kept(cache: Path) -> None:
    assert choose() == RULE
    assert not cache.exists()
    launched: list[Tiles] = []
    with tuning(most_pixels) as session:
        assert choose(launch=launched.append) == WIDE
        assert launched == candidates(RULE)
        assert choose(launch=launched.append) == WIDE
        assert len(launched) == len(candidates(RULE))
    assert session.measured == {DEVICE: {"node/a/1": WIDE}}
    assert choose() == WIDE
    assert choose("b") == RULE
    tables.forget()
    assert choose() == WIDE
    with tuning(most_pixels):
        choose("b")
    assert set(read_tiles(cache, DEVICE)) == {"node/a/1", "node/b/1"}


def test_a_failed_block_keeps_nothing(cache: Path) -> None:
    with pytest.raises(ZeroDivisionError), tuning(most_pixels):
        choose()
        _ = 1 // 0
    assert not cache.exists()
    assert choose() == RULE


def test_time_runs_out(cache: Path) -> None:
    with tuning(most_pixels, seconds=-1.0) as session:
        assert choose() == RULE
    assert session.skipped == 1
    assert not cache.exists()


def test_candidates_that_do_not_fit() -> None:
    def narrow_only(tiles: Tiles) -> None:
        if tiles.pixels > 32:
            raise OutOfResources(1, 0, "shared memory")

    with tuning(most_pixels):
        assert choose(launch=narrow_only).pixels == 32
    with pytest.raises(ZeroDivisionError), tuning(most_pixels):
        choose("b", lambda tiles: 1 // 0)


def test_other_threads_do_not_measure() -> None:
    found: list[Tiles] = []
    with tuning(most_pixels):
        thread = threading.Thread(target=lambda: found.append(choose("other")))
        thread.start()
        thread.join()
    assert found == [RULE]


def test_stale_measurements_do_not_count(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tuning(most_pixels):
        choose()
    tables.forget()
    monkeypatch.setattr(triton_tuning, "version", lambda: {"triton": "0", "kernels": "other"})
    assert choose() == RULE
    with tuning(most_pixels):
        choose("b")
    assert [*json.loads(cache.read_text())["tiles"]] == ["node/b/1"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace("128", "-128"),
        lambda text: text.replace("128", "true"),
        lambda text: text.replace("interpreter", "NVIDIA H200"),
        lambda text: text.replace('"tiles"', '"other"'),
    ],
)
def test_a_damaged_file_is_named_and_ignored(cache: Path, damage: Callable[[str], Any]) -> None:
    with tuning(most_pixels):
        choose()
    cache.write_text(damage(cache.read_text()))
    tables.forget()
    with pytest.warns(UserWarning, match=str(cache)) as warned:
        assert choose() == RULE
        assert choose() == RULE
    assert len(warned) == 1


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POCKETNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(PocketNetError, match="cannot create"), tuning(most_pixels):
        choose()


def test_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_file("NVIDIA H100 80GB HBM3").name == "tiles-nvidia-h100-80gb-hbm3.json"
    monkeypatch.delenv("POCKETNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_file("x") == Path("/somewhere/pocketnet_fast/tiles-x.json")


def test_no_device_no_table() -> None:
    if not torch.cuda.is_available():
        assert tiles_of("node", (1,), RULE, torch.device("cuda"), nothing) == RULE


def test_asked_for_on_the_cpu() -> None:
    from pocketnet_fast.models.fused_training import tune

    model = pocketnet_fast.create_model("pocketnet_s128")
    with pytest.raises(PocketNetError, match=r"tune is \[1\], which concerns CUDA"):
        pocketnet_fast.compile(model, tune=[1])
    with pytest.raises(PocketNetError, match="the input is on cpu"):
        tune(model, torch.zeros(2, 3, 112, 112))
