"""IJB's metadata files: what is read, and that every damage is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ijb_release import Release, write_release

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation import ijb_files
from pocketnet_fast.evaluation.ijb_files import (
    find_files,
    iterate_images,
    iterate_pairs,
    read_members,
    read_subjects,
)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return write_release(tmp_path / "IJBC", people=3)


def replace_line(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["ijbb", "ijbc"])
def test_both_benchmarks(tmp_path: Path, name: str) -> None:
    release = write_release(tmp_path, name, people=2)
    files = find_files(tmp_path)
    assert files == release.files
    letter = {"ijbb": "S", "ijbc": "G"}[name]
    assert [path.name for path in files.galleries] == [
        f"{name}_1N_gallery_{letter}1.csv",
        f"{name}_1N_gallery_{letter}2.csv",
    ]
    assert (files.pairs.name, files.probes.name) == (
        f"{name}_template_pair_label.txt",
        f"{name}_1N_probe_mixed.csv",
    )


def test_images(release: Release) -> None:
    names, templates, media = read_members(release.files)
    assert names[:2] == ["1.png", "2.png"]
    np.testing.assert_array_equal(templates, release.templates)
    np.testing.assert_array_equal(media, release.media)
    images = list(iterate_images(release.files, names))
    assert [image.number for image in images] == list(range(len(names)))
    assert images[4].path == release.files.images / "5.png"
    np.testing.assert_array_equal(images[4].landmarks, TEMPLATE)
    assert [image.score for image in images] == pytest.approx(release.scores.tolist())


def test_pairs_come_in_blocks(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_files, "_PAIR_LINES", 7)
    blocks = list(iterate_pairs(release.files))
    assert [block.line for block in blocks] == list(range(1, len(release.pairs) + 1, 7))
    found = np.concatenate([np.stack([b.first, b.second, b.same], 1) for b in blocks])
    np.testing.assert_array_equal(found, release.pairs)


def test_subjects(release: Release) -> None:
    templates, subjects = read_subjects(release.files.probes)
    assert templates.tolist() == sorted(release.probes)
    assert subjects.tolist() == [release.subjects[template] for template in sorted(release.probes)]
    with pytest.raises(PocketNetError, match=f"line 2: template {release.probes[0]} has no image"):
        read_subjects(release.files.probes, np.array([1]))


POINTS = "1.png 1 2 3 4 5 6 7 8 9 10 0.5"


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (4, "4.png 1 2 3 4 5 6 7 8 9 0.5", "line 4: expected a file, 10 numbers .* found 10 numbers"),
        (4, "4.png 1 2 3 4 5 6 7 8 9 10 0.5 0.5", "line 4: .* found 12 numbers"),
        (2, "", "line 2: .* found 0 numbers"),
        (3, POINTS.replace("1.png", "3.png").replace(" 7 ", " nan "), "line 3: landmarks have to be finite"),
        (3, POINTS.replace("1.png", "3.png").replace(" 7 ", " x "), "line 3: landmarks have to be finite"),
        (3, POINTS.replace("1.png", "3.png").replace("0.5", "-0.5"), "line 3: .* a score not negative"),
        (3, POINTS, "line 3: 1.png, where ijbc_face_tid_mid.txt has 3.png"),
    ],
)
def test_damaged_landmarks(release: Release, line: int, text: str, message: str) -> None:
    names = read_members(release.files)[0]
    replace_line(release.files.landmarks, line, text)
    with pytest.raises(PocketNetError, match=f"{release.files.landmarks}, {message}"):
        list(iterate_images(release.files, names))


def test_lists_of_different_lengths(release: Release) -> None:
    names = read_members(release.files)[0]
    with pytest.raises(PocketNetError, match=f"line {len(names)}: .*, where .* has the end"):
        list(iterate_images(release.files, names[:-1]))
    with pytest.raises(PocketNetError, match=f"{len(names)} lines, but .* has {len(names) + 1}"):
        list(iterate_images(release.files, [*names, "x"]))


@pytest.mark.parametrize("text", ["1.png 5", "1.png 5 6 7", "1.png 5 x", "1.png 5 \udcff6", ""])
def test_damaged_members(release: Release, text: str) -> None:
    lines = release.files.members.read_bytes().splitlines()
    lines[2] = text.encode(errors="surrogateescape")
    release.files.members.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(PocketNetError, match=f"{release.files.members}, line 3: expected a file, a template"):
        read_members(release.files)


@pytest.mark.parametrize("text", ["101 102", "101 102 1 1", "101 102 2", "101 x 1", "101 1.5 1", ""])
@pytest.mark.parametrize("block", [4, 1 << 19])
def test_damaged_pairs(release: Release, text: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_files, "_PAIR_LINES", block)
    replace_line(release.files.pairs, 9, text)
    with pytest.raises(PocketNetError, match=f"{release.files.pairs}, line 9: expected two templates"):
        list(iterate_pairs(release.files))


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "TEMPLATE,SUBJECT_ID", "line 1: expected the columns"),
        (3, "7", "line 3: expected numbers"),
        (3, "7,x,a", "line 3: expected numbers"),
        (3, "{first},5,a", "line 3: template {first} shows subject 5 and, in an earlier line, subject 1000"),
    ],
)
def test_damaged_subjects(release: Release, line: int, text: str, message: str) -> None:
    path = release.files.galleries[0]
    first = release.galleries[0][0]
    replace_line(path, line, text.format(first=first))
    with pytest.raises(PocketNetError, match=f"{path}, {message.format(first=first)}"):
        read_subjects(path)


def test_empty_and_missing(release: Release, tmp_path: Path) -> None:
    files = release.files
    for path, read, message in [
        (files.members, lambda: read_members(files), "holds no images"),
        (files.pairs, lambda: list(iterate_pairs(files)), "holds no pairs"),
        (files.probes, lambda: read_subjects(files.probes), "expected the columns"),
        (files.landmarks, lambda: list(iterate_images(files, ["a"])), "0 lines, but"),
    ]:
        path.write_text("")
        with pytest.raises(PocketNetError, match=f"{path}.*{message}"):
            read()
        path.unlink()
        with pytest.raises(PocketNetError, match=f"{path}: no such file"):
            read()
    files.probes.write_text("TEMPLATE_ID,SUBJECT_ID\n")
    with pytest.raises(PocketNetError, match="holds no templates"):
        read_subjects(files.probes)
    with pytest.raises(PocketNetError, match="holds the metadata of no benchmark"):
        find_files(tmp_path / "IJBC")
    for name in ("ijbb", "ijbc"):
        (files.meta / f"{name}_face_tid_mid.txt").touch()
    with pytest.raises(PocketNetError, match=r"holds the metadata of \['ijbb', 'ijbc'\]"):
        find_files(tmp_path / "IJBC")
    with pytest.raises(PocketNetError, match="has no folder meta"):
        find_files(tmp_path)
