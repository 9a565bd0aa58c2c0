"""``pocketnet calibrate``: the threshold, where it is written, and what decides by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Result, Run, refused, runner
from faces import write_crops, write_folder
from helpers import randomize_
from pair_files import drawn_pairs
from safetensors import safe_open

import pocketnet_fast
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.evaluation.pair_files import write_pairs
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.export.torchscript_file import read_metadata
from pocketnet_fast.faces.pipeline import Embedder, normalized
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import save_weights, weights_sha256

PAIRS = 24


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return randomize_(PocketNet(SOFTMAX_CASIA, 4, 4, 16), 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: EmbeddingModel) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_weights(model, folder / "weights.safetensors")
    write_pairs(folder / "drawn.bin", drawn_pairs(PAIRS))
    write_folder(folder / "people", {"a": 3, "b": 2, "c": 4})
    write_crops(folder, 2)
    return folder


@pytest.fixture
def any_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def run(any_command: Run, files: Path) -> Run:
    def calibrate(*arguments: object, weights: Path | None = None) -> Result:
        return any_command("calibrate", *arguments, "--weights", weights or files / "weights.safetensors")

    return calibrate


def cosines(model: EmbeddingModel, flip: bool) -> np.ndarray:
    crops = np.stack(list(drawn_pairs(PAIRS).crops()))
    unit = normalized(Embedder(model, engine="eager", flip=flip)(crops)).astype(float)
    return np.asarray((unit[0::2] * unit[1::2]).sum(1))


@pytest.mark.parametrize("flip", [True, False])
def test_thresholds_and_provenance(
    run: Run, files: Path, tmp_path: Path, model: EmbeddingModel, flip: bool
) -> None:
    output = tmp_path / "out.safetensors"
    options = ["--far", 0.25, "--far", 0.5, "--data", files / "drawn.bin", "-o", output]
    options += [] if flip else ["--no-flip"]
    result = run(*options, "--json")
    assert result.code == 0
    cosine, same = cosines(model, flip), drawn_pairs(PAIRS).same
    ranked = np.sort(cosine[~same])[::-1]
    content = result.json
    points = content.pop("points")
    assert content == {
        "threshold": pytest.approx(ranked[2], abs=1e-5),
        "default_far": 0.25,
        "flip": flip,
        "weights_sha256": weights_sha256(model),
        "all_pairs": False,
    }
    for point, far, accepted in zip(points, (0.5, 0.25), (6, 3), strict=True):  # of 12
        threshold = ranked[accepted - 1]
        assert (point["far"], point["threshold"]) == (far, pytest.approx(threshold, abs=1e-5))
        (rates,) = point["measured"]
        assert (rates["dataset"], rates["impostor_pairs"], rates["genuine_pairs"]) == ("drawn", 12, 12)
        assert (rates["false_accepts"], rates["far"]) == (accepted, far)
        assert 0 <= rates["far_low"] <= far <= rates["far_high"] <= 1
        assert rates["tar"] == pytest.approx(np.mean(cosine[same] >= threshold))
        assert 0 <= rates["tar_low"] <= rates["tar"] <= rates["tar_high"] <= 1
    assert (
        "warning: the threshold for FAR 0.25 rests on 3 false accepts among 12 pairs of drawn" in result.err
    )
    loaded = pocketnet_fast.load_model(output)
    assert loaded.calibration is not None
    assert loaded.calibration.as_dict() == content | {"points": points}
    assert weights_sha256(loaded) == weights_sha256(model)
    shown = run(*options).out
    assert f"threshold: cosine {loaded.calibration.threshold:.4f} for FAR 0.25, of embeddings with" in shown
    assert "0.25 (default)" in shown
    assert "the pairs that the data list; intervals of 95 %, by a bootstrap over people" in shown


def test_half_precision_stays(run: Run, files: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    half = tmp_path / "half.safetensors"
    save_weights(model, half, half=True)
    size = half.stat().st_size
    # In place.
    assert run("--far", 0.25, files / "drawn.bin", "-o", half, weights=half).code == 0
    assert half.stat().st_size < size + 2000
    with safe_open(half, framework="pt") as file:
        assert str(file.get_tensor("stem.0.weight").dtype) == "torch.float16"
    assert pocketnet_fast.load_model(half).calibration is not None


def test_several_files_of_pairs(run: Run, files: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "more.npz", drawn_pairs(PAIRS // 2))
    output = tmp_path / "out.safetensors"
    alone = [
        run("--far", 0.25, data, "-o", output, "--json").json["points"][0]
        for data in (files / "drawn.bin", tmp_path / "more.npz")
    ]
    both = run("--far", 0.25, "--data", files / "drawn.bin", tmp_path / "more.npz", "-o", output, "--json")
    (point,) = both.json["points"]
    assert [rates["dataset"] for rates in point["measured"]] == ["drawn", "more"]
    assert [rates["impostor_pairs"] for rates in point["measured"]] == [12, 6]
    assert point["threshold"] == pytest.approx(max(one["threshold"] for one in alone), abs=1e-6)
    assert all(rates["far"] <= 0.25 for rates in point["measured"])


def test_all_pairs_of_identities(run: Run, files: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    result = run(
        "--far", 0.1, "--data", files / "people", "--all-pairs", "-o", tmp_path / "a.safetensors", "--json"
    ).json
    people = open_dataset(files / "people")
    crops = np.stack([people.image(index) for index in range(9)])
    unit = normalized(Embedder(model, engine="eager", flip=True)(crops))
    a, b = np.triu_indices(9, 1)
    cosine, same = (unit[a] * unit[b]).sum(1), people.labels[a] == people.labels[b]
    assert result["threshold"] == pytest.approx(np.sort(cosine[~same])[-2], abs=1e-5)
    assert result["all_pairs"] is True
    ((rates,),) = (point["measured"] for point in result["points"])
    assert (rates["dataset"], rates["impostor_pairs"], rates["genuine_pairs"]) == ("people", 26, 10)
    assert rates["far"] == pytest.approx(2 / 26)


def test_all_pairs_across_folds(run: Run, files: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    """Of files of pairs, and beside a data set of identities."""
    options = ("--all-pairs", "--folds", 3, "-o", tmp_path / "a.safetensors", "--json")
    drawn = drawn_pairs(PAIRS)
    # In the last pair stands the first image of its fold again.
    images = [*drawn.images[:-1], drawn.images[2 * PAIRS // 3 * 2]]
    write_pairs(tmp_path / "again.bin", VerificationPairs(images, drawn.same))
    result = run("--far", 0.05, "--far", 0.2, tmp_path / "again.bin", files / "people", *options)
    assert result.code == 0, result.err
    crops = np.stack(list(VerificationPairs(images, drawn.same).crops()))[:-1]
    unit = normalized(Embedder(model, engine="eager", flip=True)(crops))
    fold = np.arange(47) // 16
    a, b = np.triu_indices(47, 1)
    # 16 images in each of two folds, 15 in the last; first and second ones take turns, the one again is both.
    again = 32
    compared = (fold[a] != fold[b]) & ((a % 2 != b % 2) | (a == again) | (b == again))
    cosine = (unit[a] * unit[b]).sum(1)[compared]
    impostors = len(cosine)
    assert impostors == 16 * 8 + 2 * (16 + 16 * 7)
    for point in result.json["points"]:
        first, second = point["measured"]
        assert (first["dataset"], first["impostor_pairs"], first["genuine_pairs"]) == ("again", impostors, 12)
        assert (second["dataset"], second["impostor_pairs"]) == ("people", 26)
        strictest = np.sort(cosine)[-int(point["far"] * impostors)]
        assert point["threshold"] >= strictest - 1e-5
    alone = run("--far", 0.01, tmp_path / "again.bin", *options).json
    assert alone["threshold"] == pytest.approx(np.sort(cosine)[-int(0.01 * impostors)], abs=1e-5)


def test_what_decides_by_it(run: Run, any_command: Run, files: Path, tmp_path: Path) -> None:
    weights = tmp_path / "calibrated.safetensors"
    points = run("--far", 0.25, "--far", 0.5, files / "drawn.bin", "-o", weights, "--json").json["points"]
    laxer, threshold = (point["threshold"] for point in points)
    assert laxer < threshold
    pair = ["verify", files / "0.png", files / "1.png", "--aligned", "--json", "--weights"]
    exported = tmp_path / "m.pt"
    export = ["export", "--weights", weights, "--input", "uint8", "-o", exported]
    assert any_command(*export, "--far", 0.5).code == 0
    stated = read_metadata(exported)["calibration"]
    assert (stated["threshold"], stated["default_far"], len(stated["points"])) == (laxer, 0.5, 2)
    assert any_command(*pair, exported).json["threshold"] == laxer
    assert any_command(*export).code == 0
    stated = read_metadata(exported)["calibration"]
    assert (stated["threshold"], stated["default_far"]) == (threshold, 0.25)
    for given in (weights, exported):
        result = any_command(*pair, given)
        assert (result.code, result.err) == (0, "")
        assert (result.json["threshold"], result.json["threshold_source"]) == (threshold, "calibration")
        assert (result.json["far"], result.json["far_source"]) == (0.25, "calibration")
        chosen = any_command(*pair, given, "--far", 0.5).json
        assert (chosen["threshold"], chosen["threshold_source"]) == (laxer, "calibration")
        assert (chosen["far"], chosen["far_source"]) == (0.5, "option")
        assert chosen["same"] == (chosen["cosine"] >= laxer)
        missing = any_command(*pair, given, "--far", 1e-6)
        assert refused(missing, "no threshold for FAR 1e-6 is carried, only for 0.5, 0.25; ")
        assert result.json["same"] == (result.json["cosine"] >= threshold)
        assert result.json["model"] == "pocketnet"
        named = any_command(*pair, given, "--threshold", 0.5).json
        assert (named["threshold"], named["threshold_source"]) == (0.5, "option")
        assert (named["far"], named["far_source"]) == (None, None)
    text = any_command(*pair[:4], "--weights", weights).out
    assert f"(threshold: cosine {threshold:.3f} for FAR 0.25, squared distance " in text
    assert refused(any_command(*pair, weights, "--far", 0.25, "--threshold", 0.5), "exclude each other")
    assert refused(any_command(*export, "--far", 1e-6), "no threshold for FAR 1e-6 is carried")
    assert refused(any_command(*export, "--far", 2), "--far is 2; expected a rate above 0 and below 1")
    assert "the threshold was calibrated with --flip" in any_command(*pair, weights, "--no-flip").err
    plain = any_command(*pair, files / "weights.safetensors")
    assert (plain.json["threshold"], plain.json["threshold_source"]) == (0.3, "default")
    assert (plain.json["far"], plain.json["far_source"]) == (None, None)
    assert "no calibrated threshold" in plain.err
    no_threshold = (
        "--far 1e-4: these weights carry no calibrated threshold; `pocketnet calibrate --far 1e-4` writes"
    )
    for command in (pair, ["export", "-o", exported, "--weights"]):
        assert refused(any_command(*command, files / "weights.safetensors", "--far", 1e-4), no_threshold)
    described = any_command("info", "--weights", weights, "--json").json["calibration"]
    assert (described["default_far"], described["points"]) == (0.25, points)
    shown = any_command("info", "--weights", weights).out
    assert f"threshold: cosine {threshold:.4f} for FAR 0.25" in shown
    assert f"{laxer:.4f}" in shown


def test_refusals(run: Run, any_command: Run, files: Path, tmp_path: Path) -> None:
    drawn, output = files / "drawn.bin", tmp_path / "out.safetensors"
    pairs = drawn_pairs(6)
    write_pairs(tmp_path / "again.bin", VerificationPairs([*pairs.images[:-1], pairs.images[0]], pairs.same))
    exported = tmp_path / "m.pt"
    assert any_command("export", "--untrained", "-o", exported).code == 0
    for arguments, words in (
        (
            ("--far", 0.5, "--far", 1e-4, drawn, "-o", output),
            ("drawn: 12 pairs of two persons say nothing", "at least 10,000", "--all-pairs compares more"),
        ),
        ((drawn, "-o", output), ("12 pairs of two persons say nothing", "rate of 1e-5", "down to FAR 0.084")),
        (
            ("--far", 1e-3, files / "people", "--all-pairs", "-o", output),
            ("people: 26 pairs of two persons",),
        ),
        (("--far", 0, drawn, "-o", output), ("--far is 0; expected a rate above 0",)),
        (("--far", 1, drawn, "-o", output), ("--far is 1; expected a rate above 0",)),
        (("--far", 0.1, "--far", 0.1, drawn, "-o", output), ("--far 0.1 is given twice",)),
        (("--far", 0.1, "-o", output), ("no data; pass --data FILE",)),
        (("--far", 0.1, drawn, drawn, "-o", output), ("another data set is called drawn too",)),
        (
            ("--far", 0.1, drawn, "--all-pairs", "-o", output),
            ("drawn.bin says no identities; --all-pairs needs --folds N",),
        ),
        (("--far", 0.1, drawn, "--folds", 2, "-o", output), ("--folds belongs to --all-pairs",)),
        (
            ("--far", 0.1, files / "people", "--all-pairs", "--folds", 2, "-o", output),
            ("--folds is about files of pairs",),
        ),
        (
            ("--far", 0.1, tmp_path / "again.bin", "--all-pairs", "--folds", 3, "-o", output),
            ("again.bin: fold 3 of 3 holds an image of fold 1: the people of the folds are not apart",),
        ),
        (("--far", 0.1, tmp_path / "none", "--all-pairs", "-o", output), ("none does not exist",)),
        (("--far", 0.1, files / "people", "-o", output), ("pairs.csv cannot be read",)),
        (("--far", 0.1, drawn, "-o", tmp_path / "out.pth"), ("written as .safetensors",)),
        (("--far", 0.1, drawn, "-o", tmp_path / "no" / "out.safetensors"), ("its folder does not exist",)),
    ):
        assert refused(run(*arguments), *words), arguments
    assert refused(
        run("--far", 0.25, drawn, "-o", output, weights=exported),
        "m.pt: a TorchScript file, which runs as it is; expected a file of weights",
    )
    assert not output.exists()


def test_help_has_an_example(run: Run) -> None:
    text = run("--help").out
    assert "pocketnet calibrate " in text
    assert "Example" in text


def test_a_collapsed_network_is_refused(any_command: Run, files: Path, tmp_path: Path) -> None:
    network = randomize_(PocketNet(SOFTMAX_CASIA, 2, 4, 8), 3)
    network.tail[7].weight.data.mul_(1e-4)
    save_weights(network, tmp_path / "w.safetensors")
    for data in (["--data", files / "drawn.bin"], ["--data", files / "people", "--all-pairs"]):
        command = ["calibrate", "--far", 0.25, *data, "--weights", tmp_path / "w.safetensors"]
        result = any_command(*command, "-o", tmp_path / "o.safetensors")
        assert refused(result, "nearly the same embedding for everyone", "mean cosine of 1.0000")
        assert not (tmp_path / "o.safetensors").exists()


def test_a_network_that_finds_nobody_is_remarked(any_command: Run, files: Path, tmp_path: Path) -> None:
    images = drawn_pairs(PAIRS).images
    # Pairs of one person that are as different as those of two.
    pairs = VerificationPairs(images[1:] + images[:1], np.arange(PAIRS) % 2 == 0)
    write_pairs(tmp_path / "odd.bin", pairs)
    save_weights(randomize_(PocketNet(SOFTMAX_CASIA, 2, 4, 8), 3), tmp_path / "w.safetensors")
    command = ["calibrate", "--far", 0.1, "--data", tmp_path / "odd.bin"]
    result = any_command(*command, "--weights", tmp_path / "w.safetensors", "-o", tmp_path / "o.safetensors")
    assert result.code == 0
    assert "warning: at the threshold for FAR 0.1 at most " in result.err
    assert "% of the pairs of one person are accepted; is the network trained" in result.err
