"""The atomic writer: all of the new file or all of the old one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write


def test_writes_and_leaves_nothing_else(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as stream:
        stream.write(b"new")
        assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as stream:
            stream.write(b"x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


def test_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "a.bin"
    target.write_bytes(b"old")
    link = tmp_path / "link.bin"
    link.symlink_to(target)
    with atomic_write(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_device_is_written_not_replaced() -> None:
    with atomic_write(os.devnull) as stream:
        stream.write(b"x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_long_name_still_fits(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    with atomic_write(path) as stream:
        stream.write(b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("name", ["", "missing/a.bin"])
def test_unusable_places_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(PocketNetError, match=str(path)), atomic_write(path):
        pass
