"""``pocketnet eval``: figures, files, every engine, and hostile input through the command line."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Result, Run, refused, runner
from faces import crop, png_of_size
from helpers import randomize_
from pair_files import drawn_pairs

import pocketnet_fast
from pocketnet_fast.data.images import encode_image, read_image
from pocketnet_fast.evaluation.pair_files import write_pairs
from pocketnet_fast.evaluation.pair_scores import score_pairs
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.verification import judge
from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.weights import save_weights, weights_sha256

PAIRS = 8


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return randomize_(pocketnet_fast.create_model("pocketnet_s128"), 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: EmbeddingModel) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_weights(model, folder / "s128.safetensors")
    for name in ("lfw.bin", "cfp_fp.npz", "other"):
        write_pairs(folder / name, drawn_pairs(PAIRS))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: Path) -> Run:
    """Run ``pocketnet eval`` with trained weights in this process."""
    run_command = runner(monkeypatch, capsys, "eval", "--folds", "4")

    def with_weights(*arguments: object, weights: Path | None = None) -> Result:
        return run_command(*arguments, "--weights", weights or files / "s128.safetensors")

    return with_weights


def test_figures(run: Run, files: Path, model: EmbeddingModel) -> None:
    result = run("--data", files / "lfw.bin", "--json")
    assert result.code == 0
    report = result.json
    assert report["model"] == "pocketnet_s128"
    assert report["weights_sha256"] == weights_sha256(model)
    assert (report["engine"], report["folds"], report["untrained"]) == ("fused", 4, False)
    found = report["results"]["lfw"]
    scores = score_pairs(Embedder(model, engine="eager"), drawn_pairs(PAIRS))
    for distance, xnorm, part in (
        (scores.distance, scores.xnorm, found),
        (scores.straight_distance, scores.straight_xnorm, found["without_flip"]),
    ):
        expected = judge(distance, scores.same, folds=4)
        for name in ("accuracy", "accuracy_std", "threshold", "val", "val_std", "far"):
            assert part[name] == pytest.approx(getattr(expected, name), abs=1e-9), name
        assert part["cosine_threshold"] == pytest.approx(1 - expected.threshold / 2)
        assert part["xnorm"] == pytest.approx(xnorm, rel=1e-4)
        assert [point["far"] for point in part["tar_at_far"]] == [1e-1, 1e-2, 1e-3, 1e-4]
        for point in part["tar_at_far"]:
            # None of 4 impostor pairs may be accepted, whatever the rate.
            limit = distance[~scores.same].min()
            assert point["tar"] == pytest.approx(np.mean(distance[scores.same] < limit))
            assert point["accepted"] == 0
            assert point["threshold"] == pytest.approx(1 - limit / 2, abs=1e-5)
    assert (found["pairs"], found["same_pairs"]) == (PAIRS, PAIRS // 2)
    assert found["paper_accuracy"] == pytest.approx(0.9958)
    assert found["source"] == str(files / "lfw.bin")


def test_several_data_sets_of_every_kind(run: Run, files: Path) -> None:
    names = [files / "lfw.bin", files / "cfp_fp.npz", files / "other"]
    first = run("--data", *names, "--json").json["results"]
    assert sorted(first) == ["cfp_fp", "lfw", "other"]
    again = run(*(part for name in names for part in ("--data", name)), "--json").json["results"]
    plain = run(*names, "--json").json["results"]
    for name in first:
        for other in (again, plain, {name: first["lfw"]}):
            assert other[name]["accuracy"] == first[name]["accuracy"]
            assert other[name]["threshold"] == first[name]["threshold"]
    assert first["cfp_fp"]["paper_accuracy"] == pytest.approx(0.9421)
    assert first["other"]["paper_accuracy"] is None


def test_pairs_of_one_person_alone(run: Run, tmp_path: Path) -> None:
    write_pairs(tmp_path / "ones.bin", VerificationPairs(drawn_pairs(4).images, np.ones(4, bool)))
    result = run("--data", tmp_path / "ones.bin", "--json")
    assert result.code == 0
    found = result.json["results"]["ones"]
    assert found["tar_at_far"] is None
    assert (found["val"], found["far"], found["pairs"], found["same_pairs"]) == (0, 0, 4, 4)


def test_table(run: Run, files: Path) -> None:
    found = run("--data", files / "lfw.bin", files / "other", "--json").json["results"]
    text = run("--data", files / "lfw.bin", files / "other").out
    for name, paper in (("lfw", "99.58"), ("other", "-")):
        line = next(line for line in text.splitlines() if f" {name} " in line)
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        result = found[name]
        assert cells[:2] == [name, str(PAIRS)]
        assert cells[2].startswith(f"{100 * result['accuracy']:.2f} +- ")
        assert cells[3] == paper
        assert cells[4].startswith(f"{100 * result['without_flip']['accuracy']:.2f} +- ")
        assert cells[5] == f"{result['threshold']:.3f}"
        assert cells[-1] == f"{result['xnorm']:.2f}"


@pytest.mark.slow
def test_engines_and_batches_agree(run: Run, files: Path, model: EmbeddingModel, tmp_path: Path) -> None:
    command = ["--data", files / "lfw.bin", "--json", "--threads", 1]
    fused = run(*command, "--engine", "fused", "--batch", 1000).json
    script = export_torchscript(model, tmp_path / "fused.pt", input="uint8", color="bgr").path
    aten = export_torchscript(model, tmp_path / "aten.pt", kernels="aten").path
    others = [
        run(*command, "--engine", "fused", "--batch", 5).json,
        run(*command, "--engine", "eager").json,
        run(*command, weights=script).json,
        run(*command, "--engine", "torchscript", weights=aten).json,
    ]
    assert [other["engine"] for other in others] == ["fused", "eager", "torchscript", "torchscript"]
    for other in others:
        assert other["weights_sha256"] == fused["weights_sha256"]
        assert other["model"] == "pocketnet_s128"
        found, expected = other["results"]["lfw"], fused["results"]["lfw"]
        assert found["accuracy"] == expected["accuracy"]
        assert found["xnorm"] == pytest.approx(expected["xnorm"], rel=1e-4)


@pytest.mark.slow
def test_files_written(run: Run, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "results"
    result = run("--data", files / "lfw.bin", files / "other", "-o", output, "--json")
    assert result.code == 0
    names = ["eval.json", "lfw_roc.png", "lfw_scores.png", "other_roc.png", "other_scores.png"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert json.loads((output / "eval.json").read_text()) == result.json
    for name in names[1:]:
        picture = read_image(output / name)
        assert picture.shape[:2] in ((600, 720), (480, 720))
        assert picture.std() > 5
    # A second run replaces them.
    assert run("--data", files / "lfw.bin", "-o", output).code == 0
    assert sorted(json.loads((output / "eval.json").read_text())["results"]) == ["lfw"]


def test_refusals(run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lfw = files / "lfw.bin"
    (tmp_path / "lfw.npz").write_bytes((files / "cfp_fp.npz").read_bytes())
    (tmp_path / "file").touch()
    for arguments, words in (
        ((), ("no data; pass --data FILE",)),
        ((lfw, tmp_path / "lfw.npz"), ("lfw.npz: another data set is called lfw too",)),
        ((lfw, tmp_path / "none.bin"), ("none.bin: no such verification file",)),
        ((tmp_path / "none",), ("none does not exist; expected a .bin file",)),
        ((lfw, "--engine", "warp"), ("unknown engine 'warp'",)),
        ((lfw, "--engine", "torchscript"), ("torchscript engine runs files",)),
        (
            (lfw, "--folds", 9),
            ("lfw.bin: 8 pairs cannot be divided into 9 folds; expected 2 to 8 folds",),
        ),
        ((lfw, "--folds", 1), ("8 pairs cannot be divided into 1 folds",)),
        ((lfw, "-o", tmp_path / "file"), ("cannot make the folder",)),
        ((lfw, "-o", tmp_path / "no" / "folder"), ("cannot make the folder",)),
    ):
        assert refused(run(*arguments), *words), arguments
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert refused(run(lfw, "-o", tmp_path / "results"), 'pip install "pocketnet_fast[eval]"')
    assert not (tmp_path / "results").exists()


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def content(images: list[bytes], same: object) -> bytes:
    return pickle.dumps((images, same), protocol=2)


GOOD = drawn_pairs(4)
HOSTILE = {
    "code": (pickle.dumps(Runs()), "refused, it names posix.mkdir"),
    "code in a list": (pickle.dumps(([Runs(), b""], [True])), "refused, it names posix.mkdir"),
    "truncated": (content(GOOD.images, [True] * 4)[:-4000], "damaged or no verification file"),
    "an odd number of images": (content(GOOD.images[:7], [True] * 4), "7 images do not make 4 pairs"),
    "too few labels": (content(GOOD.images, [True] * 3), "8 images do not make 3 pairs"),
    "no labels": (content(GOOD.images, None), "expected two lists"),
    "no image bytes": (
        content([*GOOD.images[:3], b"text", *GOOD.images[4:]], [True] * 4),
        "image 3 is a text, not an image",
    ),
    "empty image": (content([*GOOD.images[:7], b""], [True] * 4), "image 7 is empty"),
    "truncated image": (content([GOOD.images[0][:99], *GOOD.images[1:]], [True] * 4), "image 0 is damaged"),
    "another size": (
        content([*GOOD.images[:7], encode_image(crop(0, 128), ".png")], [True] * 4),
        "image 7 has 128x128 pixels; expected an aligned crop of 112x112",
    ),
    "a picture of gigabytes": (
        content([*GOOD.images[:7], png_of_size(30000, 30000)], [True] * 4),
        "image 7 has 30000x30000 pixels",
    ),
    "more folds than pairs": (
        content(GOOD.images[:6], [True, False, True]),
        "3 pairs cannot be divided into 4",
    ),
    "no pair": (content([], []), "holds no pair"),
    "no pickle": (b"text", "damaged or no verification file"),
    "memory": (b"\x80\x02]r\xff\xff\xff\xff]\x86.", "refused, it keeps an object in slot"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[name]
    Path("bad.bin").write_bytes(data)
    result = run("--data", "bad.bin")
    assert refused(result, "bad.bin", message)
    assert len(result.err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.bin"]


def test_hostile_forms_without_pickle(run: Run, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "bad.npz", images=np.array([Runs()], object), offsets=np.zeros(1, np.int64), same=[True]
    )
    assert refused(run(tmp_path / "bad.npz"), "bad.npz: damaged or no verification file: Object arrays")
    write_pairs(tmp_path / "folder", VerificationPairs(GOOD.images, GOOD.same))
    (tmp_path / "folder" / "2a.png").unlink()
    assert refused(run(tmp_path / "folder"), "2a.png: no such file")
    assert not Path("executed").exists()


def test_help_has_an_example(run: Run) -> None:
    text = run("--help").out
    assert "pocketnet eval " in text
    assert "Example" in text
