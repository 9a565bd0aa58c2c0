"""``pocketnet ijb``: from a release to figures and pictures, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, refused, runner
from helpers import without_package
from ijb_release import Release, write_release

from pocketnet_fast.data.images import read_image

MODEL = ("--untrained", "--threads", "1", "--batch", "16")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``pocketnet ijb`` in this process, as the console script would."""
    return runner(monkeypatch, capsys, "ijb")


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return write_release(tmp_path / "IJBB", "ijbb", people=6)


def test_both_protocols(run: Run, release: Release, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    result = run("--root", tmp_path / "IJBB", *MODEL, "--json", "-o", output)
    assert result.code == 0
    assert result.json == json.loads((output / "result.json").read_text())
    about = result.json
    assert (about["benchmark"], about["templates"], about["flip"]) == ("ijbb", 24, True)
    genuine = int(release.pairs[:, 2].sum())
    assert about["verification"]["genuine"] == genuine
    assert about["verification"]["impostors"] == len(release.pairs) - genuine
    assert [point["far"] for point in about["verification"]["points"]] == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    searched = about["identification"]
    assert [gallery["file"] for gallery in searched["galleries"]] == [
        "ijbb_1N_gallery_S1.csv",
        "ijbb_1N_gallery_S2.csv",
    ]
    assert [(g["templates"], g["mated"], g["others"]) for g in searched["galleries"]] == [(3, 9, 9)] * 2
    for rank in ("1", "5", "10"):
        each = [gallery["top"][rank] for gallery in searched["galleries"]]
        assert searched["mean"]["top"][rank] == pytest.approx(np.mean(each))
    assert searched["mean"]["top"]["5"] == 1
    for place, rate in enumerate(("0.01", "0.1")):
        each = [gallery["points"][place]["tpir"] for gallery in searched["galleries"]]
        assert searched["mean"]["tpir"][rate] == pytest.approx(np.mean(each))
    for name in ("roc.png", "cmc.png"):
        picture = read_image(output / name)
        assert picture.shape[0] > 400
        assert (picture < 250).any(2).sum() > 1000


def test_one_protocol(run: Run, release: Release, tmp_path: Path) -> None:
    for path in (*release.files.galleries, release.files.probes):
        path.unlink()
    text = run("--root", tmp_path / "IJBB", "--protocol", "1:1", *MODEL).out
    assert "ijbb: 24 templates" in text
    assert "1:1, 36 genuine and 240 impostor pairs" in text
    assert "* too few impostor pairs to measure this rate" in text
    assert "1:N" not in text
    other = write_release(tmp_path / "IJBC", people=5)
    other.files.pairs.unlink()
    text = run("--root", tmp_path / "IJBC", "--protocol", "1:N", "--no-flip", *MODEL).out
    assert "│ G2 " in text
    assert "mean" in text
    assert "genuine" not in text


def test_refusals(run: Run, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "IJBB"
    files = release.files
    assert refused(run("--root", root, "--protocol", "2:N", *MODEL), "unknown protocol", "1:1, 1:N, both")
    assert refused(run("--root", tmp_path, *MODEL), "has no folder meta")
    assert refused(run("--root", root, "--model", "pocketnet_s256"), "no trained weights")
    assert refused(run("--root", root, *MODEL, "-o", files.pairs), "cannot make the folder")
    good = files.landmarks.read_text()
    lines = good.splitlines()
    lines[6] = " ".join([*lines[6].split()[:10], "0.9"])
    files.landmarks.write_text("\n".join(lines))
    nine = run("--root", root, *MODEL)
    assert refused(nine, f"{files.landmarks}, line 7: expected a file, 10 numbers")
    files.landmarks.write_text(good)
    files.pairs.write_text(files.pairs.read_text() + "7 8 0\n")
    absent = run("--root", root, *MODEL)
    assert refused(absent, f"{files.pairs}, line {len(release.pairs) + 1}: template 7 has no image")
    (files.images / "2.png").write_bytes(b"no image")
    broken = run("--root", root, "--protocol", "1:N", *MODEL)
    assert refused(broken, "2.png is a text, not an image")


def test_without_matplotlib(
    run: Run, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch, "matplotlib")
    result = run("--root", tmp_path / "IJBB", *MODEL, "-o", tmp_path / "out")
    assert refused(result, "matplotlib is not installed")


def test_help_has_an_example(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert "pocketnet ijb --root" in result.out
