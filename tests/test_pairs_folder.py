"""Folders with pairs.csv: what is read, and how a wrong line is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pair_files import drawn_pairs

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.pairs_folder import read_pairs_folder, write_pairs_folder


def test_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, content in (("b.png", b"1"), ("sub/ä,.jpg", b"2")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "pairs.csv").write_text(
        'left,right,same\nb.png,"sub/ä,.jpg",True\r\nb.png,b.png,0\n', encoding="utf-8"
    )
    pairs = read_pairs_folder(tmp_path)
    assert list(pairs.images) == [b"1", b"2", b"1", b"1"]
    assert pairs.same.tolist() == [True, False]


def test_written_files(tmp_path: Path) -> None:
    write_pairs_folder(tmp_path / "a", drawn_pairs(11, ".jpg"))
    assert sorted(file.name for file in (tmp_path / "a").iterdir())[-3:] == [
        "10a.jpg",
        "10b.jpg",
        "pairs.csv",
    ]
    lines = (tmp_path / "a" / "pairs.csv").read_text().splitlines()
    assert lines[:3] == ["left,right,same", "00a.jpg,00b.jpg,1", "01a.jpg,01b.jpg,0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1 is \[\]; expected left,right,same"),
        ("right,left,same\n", "line 1 is"),
        ("left,right,same\na,b,1\na,b\n", r"pairs\.csv, line 3: 2 columns"),
        ("left,right,same\na,b,perhaps\n", r"pairs\.csv, line 2: same is 'perhaps'; expected 1 or 0"),
        ("left,right,same\n../a,b,1\n", r"line 2: '\.\./a' is no file in the folder"),
        ("left,right,same\na,/etc/passwd,1\n", r"line 2: '/etc/passwd' is no file in the folder"),
        ("left,right,same\na,,1\n", "line 2: '' is no file in the folder"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(PocketNetError, match=message):
        read_pairs_folder(tmp_path)


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match=r"pairs\.csv cannot be read: No such file"):
        read_pairs_folder(tmp_path)
    (tmp_path / "pairs.csv").write_bytes(b"left,right,same\n\xff,b,1\n")
    with pytest.raises(PocketNetError, match=r"pairs\.csv is no text of columns"):
        read_pairs_folder(tmp_path)
    (tmp_path / "pairs.csv").write_text("left,right,same\na.png,b.png,1\n")
    with pytest.raises(PocketNetError, match=r"a\.png: no such file"):
        list(read_pairs_folder(tmp_path).images)


def test_what_is_not_written(tmp_path: Path) -> None:
    pairs = drawn_pairs(1)
    odd = VerificationPairs([b"text", b"text"], pairs.same)
    with pytest.raises(PocketNetError, match="image 0 is neither JPEG, PNG, WebP nor BMP"):
        write_pairs_folder(tmp_path / "a", odd)
    (tmp_path / "b").mkdir()
    with pytest.raises(PocketNetError, match="b exists already"):
        write_pairs_folder(tmp_path / "b", pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
