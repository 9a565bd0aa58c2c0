"""``pocketnet gallery``: from photos to matches, and every refusal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from calibrations import calibration_of
from command_line import Run, refused, runner
from faces import crop
from helpers import randomize_

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.gallery.gallery import Gallery
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import save_weights, weights_sha256

MODEL = ("--aligned", "--untrained", "--threads", "1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``pocketnet gallery`` in this process, as the console script would."""
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)
    return runner(monkeypatch, capsys, "gallery")


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
    where = tmp_path / "gallery"
    assert run("build", people, "--name-by", "folder", "-o", where, *MODEL).code == 0
    return where


def test_build_and_search(run: Run, people: Path, built: Path) -> None:
    query = people / "bob" / "one.png"
    result = run("search", built, query, *MODEL, "--json")
    assert result.code == 0
    assert result.json["rows"] == 3
    assert result.json["exact"] is True
    (found,) = result.json["results"]
    assert found["query"] == str(query)
    best = found["matches"][0]
    assert best["name"] == "bob"
    assert best["source"] == str(query)
    assert best["row"] == 2
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
    embed = runner(monkeypatch, capsys, "embed")
    files = [people / "ann" / "one.png", people / "ann" / "two.png", people / "bob" / "one.png"]
    output = tmp_path / "out.npz"
    assert embed(*files, "--aligned", "--untrained", "-o", output).code == 0
    with np.load(output) as data:
        np.testing.assert_allclose(Gallery(built).embeddings, data["embeddings"], atol=1e-6)


def test_names_of_files_and_tables(run: Run, people: Path, tmp_path: Path) -> None:
    by_file = tmp_path / "by_file"
    photos = [people / "ann" / "two.png", people / "bob"]
    assert run("build", *photos, "-o", by_file, *MODEL, "--batch", 1).code == 0
    assert [Gallery(by_file).name(row)[0] for row in range(2)] == ["two", "one"]
    table = people / "names.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["name", "file"], ["Smith, Ann", "ann/one.png"], ["Bob", "bob/one.png"], ["B.", "bob/one.png"]]
        )
    by_table = tmp_path / "by_table"
    result = run("build", "--csv", table, "-o", by_table, *MODEL, "--json")
    assert (result.json["added"], result.json["rows"], result.json["dimensions"]) == (3, 3, 128)
    assert [Gallery(by_table).name(row)[0] for row in range(3)] == ["Smith, Ann", "Bob", "B."]


def test_add(run: Run, people: Path, built: Path) -> None:
    new = people / "ann" / "three.png"
    new.write_bytes(encode_image(crop(5), ".png"))
    result = run("add", built, new, *MODEL)
    assert result.out == f"{built}: added 1 faces; it holds 4\n"
    assert Gallery(built).name(3)[0] == "ann"  # by the folder, as it was built
    new.write_bytes(encode_image(crop(6), ".png"))
    assert run("add", built, new, *MODEL, "--name-by", "file").code == 0
    assert Gallery(built).name(4)[0] == "three"


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
    assert (result.json["added"], result.json["rows"]) == (1, 5)
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
    assert Gallery(built).name(3) == ("bob", str(people / "bob" / "one.png"))
    assert refused(run("add", built, broken, *MODEL, "--skip"), "none of the photos")
    assert refused(run("build", broken, "-o", people.parent / "new", *MODEL), "broken.png is damaged")
    assert not (people.parent / "new").exists()


def test_info(run: Run, built: Path) -> None:
    about = run("info", built, "--json").json
    assert about["rows"] == 3
    assert about["model"] == "pocketnet_s128"
    assert about["flip"] is True
    assert about["checked"] is True
    assert len(about["weights_sha256"]) == 64
    text = run("info", built, "--quick").out
    assert f"{built}: 3 faces" in text
    assert "not compared with its checksums" in text
    (embeddings,) = built.glob("embeddings-*")
    embeddings.write_bytes(bytes(len(embeddings.read_bytes())))
    assert refused(run("info", built), f"{embeddings}: damaged: row 0")


def test_index(run: Run, people: Path, built: Path) -> None:
    pytest.importorskip("faiss")
    query = people / "ann" / "two.png"
    assert refused(run("search", built, query, *MODEL, "--index"), "has no index")
    about = run("index", built, "--json").json
    assert about["recall"] == 1
    assert "recall: 100.0 %" in run("index", built).out
    assert "finds 100.0 % of the ten best" in run("info", built).out
    result = run("search", built, query, *MODEL, "--index", "--probes", 1, "--json").json
    assert result["exact"] is False
    assert result["results"][0]["matches"][0]["source"] == str(query)
    assert "the index lacks the new rows" in run("add", built, query, *MODEL, "--duplicates").err
    assert refused(run("search", built, query, *MODEL, "--index"), "build it again")


def test_another_model_is_refused(run: Run, people: Path, built: Path) -> None:
    query = people / "ann" / "one.png"
    other = ["--aligned", "--untrained", "--model", "pocketnet_s256"]
    assert refused(run("search", built, query, *other), "of pocketnet_s128, not of pocketnet_s256")
    assert refused(run("add", built, query, *other), "of pocketnet_s128, not of pocketnet_s256")
    assert refused(run("search", built, query, *MODEL, "--no-flip"), "made with the mirror image")
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["space"]["weights_sha256"] = "0" * 64
    (built / "manifest.json").write_text(json.dumps(manifest))
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
    assert refused(run("search", built, photo, *MODEL, "--probes", 3), "pass --index too")
    untrained = run("build", photo, "-o", tmp_path / "x", "--aligned", "--model", "pocketnet_m128")
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


@pytest.mark.parametrize("command", ["build", "add", "search", "info", "index"])
def test_help_has_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"pocketnet gallery {command} " in result.out
