"""Verification files: both Pythons' pickles, and everything else refused."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.data.images import decode_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.bin_file import read_bin, write_bin
from pocketnet_fast.evaluation.pairs import VerificationPairs

IMAGES = [b"\xff\xd8 one", b"two\x00", b"", b"\x80" * 300]
SAME = [True, False]


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """What Python 2 wrote by hand: protocol 2, its str as (SHORT_)BINSTRING."""
    out = b"\x80\x02]("
    for image in images:
        size = len(image)
        out += (b"U" + bytes([size]) if size < 256 else b"T" + size.to_bytes(4, "little")) + image
    return out + b"e](" + b"".join(b"\x88" if flag else b"\x89" for flag in same) + b"e\x86."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_python3(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps((IMAGES, SAME), protocol=protocol))
    pairs = read_bin(path)
    assert pairs.images == IMAGES
    assert pairs.same.dtype == bool
    assert pairs.same.tolist() == SAME
    assert len(pairs) == 2


def test_python2(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(python2(IMAGES, SAME))
    assert read_bin(path).images == IMAGES
    assert read_bin(path).same.tolist() == SAME


class Runs:
    def __init__(self, *command: object) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return self.command[0], self.command[1:]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("bomb", "name"),
    [
        (Runs(os.system, "touch ran"), "posix.system"),
        (Runs(exec, "open('ran', 'w')"), "builtins.exec"),
        (Runs(eval, "open('ran', 'w')"), "builtins.eval"),
        (Runs(subprocess.Popen, "touch ran"), "subprocess.Popen"),
        (np.random.default_rng(0), "numpy"),
        (Path("x"), "pathlib"),
    ],
)
def test_anything_that_runs_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: object, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (bomb, ([bomb, b""], [True])):
        Path("a.bin").write_bytes(pickle.dumps(content))
        with pytest.raises(
            PocketNetError, match=rf"a\.bin: refused, it names {name}.* write it again as bytes"
        ):
            read_bin("a.bin")
    assert not Path("ran").exists()


def test_codecs_encode_is_no_way_in(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(PocketNetError, match="refused, it encodes something that is no latin1 text"):
        read_bin(path)


def test_bytes_cannot_allocate(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(Runs(bytes, 10**12)))
    with pytest.raises(PocketNetError, match="refused, it calls bytes with arguments"):
        read_bin(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "expected a pair of lists"),
        (b"images", "expected a pair of lists"),
        ((b"ab", [True]), "expected two lists"),
        (([b"a", b"b", b"c"], [True]), "3 images do not make 1 pairs"),
        (([b"a", "text"], [True]), "image 1 is a str"),
        (([b"a", b"b"], [3]), "pair 0 is marked 3"),
    ],
)
def test_other_content(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(PocketNetError, match=message):
        read_bin(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match=r"none\.bin: no such verification file"):
        read_bin(tmp_path / "none.bin")


def assert_refused_or_plain(path: Path, content: bytes | bytearray) -> None:
    path.write_bytes(content)
    try:
        pairs = read_bin(path)
    except PocketNetError:
        return
    assert all(type(image) is bytes for image in pairs.images)
    assert len(pairs.images) == 2 * len(pairs)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_still_plain_data(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(python2(IMAGES, SAME))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    assert_refused_or_plain(tmp_path_factory.mktemp("damage") / "a.bin", content)


def test_real_file(shared_dir: Path) -> None:
    path = shared_dir / "data" / "lfw_dev.bin"
    if not path.is_file():
        pytest.skip(f"no recorded file {path}")
    pairs = read_bin(path)
    assert len(pairs) == 4200
    assert pairs.same.sum() == 2100
    assert decode_image(pairs.images[-1]).shape == (112, 112, 3)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.bin"
    write_bin(path, VerificationPairs(IMAGES, np.array([True, False])))
    assert path.read_bytes()[:2] == b"\x80\x02"  # protocol 2, which Python 2 reads too
    images, same = pickle.loads(path.read_bytes())
    assert (images, same) == (IMAGES, [True, False])
    pairs = read_bin(path)
    assert pairs.images == IMAGES
    assert pairs.same.tolist() == [True, False]


def test_memo_slots_cannot_reserve_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (
        b"\x80\x02]r\xff\xff\xff\x7f]\x86.",  # LONG_BINPUT of 2^31 - 1: 32 GB of slots
        b"(lp4000000000\n(lp1\nt.",
    ):
        path.write_bytes(content)
        with pytest.raises(PocketNetError, match=r"a\.bin: refused, it keeps an object in slot [24]"):
            read_bin(path)


def test_lengths_beyond_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for opcode, size in ((b"B", 4), (b"\x8e", 8), (b"T", 4)):
        path.write_bytes(b"\x80\x04](" + opcode + (2 ** (8 * size - 2)).to_bytes(size, "little") + b"ab")
        with pytest.raises(PocketNetError, match=r"a\.bin: damaged"):
            read_bin(path)


def test_content_whose_print_is_endless(tmp_path: Path) -> None:
    nested: object = "x"
    for _ in range(60):
        nested = [nested, nested]
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(([b"a", b"b"], [nested])))
    with pytest.raises(PocketNetError, match="pair 0 is marked by a list; expected true or false"):
        read_bin(path)
    path.write_bytes(pickle.dumps(([b"a", b"b"], [10**6000])))
    with pytest.raises(PocketNetError, match="pair 0 is marked by a int"):
        read_bin(path)


def test_names_in_messages_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x04\x8c\x04a\nb\x1b\x8c\x01c\x93.")
    with pytest.raises(PocketNetError, match=r"a\.bin: refused, it names a\?b\?\.c;"):
        read_bin(path)


def test_what_stands_for_a_function_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    # BUILD, which gives the object before it attributes.
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}U\x05valueK\x01sb.")
    with pytest.raises(PocketNetError, match=r"a\.bin: damaged"):
        read_bin(path)


def array(image: bytes) -> np.ndarray:
    return np.frombuffer(image, np.uint8)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "image", [bytearray, array, lambda image: array(image)[:, None], lambda i: array(i)[None]]
)
@pytest.mark.parametrize(
    "same",
    [
        lambda flags: [np.bool_(flag) for flag in flags],
        np.array,
        lambda flags: np.array(flags, np.int64),
        lambda flags: np.array(flags, np.uint8),
        lambda flags: [np.int64(flag) for flag in flags],
        lambda flags: [np.array([flag]) for flag in flags],
        lambda flags: [np.array(flag) for flag in flags],
    ],
)
def test_what_opencv_and_numpy_give(tmp_path: Path, image: Any, same: Any, protocol: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(([image(i) for i in IMAGES], same(SAME)), protocol=protocol))
    pairs = read_bin(path)
    assert pairs.images == IMAGES
    assert pairs.same.tolist() == SAME


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_both_numpys(tmp_path: Path, core: bytes) -> None:
    path = tmp_path / "a.bin"
    content = pickle.dumps(([array(i) for i in IMAGES], np.array(SAME)), protocol=2)
    other = content.replace(b"numpy._core.", b"numpy." + core + b".").replace(
        b"numpy.core.", b"numpy." + core + b"."
    )
    path.write_bytes(other)
    assert read_bin(path).images == IMAGES


@pytest.mark.parametrize(
    ("images", "same", "message"),
    [
        (
            [np.zeros((112, 112, 3), np.uint8), b"b"],
            [True],
            "image 0 is 112x112x3 pixels; expected an encoded",
        ),
        (
            [np.ones(3), b"b"],
            [True],
            "refused, it holds numpy values that are neither whole numbers nor bools",
        ),
        ([np.array(["a"], object), b"b"], [True], "refused, it holds numpy values that are neither"),
        ([np.ones(3, np.int64), b"b"], [True], "image 0 is a numpy array, not an encoded image"),
        ([np.asfortranarray(np.ones((3, 3), np.uint8)), b"b"], [True], "is stored by columns"),
        ([b"a", b"b"], np.array([[True]]), "expected two lists"),
        ([b"a", b"b"], np.array([3]), "pair 0 is marked 3; expected true or false"),
        ([b"a", b"b"], [np.array([True, False])], "pair 0 is marked by a numpy array"),
        ([b"a", b"b"], np.array([1], ">i4"), "numbers of another byte order"),
        (np.zeros((2, 9), np.uint8), [True], "expected two lists"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_other_arrays_are_refused(
    tmp_path: Path, images: Any, same: Any, message: str, protocol: int
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps((images, same), protocol=protocol))
    with pytest.raises(PocketNetError, match=message):
        read_bin(path)


def test_an_array_states_no_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    good = pickle.dumps(([array(b"abcd"), b"b"], [True]), protocol=2)
    assert good.count(b"K\x04\x85") == 1
    for shape in (b"K\x05\x85", b"J\xff\xff\xff\x7f\x85", b"K\x00\x85", b"J\xff\xff\xff\xff\x85"):
        path.write_bytes(good.replace(b"K\x04\x85", shape))
        with pytest.raises(PocketNetError, match="refused, it holds a numpy array"):
            read_bin(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_arrays_are_an_error_or_still_plain_data(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(pickle.dumps(([array(i) for i in IMAGES], np.array(SAME)), protocol=2))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert_refused_or_plain(tmp_path_factory.mktemp("damage") / "a.bin", content)
