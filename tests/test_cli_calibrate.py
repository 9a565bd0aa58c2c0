"""``pocketnet calibrate``: the threshold, where it is written, and what decides by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Result, Run, refused, runner
from faces import crop, write_folder
from helpers import randomize_
from pair_files import drawn_pairs
from safetensors import safe_open

import pocketnet_fast
from pocketnet_fast.data.dataset import open_dataset
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.evaluation.pairs import VerificationPairs, write_pairs
from pocketnet_fast.export.torchscript import read_metadata
from pocketnet_fast.faces.pipeline import Embedder, normalized
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import save_weights, weights_sha256

PAIRS = 24


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return randomize_(pocketnet_fast.create_model("pocketnet_s128"), 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: EmbeddingModel) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_weights(model, folder / "s128.safetensors")
    write_pairs(folder / "drawn.bin", drawn_pairs(PAIRS))
    write_folder(folder / "people", {"a": 3, "b": 2, "c": 4})
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encode_image(crop(number), ".png"))
    return folder


@pytest.fixture
def any_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def run(any_command: Run, files: Path) -> Run:
    def calibrate(*arguments: object, weights: Path | None = None) -> Result:
        return any_command("calibrate", *arguments, "--weights", weights or files / "s128.safetensors")

    return calibrate


def cosines(model: EmbeddingModel, flip: bool) -> np.ndarray:
    crops = np.stack(list(drawn_pairs(PAIRS).crops()))
    unit = normalized(Embedder(model, engine="eager", flip=flip)(crops)).astype(float)
    return np.asarray((unit[0::2] * unit[1::2]).sum(1))


@pytest.mark.parametrize("flip", [True, False])
def test_threshold_and_provenance(
    run: Run, files: Path, tmp_path: Path, model: EmbeddingModel, flip: bool
) -> None:
    output = tmp_path / "out.safetensors"
    options = ["--far", 0.25, "--data", files / "drawn.bin", "-o", output, *([] if flip else ["--no-flip"])]
    result = run(*options, "--json")
    assert result.code == 0
    cosine, same = cosines(model, flip), drawn_pairs(PAIRS).same
    threshold = np.sort(cosine[~same])[-3]  # 3 of 12 may be accepted
    assert result.json == {
        "threshold": pytest.approx(threshold, abs=1e-5),
        "far": 0.25,
        "measured_far": 0.25,
        "measured_tar": pytest.approx(np.mean(cosine[same] >= threshold)),
        "impostor_pairs": 12,
        "genuine_pairs": 12,
        "dataset": "drawn",
        "flip": flip,
        "weights_sha256": weights_sha256(model),
    }
    assert "warning: the threshold rests on 3 false accepts among 12 pairs" in result.err
    loaded = pocketnet_fast.create_model("pocketnet_s128", weights=output)
    assert loaded.calibration is not None
    assert loaded.calibration.as_dict() == result.json
    assert weights_sha256(loaded) == weights_sha256(model)
    assert "cosine " in run(*options).out


def test_half_precision_stays(run: Run, files: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    half = tmp_path / "half.safetensors"
    save_weights(model, half, half=True)
    size = half.stat().st_size
    # In place.
    assert run("--far", 0.25, files / "drawn.bin", "-o", half, weights=half).code == 0
    assert half.stat().st_size < size + 2000
    with safe_open(half, framework="pt") as file:
        assert str(file.get_tensor("stem.0.weight").dtype) == "torch.float16"
    assert pocketnet_fast.create_model("pocketnet_s128", weights=half).calibration is not None


def test_several_files_are_pooled(run: Run, files: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "more.npz", drawn_pairs(PAIRS))
    output = tmp_path / "out.safetensors"
    one = run("--far", 0.25, files / "drawn.bin", "-o", output, "--json").json
    both = run(
        "--far", 0.25, "--data", files / "drawn.bin", tmp_path / "more.npz", "-o", output, "--json"
    ).json
    assert (both["impostor_pairs"], both["genuine_pairs"], both["dataset"]) == (24, 24, "drawn + more")
    assert both["threshold"] == pytest.approx(one["threshold"], abs=1e-6)


def test_all_pairs(run: Run, files: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    result = run(
        "--far", 0.1, "--data", files / "people", "--all-pairs", "-o", tmp_path / "a.safetensors", "--json"
    ).json
    people = open_dataset(files / "people")
    crops = np.stack([people.image(index) for index in range(9)])
    unit = normalized(Embedder(model, engine="eager", flip=True)(crops))
    a, b = np.triu_indices(9, 1)
    cosine, same = (unit[a] * unit[b]).sum(1), people.labels[a] == people.labels[b]
    assert (result["impostor_pairs"], result["genuine_pairs"]) == (26, 10)
    assert result["threshold"] == pytest.approx(np.sort(cosine[~same])[-2], abs=1e-5)
    assert result["measured_far"] == pytest.approx(2 / 26)
    assert result["dataset"] == "people (all pairs)"


def test_what_decides_by_it(run: Run, any_command: Run, files: Path, tmp_path: Path) -> None:
    weights = tmp_path / "calibrated.safetensors"
    threshold = run("--far", 0.25, files / "drawn.bin", "-o", weights, "--json").json["threshold"]
    pair = ["verify", files / "0.png", files / "1.png", "--aligned", "--json", "--weights"]
    exported = tmp_path / "m.pt"
    assert any_command("export", "--weights", weights, "--input", "uint8", "-o", exported).code == 0
    assert read_metadata(exported)["calibration"]["threshold"] == threshold
    for given in (weights, exported):
        result = any_command(*pair, given)
        assert (result.code, result.err) == (0, "")
        assert (result.json["threshold"], result.json["threshold_source"]) == (threshold, "calibration")
        assert result.json["same"] == (result.json["cosine"] >= threshold)
        assert result.json["model"] == "pocketnet_s128"
        named = any_command(*pair, given, "--threshold", 0.5).json
        assert (named["threshold"], named["threshold_source"]) == (0.5, "option")
    assert "the threshold was calibrated with --flip" in any_command(*pair, weights, "--no-flip").err
    plain = any_command(*pair, files / "s128.safetensors")
    assert (plain.json["threshold"], plain.json["threshold_source"]) == (0.3, "default")
    assert "no calibrated threshold" in plain.err
    assert (
        any_command("info", "pocketnet_s128", "--weights", weights, "--json").json["calibration"]["far"]
        == 0.25
    )
    assert f"threshold: cosine {threshold:.4f} for FAR 0.25" in (
        any_command("info", "pocketnet_s128", "--weights", weights).out
    )


def test_refusals(run: Run, any_command: Run, files: Path, tmp_path: Path) -> None:
    drawn, output = files / "drawn.bin", tmp_path / "out.safetensors"
    exported = tmp_path / "m.pt"
    assert any_command("export", "--untrained", "-o", exported).code == 0
    for arguments, words in (
        (("--far", 1e-4, drawn, "-o", output), ("12 pairs of two persons say nothing", "at least 10,000")),
        (("--far", 1e-3, files / "people", "--all-pairs", "-o", output), ("26 pairs of two persons",)),
        (("--far", 0, drawn, "-o", output), ("--far is 0; expected a rate above 0",)),
        (("--far", 1, drawn, "-o", output), ("--far is 1; expected a rate above 0",)),
        (("--far", 0.1, "-o", output), ("0 data sets given",)),
        (("--far", 0.1, drawn, drawn, "--all-pairs", "-o", output), ("one data set of identities",)),
        (
            ("--far", 0.1, drawn, "--all-pairs", "-o", output),
            ("drawn.bin is neither a .rec file nor a folder",),
        ),
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
    assert "% of the pairs of one person are accepted; is the network trained" in result.err
