"""``pocketnet data``: what it counts and finds, round trips of conversion, and made datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refused, runner
from faces import crop, write_folder, write_records
from pair_files import drawn_pairs

from pocketnet_fast.data.images import decode_image, read_image
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.data.recordio import RecordFile
from pocketnet_fast.data.synthetic import SyntheticDataset
from pocketnet_fast.evaluation.bin_file import read_bin
from pocketnet_fast.evaluation.pair_files import write_pairs


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``pocketnet data`` in this process, as the console script would."""
    return runner(monkeypatch, capsys, "data")


def damage(path: Path, at: int, patch: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(patch)] = patch
    path.write_bytes(content)


def test_inspect_records(run: Run, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", [[0], [0], [0], [4], [9], [9]])
    result = run("inspect", path, "--json")
    assert result.code == 0
    assert result.json == {
        "source": str(path),
        "kind": "record",
        "images": 6,
        "identities": 3,
        "images_per_identity": {"min": 1, "median": 2.0, "max": 3},
        "size": [112, 112],
        "bytes": path.stat().st_size,
        "index_rebuilt": False,
        "decoded": True,
        "damaged": [],
    }
    (tmp_path / "a.idx").unlink()
    text = run("inspect", path).out
    assert f"{path}: 6 images of 3 identities" in text
    assert "images per identity: 1 to 3, median 2" in text
    assert "index: rebuilt" in text
    assert "6 images of 112x112 decoded, 0 damaged" in text


def test_inspect_finds_damaged_images(run: Run, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", [[0]] * 14)
    offsets = [RecordFile(path).offset(key) for key in range(14)]
    for offset in offsets[1:13]:
        damage(path, offset + 400, b"damaged!")
    result = run("inspect", path, "--json")
    assert result.code == 1
    assert [entry["image"] for entry in result.json["damaged"]] == list(range(1, 13))
    for entry, offset in zip(result.json["damaged"], offsets[1:13], strict=True):
        assert f"(offset {offset}) is damaged: the PNG's chunk" in entry["error"]
    text = run("inspect", path).out
    assert "2 images of 112x112 decoded, 12 damaged" in text
    assert f"a.rec: key 10 (offset {offsets[10]}) is damaged" in text
    assert "and 2 more; --json lists all" in text
    quick = run("inspect", path, "--quick")
    assert quick.code == 0
    assert "no image was decoded" in quick.out


def test_inspect_finds_damaged_records(run: Run, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", [[0]] * 4)
    offsets = [RecordFile(path).offset(key) for key in range(4)]
    damage(path, offsets[1], b"\0")
    damage(path, offsets[3], b"\0")
    result = run("inspect", path, "--json")
    assert result.code == 1
    assert [entry["image"] for entry in result.json["damaged"]] == [1, 3]
    assert f"a.rec: offset {offsets[3]}: no record starts here" in result.json["damaged"][1]["error"]
    assert "2 damaged records; the dataset cannot be opened" in run("inspect", path).out
    (tmp_path / "a.idx").unlink()
    assert refused(run("inspect", path), f"a.rec: offset {offsets[1]}: no record starts here")


def test_inspect_a_folder(run: Run, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 3, "b": 1})
    (folder / "a" / "1.png").write_bytes(b"x")
    result = run("inspect", folder, "--json")
    assert result.code == 1
    assert (result.json["kind"], result.json["images"], result.json["identities"]) == ("folder", 4, 2)
    (entry,) = result.json["damaged"]
    assert entry["image"] == 1
    assert entry["error"].startswith(f"{folder}/a/1.png is a text, not an image; expected JPEG, ")


def test_contact_sheet(run: Run, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 3, "b": 1})
    (folder / "a" / "0.png").write_bytes(b"x")
    assert run("inspect", folder, "--show", tmp_path / "sheet.png").code == 1
    sheet = read_image(tmp_path / "sheet.png")
    assert sheet.shape == (224, 224, 3)
    np.testing.assert_array_equal(sheet[:112, :112], crop(1))
    np.testing.assert_array_equal(sheet[:112, 112:], crop(2))
    np.testing.assert_array_equal(sheet[112:, :112], crop(3))
    assert (sheet[112:, 112:] == 255).all()
    assert refused(
        run("inspect", folder, "--show", tmp_path / "sheet.gif"), "sheet.gif: unknown kind of picture"
    )
    for file in folder.rglob("*.png"):
        file.write_bytes(b"x")
    assert refused(run("inspect", folder, "--show", tmp_path / "none.png"), "no image to show")
    assert not (tmp_path / "none.png").exists()


def test_conversion_there_and_back(run: Run, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 3, "b": 1, "c": 2}, ".jpg")
    (tmp_path / "records").mkdir()
    result = run("convert", folder, tmp_path / "records" / "train.rec")
    assert (result.code, result.out) == (0, "")
    assert "wrote 6 images of 3 identities to" in result.err
    records = open_dataset(tmp_path / "records")
    assert run("convert", tmp_path / "records", tmp_path / "again").code == 0
    again = open_dataset(tmp_path / "again")
    originals = sorted(folder.rglob("*.jpg"))
    assert records.labels.tolist() == again.labels.tolist() == [0, 0, 0, 1, 2, 2]
    for index, original in enumerate(originals):
        # Stored bytes travel as they are.
        assert records.encoded(index) == again.encoded(index) == original.read_bytes()  # type: ignore[attr-defined]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["0", "1", "2"]


def test_identities_keep_their_numbers_as_folders(run: Run, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", [[7], [112], [7]])
    assert run("convert", path, tmp_path / "faces").code == 0
    assert sorted(p.name for p in (tmp_path / "faces").iterdir()) == ["007", "112"]
    assert open_dataset(tmp_path / "faces").labels.tolist() == [0, 0, 1]


def test_convert_refuses(run: Run, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 1})
    path = write_records(tmp_path / "a.rec", [[0]])
    assert refused(run("convert", folder, tmp_path / "other"), "expected a folder to a .rec file, or")
    assert refused(run("convert", path, tmp_path / "b.rec"), "expected a folder to a .rec file, or")
    assert refused(run("convert", "synthetic", tmp_path / "b.rec"), "expected a folder to a .rec file, or")
    assert refused(run("convert", path, folder), "faces exists already")
    assert refused(run("convert", tmp_path / "nowhere", path), "nowhere does not exist")


def test_make_datasets(run: Run, tmp_path: Path) -> None:
    options = ("--identities", 3, "--images", 2, "--seed", 5, "--first-identity", 9)
    assert run("make", tmp_path / "train.rec", *options, "--png").code == 0
    assert run("make", tmp_path / "faces", *options, "--png").code == 0
    assert run("make", tmp_path / "jpeg.rec", *options).code == 0
    expected = SyntheticDataset(3, 2, 5, 9)
    assert (tmp_path / "property").read_text() == "3,112,112\n"
    assert sorted(path.name for path in (tmp_path / "faces").iterdir()) == ["09", "10", "11"]
    for source in (tmp_path / "train.rec", tmp_path / "faces"):
        dataset = open_dataset(source)
        assert dataset.labels.tolist() == expected.labels.tolist()
        for index in range(6):
            np.testing.assert_array_equal(dataset.image(index), expected.image(index))
    difference = open_dataset(tmp_path / "jpeg.rec").image(3).astype(int) - expected.image(3)
    assert 0 < np.abs(difference).mean() < 6


def test_make_pairs(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "test.bin"
    result = run("make", path, "--pairs", 5, "--identities", 4, "--first-identity", 100)
    assert (result.code, result.out) == (0, "")
    pairs = read_bin(path)
    assert pairs.same.tolist() == [True, False, True, False, True]
    assert decode_image(pairs.images[9]).shape == (112, 112, 3)


def test_pairs(run: Run, tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.bin", drawn_pairs(3))
    for source, target in (("a.bin", "b.npz"), ("b.npz", "c"), ("c", "d.bin")):
        result = run("pairs", tmp_path / source, tmp_path / target)
        assert (result.code, result.out) == (0, "")
        assert f"wrote 3 pairs to {tmp_path / target}" in result.err
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "d.bin").read_bytes()
    assert refused(run("pairs", tmp_path / "a.bin", tmp_path / "c"), "c exists already")
    assert refused(run("pairs", tmp_path / "a.bin", tmp_path / "c.zip"), "c.zip: pairs are written to")
    assert refused(run("pairs", tmp_path / "none.bin", tmp_path / "e.npz"), "none.bin: no such")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.npz", "c", "d.bin"]


def test_make_refuses(run: Run, tmp_path: Path) -> None:
    assert refused(run("make", tmp_path / "a.rec", "--pairs", 5), "pairs are written to a .bin file")
    assert refused(run("make", tmp_path / "a.bin"), "pairs are written to a .bin file")
    assert refused(run("make", tmp_path / "a.bin", "--pairs", 5, "--identities", 1), "two identities")
    assert refused(run("make", tmp_path / "no" / "a.rec", "--identities", 1), "cannot write")
    (tmp_path / "faces").mkdir()
    assert refused(run("make", tmp_path / "faces", "--identities", 1), "exists already")
    assert run("make", tmp_path / "a.rec", "--identities", 0).code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("command", ["inspect", "convert", "pairs", "make"])
def test_help_has_an_example(run: Run, command: str) -> None:
    text = run(command, "--help").out
    assert f"pocketnet data {command}" in text
    assert "Example" in text
