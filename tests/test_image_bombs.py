"""Files that are made to cost memory or time: each is refused by its header, in Python and in C++."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, runner
from hostile_files import hostile, png_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import PICTURE, jpeg, pil, png, readable
from native import read_images

from pocketnet_fast.data.image_header import DamagedError, ImageHeader, UnreadError, read_header
from pocketnet_fast.data.images import ImageLimits, decode_image, read_bytes, read_image, stated_size
from pocketnet_fast.errors import PocketNetError

MOST_KILOBYTES = 64 << 10
# A busy machine may hold a process up for long; what is asked for is 50 ms.
MOST_MILLISECONDS = 1000

# For each file: milliseconds, growth of the peak of memory in kB, and what was said.
READ_ALL = """
import json, resource, sys, time
from pocketnet_fast.data.images import read_image
from pocketnet_fast.errors import PocketNetError
from pathlib import Path
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
files = sys.argv[1:]
read_image(files.pop(0)), read_image(files.pop(0))
for file in files:
    before, start, said = peak(), time.perf_counter(), "ok"
    try:
        read_image(file)
    except PocketNetError as error:
        said = str(error)
    print(json.dumps([(time.perf_counter() - start) * 1e3, peak() - before, said]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostile")
    paths = {}
    for number, (name, data) in enumerate(hostile().items()):
        paths[name] = folder / str(number)
        paths[name].write_bytes(data)
    return paths


def check(
    rows: list[tuple[float, int, str]], files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(rows) == len(files) >= 50
    wrong = []
    for (milliseconds, kilobytes, said), (name, path) in zip(rows, files.items(), strict=True):
        refused = said.startswith(str(path)) and "\n" not in said
        if not refused or kilobytes > MOST_KILOBYTES or milliseconds > MOST_MILLISECONDS:
            wrong.append((name, milliseconds, kilobytes, said))
    slowest = max(zip(rows, files, strict=True), key=lambda pair: pair[0][0])
    with capsys.disabled():
        print(
            f" slowest {slowest[1]}: {slowest[0][0]:.1f} ms, most {max(row[1] for row in rows):,} kB ", end=""
        )
    assert not wrong


def test_python(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Two that are read come first, so that libraries are loaded before memory is counted.
    for name, data in (("a.png", png(PICTURE, 8, 2)), ("b.jpg", jpeg(PICTURE))):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", READ_ALL, tmp_path / "a.png", tmp_path / "b.jpg", *files.values()]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    check([tuple(json.loads(line)) for line in done.stdout.splitlines()], files, capsys)


def test_cpp_host(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [read_images(), tmp_path, *files.values()]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [line.split("\t", 2) for line in done.stdout.splitlines()]
    check([(float(row[0]), int(row[1]), row[2]) for row in rows], files, capsys)


def test_limits_of_the_call(tmp_path: Path) -> None:
    data = png(PICTURE, 8, 2)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(
        PocketNetError, match=r"^x has 112x112 pixels; at most 12,543 are read \(POCKETNET_MAX_PIXELS"
    ):
        decode_image(data, "x", ImageLimits(pixels=112 * 112 - 1))
    assert decode_image(data, "x", ImageLimits(pixels=112 * 112)).shape == (112, 112, 3)
    for call in (lambda most: decode_image(data, str(path), most), lambda most: read_image(path, most)):
        with pytest.raises(
            PocketNetError, match=rf"has {len(data):,} bytes; at most 1,000 are read \(POCKETNET_MAX_BYT"
        ):
            call(ImageLimits(bytes=1000))
        assert call(ImageLimits(bytes=len(data))).shape == (112, 112, 3)


def test_limits_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(PICTURE, 8, 2)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    program = read_images()

    def said() -> list[str]:
        try:
            read_image(path)
            first = "ok"
        except PocketNetError as error:
            first = str(error)
        done = subprocess.run([program, tmp_path, path], capture_output=True, text=True, check=True)
        return [first, done.stdout.strip().split("\t")[2]]

    assert said() == ["ok", "ok"]
    for variable, value, words in (
        ("POCKETNET_MAX_PIXELS", "12543", "has 112x112 pixels; at most"),
        ("POCKETNET_MAX_BYTES", "1000", "bytes; at most"),
        (
            "POCKETNET_MAX_PIXELS",
            "many",
            "POCKETNET_MAX_PIXELS is 'many'; expected a whole number of at least 1",
        ),
        ("POCKETNET_MAX_BYTES", "0", "POCKETNET_MAX_BYTES is '0'; expected a whole number of at least 1"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert all(words in text for text in said())


def test_limits_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png(PICTURE, 8, 2))
    for variable in ("POCKETNET_MAX_PIXELS", "POCKETNET_MAX_BYTES"):
        monkeypatch.setenv(variable, "1000000")  # what the command sets is undone at the test's end
    arguments = ("embed", "--untrained", "--aligned", path, "--json")
    for limit, words in (
        (("--max-pixels", 12543), "12,543 are read"),
        (("--max-bytes", 1000), "1,000 are read"),
    ):
        assert refused(runner(monkeypatch, capsys)(*limit, *arguments), "photo.png has", words)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """A file of 3 TB on paper: refused by its size, or called what it is."""
    path = tmp_path / "photo.jpg"
    for start, words in ((jpeg(PICTURE), "bytes; at most 67,108,864"), (b"PK\x03\x04", "is a ZIP archive")):
        path.write_bytes(start)
        os.truncate(path, 3 << 40)
        with pytest.raises(PocketNetError) as error:
            read_bytes(path)
        command = [read_images(), tmp_path, path]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for said in (str(error.value), done.stdout):
            assert words.replace(",", "") in said.replace(",", "")
    with pytest.raises(PocketNetError, match="more than 67,108,864 bytes"):
        read_bytes("/dev/zero")


def test_stated_size() -> None:
    assert stated_size(png_of(60_000, 50_000)) == (50_000, 60_000)
    for data, size in (
        (jpeg(PICTURE[:20, :30]), (20, 30)),
        (pil(PICTURE[:20, :30], "BMP"), (20, 30)),
        (pil(PICTURE[:20, :30], "WEBP"), (20, 30)),
        (pil(PICTURE[:20, :30], "TIFF"), (20, 30)),
        (b"text", None),
        (b"", None),
    ):
        assert stated_size(data) == size
        for end in range(min(len(data), 1000)):
            assert stated_size(data[:end]) in (None, size)


SAMPLES = [case.data for case in readable()]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_headers_of_any_bytes(data: st.DataObject) -> None:
    """Damaged headers and pure noise: an answer or one of two errors, and the same limits as ever."""
    content = bytearray(data.draw(st.sampled_from(SAMPLES))[: data.draw(st.integers(0, 4000))])
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            place = data.draw(st.integers(0, min(len(content), 300) - 1))
            content[place] = data.draw(st.sampled_from([0, 1, 2, 4, 0x7F, 0x80, 0xFE, 0xFF]))
    try:
        header = read_header(bytes(content))
    except (DamagedError, UnreadError) as error:
        assert str(error)
        return
    assert isinstance(header, ImageHeader)
    assert header.height > 0
    assert header.width > 0
    assert 1 <= header.orientation <= 8


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8\xff", b"RIFF\xff\0\0\0WEBP", b"II*\0", b"BM", b"P6 "]),
)
def test_noise(content: bytes, start: bytes) -> None:
    try:
        decoded = decode_image(start + content)
    except PocketNetError:
        return
    assert decoded.dtype == np.uint8
