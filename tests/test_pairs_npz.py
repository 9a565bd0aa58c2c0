"""The pickle-free file: what it holds, and every way in which it can be wrong."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_files import drawn_pairs

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pairs_npz import read_npz, write_npz


def arrays(**changes: Any) -> dict[str, Any]:
    content = {
        "images": np.arange(10, dtype=np.uint8),
        "offsets": np.array([0, 3, 10], np.int64),
        "same": np.array([True]),
    }
    return {name: value for name, value in (content | changes).items() if value is not None}


def test_plain_arrays(tmp_path: Path) -> None:
    pairs = drawn_pairs(2)
    write_npz(tmp_path / "a.npz", pairs)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert data["images"].tobytes() == b"".join(pairs.images)
        assert data["offsets"].tolist() == np.cumsum([0, *map(len, pairs.images)]).tolist()
        assert data["same"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": None}, "the array same is absent; expected bool, one dimension"),
        ({"same": np.array([1])}, "the array same is int64 of 1 dimensions; expected bool"),
        ({"offsets": np.array([0.0, 3, 10])}, "the array offsets is float64"),
        ({"images": np.zeros((2, 5), np.uint8)}, "the array images is uint8 of 2 dimensions"),
        ({"same": np.array([True, False])}, "2 images do not make 2 pairs"),
        ({"offsets": np.array([0, 3, 5, 10])}, "3 images do not make 1 pairs"),
        ({"offsets": np.array([0, 3, 11])}, "offsets do not divide"),
        ({"offsets": np.array([0, 12, 10])}, "offsets do not divide"),
        ({"offsets": np.array([1, 3, 10])}, "offsets do not divide"),
        ({"images": np.array([b"a", None], object)}, "damaged or no verification file: Object arrays"),
    ],
)
def test_other_content(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**change))
    with pytest.raises(PocketNetError, match=rf"a\.npz: .*{message}"):
        read_npz(tmp_path / "a.npz")


def test_an_empty_offset_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(offsets=np.zeros(0, np.int64), same=np.zeros(0, bool)))
    with pytest.raises(PocketNetError, match="0 images do not make 0 pairs"):
        read_npz(tmp_path / "a.npz")


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, drawn_pairs(2))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(PocketNetError, match=r"a\.npz: damaged or no verification file"):
            read_npz(path)
    patched = bytearray(whole)
    patched[len(whole) // 2] ^= 1
    path.write_bytes(patched)
    with pytest.raises(PocketNetError, match="Bad CRC-32"):
        read_npz(path)
    with pytest.raises(PocketNetError, match=r"none\.npz: no such verification file"):
        read_npz(tmp_path / "none.npz")


def test_compressed_files_are_read_and_bombs_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **arrays())
    assert list(read_npz(path).images) == [bytes(range(3)), bytes(range(3, 10))]
    np.savez_compressed(path, **arrays(images=np.zeros(10**7, np.uint8)))
    with pytest.raises(PocketNetError, match="refused: it would unpack to 10,0"):
        read_npz(path)


def test_a_header_that_states_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays())
    header = np.lib.format.magic(1, 0)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**50},)}}\n".encode()
    with zipfile.ZipFile(path) as archive:
        others = {name: archive.read(name) for name in archive.namelist() if name != "images.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header + len(text).to_bytes(2, "little") + text)
        for name, data in others.items():
            archive.writestr(name, data)
    with pytest.raises(PocketNetError, match=r"a\.npz: damaged"):
        read_npz(path)
