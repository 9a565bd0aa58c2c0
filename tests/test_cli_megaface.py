"""``pocketnet megaface``: features in and out, the scores, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refused, runner_without_detector
from faces import crop

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.evaluation.feature_file import read_embedding, read_features, write_embedding

MODEL = ("--aligned", "--untrained", "--threads", "1")
PROBES = ["Ann/Ann_1.png", "Ann/Ann_2.png", "Ann/Ann_3.png", "Bob/Bob_1.png", "Bob/Bob_2.png"]
OTHERS = [f"{n}/x@N0{n}/{n}_0.jpg" for n in range(12)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner_without_detector(monkeypatch, capsys, "megaface")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A list of five crops, and the crops."""
    for number, name in enumerate(PROBES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(crop(number), ".png"))
    (tmp_path / "list.json").write_text(json.dumps({"path": PROBES, "id": [p[:3] for p in PROBES]}))
    return tmp_path / "list.json"


@pytest.fixture
def challenge(tmp_path: Path) -> list[object]:
    """Options of an evaluation whose result is known: Ann's third photo is Bob, distractor 7 is Ann."""
    rng = np.random.default_rng(0)
    ann, bob = np.eye(16)[:2]
    rows = {"Ann/Ann_1.png": ann, "Ann/Ann_2.png": ann, "Ann/Ann_3.png": bob}
    rows |= {"Bob/Bob_1.png": bob, "Bob/Bob_2.png": bob}
    rows = {name: 4 * row for name, row in rows.items()}
    for name in OTHERS:
        rows[name] = np.concatenate([[0, 0], rng.standard_normal(14)])
    rows[OTHERS[7]] = rows["Ann/Ann_1.png"]
    for name, row in rows.items():
        path = tmp_path / "features" / f"{name}_pocketnet.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_embedding(path, row.astype(np.float32))
    (tmp_path / "probes").write_text("\n".join(PROBES))
    (tmp_path / "others").write_text(json.dumps({"path": OTHERS}))
    (tmp_path / "probe_noises.txt").write_text("# remark\nAnn_3.png\n")
    (tmp_path / "other_noises.txt").write_text(f"{OTHERS[7]}\n")
    return [
        "--probe-list", tmp_path / "probes", "--probes", tmp_path / "features",
        "--distractor-list", tmp_path / "others", "--distractors", tmp_path / "features",
    ]  # fmt: skip


def test_extract(run: Run, images: Path, tmp_path: Path) -> None:
    command = ["extract", images, "--root", tmp_path / "images", *MODEL, "-o"]
    result = run(*command, tmp_path / "out")
    assert result.code == 0
    assert "wrote 5 embeddings of 128 dimensions" in result.err
    assert run(*command, tmp_path / "all.bin").code == 0
    whole = read_features(tmp_path / "all.bin")
    assert whole.shape == (5, 128)
    for name, row in zip(PROBES, whole, strict=True):
        embedding = read_embedding(tmp_path / "out" / f"{name}_pocketnet.bin")
        np.testing.assert_array_equal(embedding, row)
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_extract_goes_on(run: Run, images: Path, tmp_path: Path) -> None:
    command = ["extract", images, "--root", tmp_path / "images", *MODEL, "--suffix", "_m.bin"]
    command += ["-o", tmp_path / "out"]
    broken = tmp_path / "images" / PROBES[1]
    content = broken.read_bytes()
    broken.write_bytes(content[:200])
    assert refused(run(*command), "Ann_2.png is damaged")
    result = run(*command, "--skip")
    assert "left out: " in result.err
    assert "wrote 4 embeddings" in result.err
    broken.write_bytes(content)
    assert "wrote 1 embeddings" in run(*command, "--resume").err
    assert len(list((tmp_path / "out").rglob("*_m.bin"))) == 5


def test_evaluate(run: Run, challenge: list[object], tmp_path: Path) -> None:
    noisy = run("evaluate", *challenge, "--json", "--rank", 1, "--fpr", 0.05).json
    assert (noisy["probes"], noisy["identities"], noisy["pairs"]) == (5, 2, 8)
    assert [size["distractors"] for size in noisy["sizes"]] == [10, 12]
    # Of 8 searches those between Ann's two true photos tie with distractor 7, and those from or to her third
    # one with all distractors, which are as far away. Ties are errors; Bob's two searches remain.
    assert noisy["sizes"][-1]["identification"]["1"] == pytest.approx(2 / 8)
    clean = run(
        "evaluate", *challenge, "--json", "--size", 11,
        "--probe-noise", tmp_path / "probe_noises.txt", "--distractor-noise", tmp_path / "other_noises.txt",
    ).json  # fmt: skip
    assert (clean["noisy_probes"], clean["noisy_distractors"]) == (1, 1)
    assert (clean["probes"], clean["pairs"]) == (4, 4)
    (size,) = clean["sizes"]
    assert size["identification"] == {"1": 1.0, "10": 1.0}
    assert size["verification"][0]["tar"] == 1.0
    assert size["verification"][0]["accepted"] == 0
    everything = run("evaluate", *challenge, "--json", "--fpr", 1).json["sizes"][-1]["verification"]
    assert everything == [{"far": 1.0, "tar": 1.0, "threshold": None, "accepted": 60}]
    text = run("evaluate", *challenge, "--size", 12, "--threads", 2).out
    assert "5 probes of 2 people, 8 searches" in text
    assert "rank 10, %" in text
    assert "* too few pairs to measure this rate" in text


def test_refusals(run: Run, challenge: list[object], images: Path, tmp_path: Path) -> None:
    absent = run("evaluate", *challenge, "--suffix", "_x.bin")
    assert refused(absent, "Ann_1.png_x.bin: no such feature file")
    assert refused(run("evaluate", *challenge, "--size", 13), "expected 1 to 12")
    (tmp_path / "none.txt").touch()
    assert refused(run("evaluate", *challenge, "--probe-noise", tmp_path / "none.txt"), "names no images")
    feature = tmp_path / "features" / f"{OTHERS[3]}_pocketnet.bin"
    feature.write_bytes(feature.read_bytes()[:-1])
    assert refused(run("evaluate", *challenge), f"{feature}: truncated: 79 bytes")
    write_embedding(feature, np.full(16, np.nan, np.float32))
    assert refused(run("evaluate", *challenge), f"{feature}, byte 16: number 0 is not finite")
    write_embedding(feature, np.ones(15, np.float32))
    assert refused(run("evaluate", *challenge), f"{feature}: 15 dimensions")
    assert run("evaluate", *challenge, "--fpr", 2).code == 2
    extract = ["extract", images, "--root", tmp_path / "images", *MODEL]
    assert refused(run(*extract, "-o", tmp_path / "a.bin", "--skip"), "need a folder")
    assert refused(run(*extract, "-o", images), "cannot make the folder")
    none = run("extract", tmp_path / "no", "--root", tmp_path, *MODEL, "-o", tmp_path)
    assert refused(none, "no such list")


@pytest.mark.parametrize("command", ["extract", "evaluate"])
def test_help_has_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"pocketnet megaface {command} " in result.out
