"""``pocketnet gallery``: from photos to matches, and every refusal."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import calibration_of
from command_line import Run, refused, runner_without_detector
from faces import crop
from galleries import old_gallery, rows, unit
from helpers import randomize_

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.sources import FaceSource
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import save_weights, weights_sha256

MODEL = ("--aligned", "--untrained", "--threads", "1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner_without_detector(monkeypatch, capsys, "gallery")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two folders with two and one crops."""
    for number, name in enumerate(["ann/one.png", "ann/two.png", "bob/one.png"]):
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(crop(number), ".png"))
    return tmp_path / "people"


@pytest.fixture
def built(run: Run, people: Path, tmp_path: Path) -> Path:
    where = tmp_path / "people.gallery"
    assert run("build", people, "--name-by", "folder", "-o", where, *MODEL).code == 0
    return where


def names(path: Path) -> list[str]:
    """The name of each face, in their order."""
    gallery = Gallery(path)
    return [gallery.person(gallery.face(int(face)).person).name for face in gallery.embeddings()[0]]


def test_build_and_search(run: Run, people: Path, built: Path) -> None:
    query = people / "bob" / "one.png"
    result = run("search", built, query, *MODEL, "--json")
    assert result.code == 0
    assert result.json["faces"] == 3
    assert (result.json["by"], result.json["precision"]) == ("person", "fp32")
    (found,) = result.json["results"]
    assert found["query"] == str(query)
    best = found["matches"][0]
    assert best["name"] == "bob"
    assert best["photo"] == str(query)
    assert (best["face"], best["person"]) == (3, 2)
    assert best["margin"] > 0
    assert [match["name"] for match in found["matches"]] == ["bob", "ann"]
    by_face = run("search", built, query, *MODEL, "--by", "face", "--json").json["results"][0]["matches"]
    assert [match["name"] for match in by_face] == ["bob", "ann", "ann"]
    assert best["score"] == pytest.approx(1, abs=1e-5)
    scores = [match["score"] for match in found["matches"]]
    assert scores == sorted(scores, reverse=True)
    text = run("search", built, query, people / "ann" / "one.png", *MODEL, "--top", 1).out.splitlines()
    assert text[0] == f"{query}:"
    assert text[1].split()[1:] == ["bob", f"({query})"]
    assert text[3].split()[1] == "ann"
    nobody = run("search", built, query, *MODEL, "--no-flip", "--threshold", 1).err
    assert "cannot be compared" in nobody


def test_the_embeddings_are_those_of_embed(
    run: Run,
    people: Path,
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    embed = runner_without_detector(monkeypatch, capsys, "embed")
    files = [people / "ann" / "one.png", people / "ann" / "two.png", people / "bob" / "one.png"]
    output = tmp_path / "out.npz"
    assert embed(*files, "--aligned", "--untrained", "-o", output).code == 0
    with np.load(output) as data:
        np.testing.assert_allclose(Gallery(built).embeddings()[1], data["embeddings"], atol=1e-6)


def test_names_of_files_and_tables(run: Run, people: Path, tmp_path: Path) -> None:
    by_file = tmp_path / "by_file"
    photos = [people / "ann" / "two.png", people / "bob"]
    assert run("build", *photos, "-o", by_file, *MODEL, "--batch", 1).code == 0
    assert names(by_file) == ["two", "one"]
    table = people / "names.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["name", "file"], ["Smith, Ann", "ann/one.png"], ["Bob", "bob/one.png"], ["B.", "bob/one.png"]]
        )
    by_table = tmp_path / "by_table"
    result = run("build", "--csv", table, "-o", by_table, *MODEL, "--json")
    assert (result.json["added"], result.json["faces"], result.json["dimensions"]) == (3, 3, 128)
    assert names(by_table) == ["Smith, Ann", "Bob", "B."]
    assert len(result.json["near_duplicates"]) == 1


def test_add(run: Run, people: Path, built: Path) -> None:
    new = people / "ann" / "three.png"
    new.write_bytes(encode_image(crop(5), ".png"))
    result = run("add", built, new, *MODEL)
    assert result.out == f"{built}: added 1 faces; it holds 4\n"
    assert names(built)[3] == "ann"  # by the folder, as it was built
    new.write_bytes(encode_image(crop(6), ".png"))
    assert run("add", built, new, *MODEL, "--name-by", "file").code == 0
    assert names(built)[4] == "three"


def test_duplicates_are_left_out_and_said(run: Run, people: Path, built: Path) -> None:
    one, copy, other = people / "ann" / "one.png", people / "ann" / "copy.png", people / "bob" / "two.png"
    copy.write_bytes(one.read_bytes())
    result = run("add", built, one, copy, people / "ann" / "two.png", *MODEL)
    assert result.out == f"{built}: added 0 faces; it holds 3\n"
    assert f"left out {one}: the gallery holds it as ann ({one})" in result.err
    assert f"left out {copy}: the gallery holds it as ann ({one})" in result.err
    other.write_bytes(one.read_bytes())
    result = run("add", built, other, *MODEL)
    assert f"{other} is named bob, and the same photo is ann ({one})" in result.err
    assert len(Gallery(built)) == 4
    result = run("add", built, copy, "--duplicates", *MODEL, "--json")
    assert (result.json["added"], result.json["faces"]) == (1, 5)
    new = people.parent / "new"
    result = run("build", people / "ann", "--name-by", "folder", "-o", new, *MODEL)
    assert result.out == f"{new}: added 2 faces; it holds 2\n"
    assert "left out " in result.err


def test_search_decides_by_the_calibrated_threshold(run: Run, people: Path, tmp_path: Path) -> None:
    model = randomize_(PocketNet(SOFTMAX_CASIA, 4, 4, 16), 3)
    model.calibration = calibration_of(weights_sha256(model), {1e-3: 0.5, 1e-4: 0.9999, 1e-5: 1})
    save_weights(model, tmp_path / "w.safetensors")
    options = ("--aligned", "--weights", tmp_path / "w.safetensors")
    where = tmp_path / "g"
    assert run("build", people / "ann", "-o", where, *options).code == 0
    found = run(
        "search", where, people / "ann" / "one.png", people / "bob" / "one.png", *options, "--json"
    ).json
    assert (found["threshold"], found["threshold_source"]) == (0.9999, "calibration")
    assert (found["far"], found["far_source"]) == (1e-4, "calibration")
    first, second = found["results"]
    assert [match["name"] for match in first["matches"]] == ["one"]
    assert second["matches"] == []
    assert second["nearest"]["score"] < 0.9999
    text = run("search", where, people / "bob" / "one.png", *options)
    assert "nobody in the gallery is that similar; " in text.out
    assert "calibrated threshold of 1.000 for FAR 1e-4 on" in text.err
    query = ("search", where, people / "bob" / "one.png", *options)
    laxer = run(*query, "--far", 1e-3, "--json").json
    assert (laxer["threshold"], laxer["threshold_source"]) == (0.5, "calibration")
    assert (laxer["far"], laxer["far_source"]) == (1e-3, "option")
    assert all(match["score"] >= 0.5 for match in laxer["results"][0]["matches"])
    assert "calibrated threshold of 0.500 for FAR 1e-3 on" in run(*query, "--far", 1e-3).err
    assert refused(run(*query, "--far", 1e-6), "no threshold for FAR 1e-6", "only for 1e-3, 1e-4, 1e-5")
    assert refused(run(*query, "--far", 1e-4, "--threshold", 0.5), "exclude each other")
    assert refused(run(*query, "--far", 0), "--far is 0; expected a rate above 0")
    shown = run("search", where, people / "bob" / "one.png", *options, "--threshold", -1, "--json").json
    assert len(shown["results"][0]["matches"]) == 2
    assert (shown["threshold_source"], shown["far"], shown["far_source"]) == ("option", None, None)
    model.calibration = None
    save_weights(model, tmp_path / "w.safetensors")
    uncalibrated = run(*query, "--json").json
    assert [uncalibrated[key] for key in ("threshold", "threshold_source", "far", "far_source")] == [None] * 4
    assert refused(
        run(*query, "--far", 1e-4), "carry no calibrated threshold; `pocketnet calibrate --far 1e-4`"
    )


def test_an_unusable_photo_stops_it_or_is_left_out(run: Run, people: Path, built: Path) -> None:
    broken = people / "ann" / "broken.png"
    broken.write_bytes((people / "ann" / "one.png").read_bytes()[:300])
    command = ["add", built, broken, people / "bob" / "one.png", *MODEL]
    assert refused(run(*command), "broken.png is damaged")
    assert len(Gallery(built)) == 3
    result = run(*command, "--skip", "--duplicates")
    assert result.code == 0
    assert "left out: " in result.err
    assert names(built)[3] == "bob"
    assert Gallery(built).face(4).photo == str(people / "bob" / "one.png")
    assert "1 photos were left out" in result.err
    assert refused(run("add", built, broken, *MODEL, "--skip"), "none of the photos")
    assert refused(run("build", broken, "-o", people.parent / "new", *MODEL), "broken.png is damaged")
    assert not (people.parent / "new").exists()


def test_people_are_listed_shown_and_tidied_up(run: Run, people: Path, built: Path) -> None:
    listed = run("list", built, "--json").json["people"]
    assert [(person["id"], person["name"], person["faces"]) for person in listed] == [
        (1, "ann", 2),
        (2, "bob", 1),
    ]
    assert run("list", built, "--after", 1).out == "id:2            1  bob\n"
    assert run("list", built, "--limit", 1).out.split() == ["id:1", "2", "ann"]
    shown = run("show", built, "ann", "--json").json
    assert [face["photo"] for face in shown["faces"]] == [
        str(people / "ann" / f"{n}.png") for n in ("one", "two")
    ]
    assert shown["faces"][0]["quality"] is None
    assert "  face 2  " in run("show", built, "id:1").out
    changed = run("rename", built, "id:1", "Ann\nLee\x1b[2J", "--notes", "tall", "--json").json
    assert (changed["name"], changed["notes"]) == ("Ann\nLee\x1b[2J", "tall")
    assert run("list", built, "--limit", 1).out == "id:1            2  Ann\\nLee\\x1b[2J\n"
    assert run("move", built, 2, "Carl").out == f"{built}: face 2 is of Carl now\n"
    assert run("move", built, 2, "Carl", "--json").json["person"]["faces"] == 1
    assert run("merge", built, "Carl", "bob", "--json").json["faces"] == 2
    assert run("merge", built, "bob", "id:1").out.endswith("has 3 faces now\n")
    assert run("delete", built, "--face", 3, "--json").json["deleted"] == {"face": {"id": 3}}
    deleted = run("delete", built, "id:1")
    assert "with 2 faces" in deleted.out
    assert "`pocketnet gallery compact` erases" in deleted.err
    assert run("list", built, "--json").json["people"] == []
    compacted = run("compact", built, "--json").json
    assert compacted["bytes"] <= compacted["bytes_before"]
    assert "fewer" in run("compact", built).out
    for command, message in [
        (("show", built, "dan"), "nobody is named 'dan'"),
        (("show", built, "id:9"), "nobody is with the id 9"),
        (("rename", built, "dan"), "pass a new name, --notes, or both"),
        (("delete", built), "pass either a person or --face ID"),
        (("move", built, 9, "x"), "no face with the id 9"),
    ]:
        assert refused(run(*command), message)


def test_claim(run: Run, people: Path, built: Path) -> None:
    photo = people / "bob" / "one.png"
    said = run("claim", built, "bob", photo, *MODEL, "--threshold", 0.9, "--json").json
    assert (said["name"], said["accepted"], said["face"]) == ("bob", True, 3)
    assert said["score"] == pytest.approx(1, abs=1e-5)
    other = run("claim", built, "ann", photo, *MODEL, "--threshold", 0.99999)
    assert other.out.startswith(f"rejected: {photo} as ann, cosine ")
    assert refused(run("claim", built, "ann", photo, *MODEL), "no calibrated threshold; pass --threshold")
    assert refused(run("claim", built, "dan", photo, *MODEL, "--threshold", 0), "nobody is named 'dan'")
    run("delete", built, "--face", 3)
    assert refused(run("claim", built, "bob", photo, *MODEL, "--threshold", 0), "there is no face of bob")


def test_an_unclear_query_matches_nobody(run: Run, people: Path, built: Path) -> None:
    photo = people / "bob" / "one.png"
    run("move", built, 1, "twin")
    unclear = run("search", built, photo, *MODEL, "--margin", 1.9, "--threshold", -1)
    assert "it is not clear who it is: bob at 1.000 exceeds the second by" in unclear.out
    clear = run("search", built, photo, *MODEL, "--margin", 0, "--threshold", -1, "--json").json
    assert clear["results"][0]["matches"][0]["name"] == "bob"
    assert refused(run("search", built, photo, *MODEL, "--margin", 1, "--by", "face"), "between two persons")


def test_stats_and_check(run: Run, built: Path) -> None:
    about = run("stats", built, "--json").json
    assert (about["faces"], about["people"], about["most_faces"], about["name_by"]) == (3, 2, 2, "folder")
    assert (about["model"], about["flip"], about["lowest_quality"]) == ("pocketnet_s128", True, None)
    assert len(about["weights_sha256"]) == 64
    text = run("stats", built).out
    assert f"{built}: 2 people, 3 faces, at most 2 of one; 0 people without a face" in text
    assert run("check", built).out == f"{built}: 2 people and 3 faces are whole\n"
    assert run("check", built, "--json").json["cache"] == "absent"
    Gallery(built).close()
    content = bytearray(built.read_bytes())
    content[4096:8192] = bytes(4096)
    built.write_bytes(content)
    assert refused(run("check", built), "damaged")


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_export_and_import(run: Run, built: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    file, copy = tmp_path / f"out{suffix}", tmp_path / "copy.gallery"
    assert run("export", built, file, "--json").json["faces"] == 3
    assert run("export", built, file).out == f"{file}: 3 faces\n"
    imported = run("import", copy, file, "--json").json
    assert (imported["people"], imported["faces"], imported["added"]) == (2, 3, 3)
    np.testing.assert_array_equal(Gallery(copy).embeddings()[1], Gallery(built).embeddings()[1])
    assert run("import", copy, file).out == f"{copy}: added 3 faces; it holds 6\n"
    assert refused(
        run("export", built, tmp_path / "x.txt"), "unknown kind of file; expected .npz, .csv, .parquet"
    )


def test_migrate(run: Run, tmp_path: Path) -> None:
    old = old_gallery(
        tmp_path / "old", ["ann", "bob", "ann"], ["a", "", "c"], unit(rows(3)).astype(np.float32)
    )
    new = tmp_path / "new.gallery"
    assert refused(run("list", old), "earlier versions; `pocketnet gallery migrate")
    about = run("migrate", old, new, "--json").json
    assert (about["people"], about["faces"], about["model"]) == (2, 3, "m")
    assert refused(run("migrate", old, new), "already holds a gallery")
    assert run("migrate", old, new, "--overwrite").out == f"{new}: 2 people with 3 faces, equal to {old}\n"


def test_what_a_folder_holds_besides_is_named(run: Run, people: Path, tmp_path: Path) -> None:
    kinds = [("c.avif", ".png"), ("d.TIFF", ".tiff"), ("no suffix", ".png"), ("e.ppm", ".ppm")]
    for number, (name, kind) in enumerate(kinds, 20):
        (people / "ann" / name).write_bytes(encode_image(crop(number), kind))
    (people / "ann" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
    (people / "notes.txt").write_text("x")
    (people / ".hidden").write_text("x")
    result = run("build", people, "--name-by", "folder", "-o", tmp_path / "g", *MODEL, "--json")
    assert result.json["faces"] == 7
    found = {Path(entry["file"]).name: entry["is"] for entry in result.json["passed_over"]}
    assert found == {"phone.heic": "a HEIC image", "notes.txt": "a text, not an image"}
    assert (
        "passed over 2 files: ann/phone.heic (a HEIC image), notes.txt (a text, not an image)" in result.err
    )
    searched = run("search", tmp_path / "g", people, *MODEL, "--threshold", -1)
    assert "passed over 2 files" in searched.err


def test_names_are_checked_before_anything_is_embedded(
    run: Run, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = people / "bob\nby" / "one.png"
    line.parent.mkdir()
    line.write_bytes(encode_image(crop(7), ".png"))
    assert run("build", people, "--name-by", "folder", "-o", tmp_path / "g", *MODEL).code == 0
    assert names(tmp_path / "g")[-1] == "bob\nby"
    odd = Path(os.fsdecode(os.fsencode(people) + b"/\xff"))
    odd.mkdir()
    (odd / "one.png").write_bytes(encode_image(crop(8), ".png"))
    before = FaceSource.faces
    monkeypatch.setattr(FaceSource, "faces", lambda *_, **__: pytest.fail("embedded first"))
    command = ("build", people, "--name-by", "folder", "-o", tmp_path / "h", *MODEL)
    assert refused(run(*command), "is no Unicode text, as of a file whose name is not in UTF-8")
    monkeypatch.setattr(FaceSource, "faces", before)
    result = run(*command, "--skip", "--json")
    assert (result.json["faces"], len(result.json["left_out"])) == (4, 1)
    # The path of a photo is kept as far as it is text.
    assert run("add", tmp_path / "g", odd / "one.png", "--name-by", "file", *MODEL).code == 0
    assert Gallery(tmp_path / "g").faces("one")[0].photo == f"{people}/\\xff/one.png"
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["name", "file"], ["y" * 10_000, line]])
    assert run("add", tmp_path / "g", "--csv", table, "--duplicates", *MODEL).code == 0
    assert names(tmp_path / "g")[-1] == "y" * 10_000


def test_faces_of_low_quality_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qualities = {"good": 0.6, "bad": 0.02}
    for name in qualities:
        (tmp_path / f"{name}.png").write_bytes(encode_image(crop(len(name)), ".png"))
    real = FaceSource.faces

    def faces(self: FaceSource, *arguments: Any, **options: Any) -> Any:
        for face in real(self, *arguments, **options):
            found = Face((1, 2, 3, 4), np.zeros((5, 2)), 0.9, quality=qualities[Path(face.path).stem])
            yield replace(face, faces=[found])

    monkeypatch.setattr(FaceSource, "faces", faces)
    command = ("build", tmp_path, "-o", tmp_path / "g", *MODEL)
    assert refused(
        run(*command), "bad.png: the quality of its face is 0.020, below 0.05; --min-quality chooses"
    )
    result = run(*command, "--skip", "--json")
    assert (result.json["added"], [Path(left["file"]).name for left in result.json["left_out"]]) == (
        1,
        ["bad.png"],
    )
    face = Gallery(tmp_path / "g").face(1)
    assert (face.quality, face.box) == (0.6, (1, 2, 3, 4))
    assert run(*command, "--min-quality", 0, "--overwrite").code == 0
    assert names(tmp_path / "g") == ["bad", "good"]


def test_near_duplicates_are_named(run: Run, people: Path, built: Path) -> None:
    near = people / "bob" / "near.png"
    picture = crop(0).astype(int)
    picture[::8] += 12
    near.write_bytes(encode_image(np.clip(picture, 0, 255).astype(np.uint8), ".png"))
    result = run("add", built, near, *MODEL, "--json")
    assert result.json["added"] == 1
    (found,) = result.json["near_duplicates"]
    assert (found["name"], found["like_name"]) == ("bob", "ann")
    assert 0.98 <= found["cosine"] < 0.99999
    assert (
        f"{near}, named bob, is nearly the photo {people / 'ann' / 'one.png'} of ann: cosine 0.9"
        in result.err
    )


def test_evaluate(run: Run, people: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for number, name in enumerate(["bob/two.png", "cyd/one.png", "cyd/two.png"], 3):
        (people / name).parent.mkdir(exist_ok=True)
        (people / name).write_bytes(encode_image(crop(number), ".png"))
    picture = tmp_path / "confusions.png"
    result = run("evaluate", people, *MODEL, "--fpir", 0.5, "--show", picture, "--json").json
    assert (result["people"], result["enrolled"], result["probes"]) == (3, 3, 3)
    assert result["points"][0]["fpir"] == 0.5
    assert len(result["confusions"]) == 3
    assert {Path(one["photo"]).name for one in result["confusions"]} == {"two.png"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = run("evaluate", people, *MODEL, "--enrol", 1).out
    assert "3 people enrolled with 3 photos, 3 searched" in text
    assert "too few photos to measure this rate" in text
    assert refused(run("evaluate", people / "ann", *MODEL), "holds 0 folders")
    assert refused(run("evaluate", people, *MODEL, "--fpir", 2), "expected a rate above 0 and below 1")
    assert refused(run("evaluate", people, *MODEL, "--show", "x.gif"), "expected .png")
    assert refused(run("evaluate", people, *MODEL, "--enrol", 2), "0 photos to search for")


def test_another_model_is_refused(run: Run, people: Path, built: Path) -> None:
    query = people / "ann" / "one.png"
    other = ["--aligned", "--untrained", "--model", "pocketnet_s256"]
    assert refused(run("search", built, query, *other), "of pocketnet_s128, not of pocketnet_s256")
    assert refused(run("add", built, query, *other), "of pocketnet_s128, not of pocketnet_s256")
    assert refused(run("search", built, query, *MODEL, "--no-flip"), "made with the mirror image")
    with Gallery(built).writing() as connection:
        connection.execute("UPDATE gallery SET weights_sha256 = ?", ("0" * 64,))
    assert refused(run("search", built, query, *MODEL), "with the weights 000000000000, not")


def test_refusals(run: Run, people: Path, built: Path, tmp_path: Path) -> None:
    photo = people / "ann" / "one.png"
    assert refused(run("build", people, "-o", built, *MODEL), "already holds a gallery")
    assert run("build", photo, "-o", built, "--overwrite", *MODEL).code == 0
    assert len(Gallery(built)) == 1
    assert refused(run("build", "-o", tmp_path / "x", *MODEL), "either photos or --csv")
    assert refused(run("build", photo, "--name-by", "hair", "-o", tmp_path / "x", *MODEL), "file, folder")
    assert refused(run("build", tmp_path / "no.png", "-o", tmp_path / "x", *MODEL), "no.png: no such file")
    (tmp_path / "empty").mkdir()
    assert refused(run("build", tmp_path / "empty", "-o", tmp_path / "x", *MODEL), "holds no image")
    assert refused(run("search", tmp_path / "none", photo, *MODEL), "no such gallery")
    untrained = run("build", photo, "-o", tmp_path / "x", "--aligned", "--model", "pocketnet_s256")
    assert refused(untrained, "no trained weights")
    table = tmp_path / "t.csv"
    for text, message in [
        ("path,name\n", "t.csv, line 1: expected the columns file and name"),
        ("file,name\na.png,\n", "t.csv, line 2: expected a file and a name"),
    ]:
        table.write_text(text)
        assert refused(run("build", "--csv", table, "-o", tmp_path / "x", *MODEL), message)
    table.write_bytes(b"file,name\n\xff,x\n")
    assert refused(run("build", "--csv", table, "-o", tmp_path / "x", *MODEL), "no CSV file in UTF-8")
    assert refused(run("build", "--csv", tmp_path / "n.csv", "-o", tmp_path / "x", *MODEL), "cannot be read")


@pytest.mark.slow
def test_real_photos(run: Run, shared_dir: Path, tmp_path: Path) -> None:
    """Whoever has another photo in the gallery is found first, and with a score above the strangers'."""
    photos, models = shared_dir / "data" / "photos", shared_dir / "models"
    if not photos.is_dir() or not (models / "mobilefacenet_ms1m.safetensors").is_file():
        pytest.skip(f"no photos at {photos} or no trained weights at {models}")
    options = ["--model", "mobilefacenet", "--weights", models / "mobilefacenet_ms1m.safetensors"]
    options += ["--detector", models / "yunet.onnx"]
    with (photos / "pairs.csv").open(newline="") as stream:
        owner = {row["right"]: row["left"] for row in csv.DictReader(stream) if row["same"] == "1"}
    where = tmp_path / "gallery"
    assert run("build", *sorted(photos.glob("*a.jpg")), "-o", where, *options).code == 0
    queries = sorted(owner)
    found = run("search", where, *(photos / name for name in queries), "--top", 2, "--json", *options)
    results = found.json["results"]
    assert len(results) == 24
    right = [r["matches"][0]["name"] == Path(owner[q]).stem for q, r in zip(queries, results, strict=True)]
    assert sum(right) >= 23
