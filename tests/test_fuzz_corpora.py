"""What the fuzzers of Python's readers begin with, and what they found: it is read, or refused in words."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sqlite3
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from native import ROOT

from pocketnet_fast.errors import PocketNetError

sys.path.insert(0, str(ROOT / "fuzz" / "python"))
readers = importlib.import_module("readers")
sys.path.pop(0)

NAMES = sorted(readers.TARGETS)
# What needs a package that is optional.
NEEDS = {"onnx": "onnx", "people_table": "pyarrow", "faces_part": "pyarrow", "image_table": "pyarrow"}


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[None]:
    yield
    readers.remove_folder()


def seeds(name: str) -> list[bytes]:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return list(readers.TARGETS[name].seeds())


def kept(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((readers.CORPORA / name).glob("*"))]


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_what_is_kept(name: str) -> None:
    inputs = [*seeds(name), *kept(name)]
    assert inputs
    for data in inputs:
        readers.try_reader(name, data)


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", NAMES)
def test_seeds_that_are_cut_or_changed(name: str) -> None:
    """A little of what the fuzzers do, where there is no atheris."""
    for data in seeds(name)[:4]:
        for part in (0, 1, len(data) // 3, len(data) // 2, len(data) - 1):
            readers.try_reader(name, data[:part])
        for at in range(0, len(data), max(1, len(data) // 12)):
            readers.try_reader(name, data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"weights", "onnx"}))
def test_something_is_accepted(name: str) -> None:
    """Fuzzing that begins with what is refused gets nowhere; whole networks are too large to begin with."""
    assert any(readers.try_reader(name, data) for data in seeds(name)[:12])


def test_a_reader_that_does_something_else_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(action: str) -> None:
        def act(data: bytes, folder: object) -> None:
            if action == "raise":
                raise KeyError("field")
            if action == "say":
                print("OpenCV: wrong", file=sys.__stderr__, flush=True)
            if action == "warn":
                import warnings

                warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
            if action == "be silent":
                raise PocketNetError("")

        monkeypatch.setitem(readers.TARGETS, "features", readers.Target(act, lambda: [b""]))

    for action, words in (
        ("raise", "KeyError"),
        ("say", "printed b'OpenCV: wrong"),
        ("warn", "DeprecationWarning"),
        ("be silent", "without a word"),
    ):
        read(action)
        with pytest.raises(readers.Finding, match=words):
            readers.try_reader("features", b"")


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def of_another_version(archive: bytes) -> bytes:
    """The same archive, as if a program of version 9.9 were needed to read it."""
    at = archive.index(b"PK\x01\x02")
    return archive[: at + 6] + struct.pack("<H", 99) + archive[at + 8 :]


def many_digits(data: bytes, number: bytes) -> bytes:
    assert number in data
    return data.replace(number, b"9" * 30, 1)


def altered_gallery(statement: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.gallery"
        path.write_bytes(seeds("gallery")[0])
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        return path.read_bytes()


def record_zero(label: float) -> bytes:
    payload = struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<ff", label, 0)
    record = struct.pack("<II", 0xCED7230A, len(payload)) + payload
    return b"0\t0\n" + readers.BETWEEN + record


FOUND = {
    "an archive of a newer version": (
        "metadata",
        lambda: of_another_version(zipped("a/extra/b.json", b"{}")),
    ),
    "pairs of which one array is none": ("npz_pairs", lambda: zipped("images.npy", b"no array")),
    "weights whose archive has a damaged directory": (
        "weights",
        lambda: b"\1\n" + zipped("a/data.pkl", b"").replace(b"PK\x01\x02", b"PK\x01\x03"),
    ),
    "an id of the gallery's people beyond 64 bits": (
        "ijb",
        lambda: many_digits(seeds("ijb")[0], b"69544"),
    ),
    "a template of the probes beyond 64 bits": ("ijb", lambda: many_digits(seeds("ijb")[0], b"1,2")),
    "pairs of nothing but blanks": ("ijb", lambda: readers.BETWEEN.join([b"1.jpg 1 2\n", b" \n", b"", b""])),
    "a pair of templates beyond 64 bits": (
        "ijb",
        lambda: readers.BETWEEN.join([b"1.jpg 1 2\n", b"9" * 30 + b" 1 0\n", b"", b""]),
    ),
    "a pair that Python's numbers allow": (
        "ijb",
        lambda: readers.BETWEEN.join([b"1.jpg 1 2\n", b"1_0 1 0\n", b"", b""]),
    ),
    "a table of people with text that sqlite cannot decode": (
        "gallery",
        lambda: seeds("gallery")[0].replace(b"CREATE TABLE person", b"CREATE TABL\xe9 person", 1),
    ),
    "a gallery that states nothing of itself": ("gallery", lambda: altered_gallery("DELETE FROM gallery")),
    "a face of nobody": ("gallery", lambda: altered_gallery("DELETE FROM person WHERE name = 'Bob'")),
    "a time beyond 64 bits": (
        "people_table",
        lambda: re.sub(
            rb"(,0\.0|,1\.0|,),(\d{10}),", b"," + b"9" * 30 + b",", seeds("people_table")[0], count=1
        ),
    ),
    "rows without an end": (
        "old_gallery",
        lambda: seeds("old_gallery")[0].replace(b'"rows": 1', b'"rows": Infinity', 1),
    ),
    "a manifest nested deep": ("old_gallery", lambda: b"[" * 100_000),
    "a list nested deep": ("face_list", lambda: b'{"path": ' + b"[" * 100_000),
    "a recipe nested deep": ("recipe", lambda: b"[run]\nseed = " + b"[" * 4000),
    "a recipe's number of many digits": ("recipe", lambda: b"[run]\nseed = " + b"9" * 5000 + b"\n"),
    "a mixture nested deep": ("mixture", lambda: b"faces = " + b"[" * 4000),
    "a mixture that repeats without end": (
        "mixture",
        lambda: seeds("mixture")[0].replace(b"repeat = 2", b"repeat = 999999999999", 1),
    ),
    "more synthetic people than memory holds": (
        "mixture",
        lambda: seeds("mixture")[0].replace(b"identities=4", b"identities=99999999999999", 1),
    ),
    "an exclusion whose path holds a zero": (
        "mixture",
        lambda: seeds("mixture")[0].replace(b"exclude.txt", b"exclude\\u0000", 1),
    ),
    "keys up to no number": ("records", lambda: record_zero(float("nan"))),
    "keys without end": ("records", lambda: record_zero(float("inf"))),
    "more keys than memory holds": ("records", lambda: record_zero(1e18)),
    "an index beyond 64 bits": ("records", lambda: many_digits(seeds("records")[1], b"1\t")),
    "an index of many digits": (
        "records",
        lambda: b"1" * 5000 + b"\t0\n" + readers.BETWEEN + seeds("records")[0],
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_is_refused_in_words(what: str) -> None:
    name, make = FOUND[what]
    data = make()
    assert data not in seeds(name)
    readers.try_reader(name, data)


def test_a_template_beyond_64_bits_is_named_with_its_line(tmp_path) -> None:
    from pocketnet_fast.evaluation.ijb_files import find_files, read_members

    for name in ("meta", "loose_crop"):
        (tmp_path / name).mkdir()
    (tmp_path / "meta" / "ijbb_face_tid_mid.txt").write_text(f"1.jpg 1 2\n2.jpg {'9' * 30} 2\n")
    with pytest.raises(PocketNetError, match="line 2: expected a file, a template and a medium"):
        read_members(find_files(tmp_path))


def test_record_zero_that_announces_no_number(tmp_path) -> None:
    from pocketnet_fast.data.recordio import CorruptRecordError, RecordFile, image_keys

    for label, words in ((float("nan"), "keys up to nan"), (0.5, "up to 0.5"), (5.0, "key 1 is missing")):
        index, _, records = record_zero(label).partition(readers.BETWEEN)
        (tmp_path / "a.rec").write_bytes(records)
        (tmp_path / "a.idx").write_bytes(index)
        with pytest.raises(CorruptRecordError, match=words):
            image_keys(RecordFile(tmp_path / "a.rec"))


def test_targets_are_named_in_the_document() -> None:
    """docs/security.md says what each does, and what was found."""
    text = (ROOT / "docs" / "security.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in text, name
