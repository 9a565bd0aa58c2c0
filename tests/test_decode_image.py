"""Images in memory, as servers are sent them: what C++ decodes, and with which code it refuses each body."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hostile_images import bodies, code_of
from image_files import PICTURE, jpeg, pil, png, readable
from native import decode_images

BODIES = list(bodies())


def decoded(program: Path, *paths: Path | str, body: bytes = b"", **environment: str) -> list[list[str]]:
    """Of each path, the code and the rest of what the program says; "-" is ``body``."""
    done = subprocess.run(
        [program, *paths], input=body, capture_output=True, check=False, env=environment or None
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return [line.split("\t", 1) for line in done.stdout.decode().splitlines()]


@pytest.fixture(scope="module")
def program() -> Path:
    return decode_images()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bodies")
    paths = [folder / str(number) for number in range(len(BODIES))]
    for path, body in zip(paths, BODIES, strict=True):
        path.write_bytes(body.data)
    return paths


def check_codes(said: list[list[str]]) -> None:
    wrong = []
    for (code, why), body in zip(said, BODIES, strict=True):
        missing = "built without a decoder" in why
        if code != ("unread" if missing else body.code) or code_of(why) != code:
            wrong.append((body.name, body.code, code, why))
    assert not wrong
    assert {body.code for body in BODIES} == {"unread", "damaged", "pixels"}
    assert len({body.name for body in BODIES}) == len(BODIES) >= 110


def test_codes(program: Path, files: list[Path]) -> None:
    said = decoded(program, *files)
    check_codes(said)
    # No name in front, and nothing of ours to set: whoever asked knows neither.
    assert all(why.startswith(("is ", "has ")) and "POCKETNET" not in why for _, why in said)


def test_what_is_decoded(program: Path, tmp_path: Path) -> None:
    cases = readable()
    paths = [tmp_path / str(number) for number in range(len(cases))]
    for path, case in zip(paths, cases, strict=True):
        path.write_bytes(case.data)
    said = decoded(program, *paths)
    assert all(entry == ["ok", "112x112"] or "built without" in entry[1] for entry in said)
    turned = pil(PICTURE[:20, :30], "PNG")
    assert decoded(program, "-", body=turned) == [["ok", "30x20"]]


def test_limits(program: Path) -> None:
    body = png(PICTURE, 8, 2)
    for variable, value, expected in (
        ("POCKETNET_MAX_PIXELS", "12544", ["ok", "112x112"]),
        ("POCKETNET_MAX_PIXELS", "12543", ["pixels", "has 112x112 pixels; at most 12543 are read"]),
        ("POCKETNET_MAX_BYTES", str(len(body)), ["ok", "112x112"]),
        ("POCKETNET_MAX_BYTES", "1000", ["bytes", f"has {len(body)} bytes; at most 1000 are read"]),
    ):
        assert decoded(program, "-", body=body, **{variable: value}) == [expected]
    # Another kind of file is called that, however large it is.
    ((code, why),) = decoded(program, "-", body=b"GIF89a" + bytes(2000), POCKETNET_MAX_BYTES="1000")
    assert (code, why[:14]) == ("unread", "is a GIF image")


@pytest.mark.slow
def test_under_sanitizers(files: list[Path], tmp_path: Path) -> None:
    program = decode_images(sanitized=True)
    check_codes(decoded(program, *files))
    # Cut anywhere, a body ends where its memory does.
    cut = []
    for kind in (
        jpeg(PICTURE),
        png(PICTURE, 8, 2),
        *(pil(PICTURE, k) for k in ("WEBP", "TIFF", "BMP", "PPM")),
    ):
        for end in (1, 3, 9, 15, 30, 50, 100, 150, len(kind) // 2, len(kind) - 8):
            cut.append(tmp_path / str(len(cut)))
            cut[-1].write_bytes(kind[:end])
    said = decoded(program, *cut)
    assert len(said) == 60
    assert "ok" not in {code for code, _ in said}
