"""Record files: round trips, damage, and a real dataset."""

from __future__ import annotations

import multiprocessing
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.data.images import decode_image
from pocketnet_fast.data.recordio import (
    CorruptRecordError,
    ImageRecord,
    RecordFile,
    RecordWriter,
    image_keys,
    pack_image,
    unpack_image,
)
from pocketnet_fast.errors import PocketNetError

MAGIC = struct.pack("<I", 0xCED7230A)
PAYLOADS = [b"", b"a", b"abcd", b"x" * 1001, MAGIC, b"12" + MAGIC, b"1234" + MAGIC + b"56", MAGIC * 3 + b"z"]


def write(path: Path, payloads: list[bytes]) -> RecordFile:
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    return RecordFile(path)


def test_round_trip(tmp_path: Path) -> None:
    file = write(tmp_path / "a.rec", PAYLOADS)
    assert file.keys == tuple(range(len(PAYLOADS)))
    assert [file.read(key) for key in reversed(file.keys)] == PAYLOADS[::-1]
    assert [payload for _, payload in file.walk()] == PAYLOADS
    assert (tmp_path / "a.rec").stat().st_size % 4 == 0


def test_layout_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "a.rec", [b"abcde", b"1234" + MAGIC + b"5"])
    whole = MAGIC + struct.pack("<I", 5) + b"abcde\0\0\0"
    first = MAGIC + struct.pack("<I", 1 << 29 | 4) + b"1234"
    last = MAGIC + struct.pack("<I", 3 << 29 | 1) + b"5\0\0\0"
    assert (tmp_path / "a.rec").read_bytes() == whole + first + last
    assert (tmp_path / "a.idx").read_text() == f"0\t0\n1\t{len(whole)}\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from([MAGIC, b"a", b"bc", b"\0\0\0\0"]), max_size=12), max_size=5))
def test_any_payload(tmp_path_factory: pytest.TempPathFactory, drawn: list[list[bytes]]) -> None:
    payloads = [b"".join(pieces) for pieces in drawn]
    if not payloads:
        return
    file = write(tmp_path_factory.mktemp("any") / "a.rec", payloads)
    assert [file.read(key) for key in file.keys] == payloads


def test_missing_index_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    with_index = write(path, PAYLOADS)
    (tmp_path / "a.idx").unlink()
    rebuilt = RecordFile(path)
    assert rebuilt.index_was_rebuilt
    assert not with_index.index_was_rebuilt
    assert [rebuilt.offset(k) for k in rebuilt.keys] == [with_index.offset(k) for k in with_index.keys]


def test_keys_in_any_order(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(7, b"seven")
        writer.write(3, b"three")
        with pytest.raises(PocketNetError, match="key 7 is negative or written already"):
            writer.write(7, b"again")
    file = RecordFile(tmp_path / "a.rec")
    assert (file.read(3), file.read(7)) == (b"three", b"seven")
    with pytest.raises(KeyError):
        file.read(0)


def test_nothing_appears_when_writing_fails(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    with pytest.raises(Stop), RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, b"x")
        raise Stop
    assert list(tmp_path.iterdir()) == []


def damaged(tmp_path: Path, at: int, patch: bytes | None) -> RecordFile:
    """The file of ``PAYLOADS``, cut at ``at`` or overwritten there."""
    path = tmp_path / "a.rec"
    file = write(path, PAYLOADS)
    content = bytearray(path.read_bytes())
    if patch is None:
        del content[at:]
    else:
        content[at : at + len(patch)] = patch
    path.write_bytes(content)
    return file


def test_damage_names_file_and_offset(tmp_path: Path) -> None:
    offset = write(tmp_path / "a.rec", PAYLOADS).offset(3)
    for patch, at, message in (
        (b"\0\0\0\0", offset, f"a.rec: offset {offset}: no record starts here"),
        (
            struct.pack("<I", 1 << 28),
            offset + 4,
            f"offset {offset}: the record of 268435456 bytes passes the end",
        ),
        (struct.pack("<I", 2 << 29 | 1001), offset + 4, f"offset {offset}: a record starts with its part 2"),
        (struct.pack("<I", 1 << 29 | 1001), offset + 4, "is not finished, and another starts"),
        (None, offset + 5, f"offset {offset}: the file ends inside a record's header"),
        (None, offset + 500, f"offset {offset}: the record of 1001 bytes passes the end"),
    ):
        file = damaged(tmp_path, at, patch)
        with pytest.raises(CorruptRecordError, match=message):
            file.read(3)
        assert file.read(2) == PAYLOADS[2]
        (tmp_path / "a.idx").unlink()
        with pytest.raises(CorruptRecordError, match=r"a\.rec: offset"):
            RecordFile(tmp_path / "a.rec")


@pytest.mark.slow
def test_every_truncation_is_an_error_or_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    write(path, PAYLOADS[:5])
    (tmp_path / "a.idx").unlink()
    content = path.read_bytes()
    whole = [payload for _, payload in RecordFile(path).walk()]
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        try:
            read = [payload for _, payload in RecordFile(path).walk()]
        except CorruptRecordError:
            continue
        assert read == whole[: len(read)]


def test_bad_index(tmp_path: Path) -> None:
    write(tmp_path / "a.rec", PAYLOADS)
    index = tmp_path / "a.idx"
    for text, message in (
        ("0 0\n1 two\n", "line 2 is '1 two'; expected a key and an offset"),
        ("0\t0\n1\t999999\n", "line 2: offset 999999 is not in a file of"),
        ("0\t0\n1\t6\n", "line 2: offset 6 is not in a file"),
        ("0\t0\n0\t8\n", "line 2: key 0 stands twice"),
        ("\xff\xfe\n", "line 1"),
    ):
        index.write_text(text)
        with pytest.raises(PocketNetError, match=message):
            RecordFile(tmp_path / "a.rec")
    with pytest.raises(PocketNetError, match=r"b\.rec: no such record file"):
        RecordFile(tmp_path / "b.rec")
    with pytest.raises(PocketNetError, match=r"b\.idx: no such index file"):
        RecordFile(tmp_path / "a.rec", tmp_path / "b.idx")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"")
    file = RecordFile(tmp_path / "a.rec")
    assert len(file) == 0
    assert list(file.walk()) == []


@pytest.mark.parametrize("labels", [[5.0], [1.0, 2.0], [0.5, 1.5, -3.0]])
def test_image_records(labels: list[float]) -> None:
    record = ImageRecord(np.array(labels, np.float32), b"\xff\xd8 image", 12, 3)
    back = unpack_image(pack_image(record))
    assert back.labels.tolist() == labels
    assert (back.image, back.id, back.id2) == (record.image, 12, 3)


def test_damaged_image_records() -> None:
    with pytest.raises(CorruptRecordError, match="5 bytes are too few"):
        unpack_image(b"12345")
    with pytest.raises(CorruptRecordError, match="x: 1000 labels do not fit"):
        unpack_image(struct.pack("<IfQQ", 1000, 0, 0, 0), "x")


def test_record_zero_names_the_images(tmp_path: Path) -> None:
    images = [pack_image(ImageRecord(np.array([i], np.float32), b"image", i)) for i in range(1, 4)]
    head = pack_image(ImageRecord(np.array([4, 6], np.float32), b""))
    identities = [pack_image(ImageRecord(np.array([1, 3], np.float32), b"")) for _ in range(2)]
    file = write(tmp_path / "a.rec", [head, *images, *identities])
    assert image_keys(file) == (1, 2, 3)
    assert image_keys(write(tmp_path / "b.rec", images)) == (0, 1, 2)
    short = write(tmp_path / "c.rec", [head, *images[:2]])
    with pytest.raises(CorruptRecordError, match="announces the keys 1 to 3, and key 3 is missing"):
        image_keys(short)


def _read_all(file: RecordFile) -> list[bytes]:
    return [file.read(key) for key in file.keys]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(tmp_path: Path, method: str) -> None:
    file = write(tmp_path / "a.rec", PAYLOADS)
    file.read(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_read_all, [file] * 4) == [PAYLOADS] * 4
    assert _read_all(pickle.loads(pickle.dumps(file))) == PAYLOADS
    file.close()
    assert file.read(1) == PAYLOADS[1]


def test_a_real_dataset(shared_dir: Path) -> None:
    path = shared_dir / "data" / "transfer" / "train.rec"
    if not path.is_file():
        pytest.skip(f"no recorded dataset {path}")
    file = RecordFile(path)
    keys = image_keys(file)
    assert len(keys) == 15_850
    for key in (keys[0], keys[7000], keys[-1]):
        record = unpack_image(file.read(key), f"{path}: key {key}")
        assert record.labels.size == 1
        assert decode_image(record.image, str(key)).shape == (112, 112, 3)
    offsets = [offset for offset, _ in file.walk()]
    assert offsets == [file.offset(key) for key in file.keys]


@pytest.mark.parametrize(
    "text",
    [
        "0\t0\n3\t8\n1\t20\n",
        "0\t0\n3\t8\n1\t20",
        "0 0\n3   8\n\n1 20\n",
        "0\t0\r\n3\t8\r\n1\t20\r\n",
        " 0\t0\n3\t8\n1\t20\n",
    ],
)
def test_spacing_of_an_index(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a.rec", [b"", b"abcd", b"ef"])
    (tmp_path / "a.idx").write_bytes(text.encode())
    file = RecordFile(tmp_path / "a.rec")
    assert file.keys == (0, 3, 1)
    assert [file.offset(key) for key in (0, 1, 3)] == [0, 20, 8]
    assert (file.read(3), file.read(1)) == (b"abcd", b"ef")
    assert 1 in file
    assert 2 not in file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n0\t8\t20\n", "line 1 is '0'; expected a key and an offset"),
        ("0\t0\n\t8\n", "line 2 is '8'; expected"),
        ("0\t0\n1\t8.0\n", "line 2 is '1\\t8.0'; expected"),
        ("0\t0\n-1\t8\n", "line 2 is '-1\\t8'; expected"),
        ("0\t0\n1\t99999999999999999999\n", "line 2: offset 99999999999999999999 is not in a file of"),
    ],
)
def test_odd_lines_of_an_index(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a.rec", [b"", b"abcd", b"ef"])
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(PocketNetError) as caught:
        RecordFile(tmp_path / "a.rec")
    assert message in str(caught.value)


def test_the_first_missing_key_is_named(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, pack_image(ImageRecord(np.array([6.0, 6.0], np.float32), b"")))
        for key in (1, 2, 4, 9):
            writer.write(key, pack_image(ImageRecord(np.array([0.0], np.float32), b"x", key)))
    with pytest.raises(CorruptRecordError, match="keys 1 to 5, and key 3 is missing"):
        image_keys(RecordFile(tmp_path / "a.rec"))
