"""A trained network on real pairs: the same figures in PyTorch, in TorchScript and in C++ without Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Run, runner
from native import cpp_host
from pair_files import every_nth

from pocketnet_fast.evaluation.pair_files import open_pairs, write_pairs
from pocketnet_fast.evaluation.verification import consecutive_pairs, judge, pair_distances, unit_length

PAIRS, FOLDS = 140, 7


@pytest.fixture(scope="module")
def weights(trained_mobilefacenet: Path) -> Path:
    return trained_mobilefacenet


@pytest.fixture(scope="module")
def pairs(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 30th pair of seven folds, as many of one person as of two."""
    path = shared_dir / "data" / "lfw_dev.bin"
    if not path.is_file():
        pytest.skip(f"no recorded file {path}")
    chosen = every_nth(open_pairs(path), 30)
    part = tmp_path_factory.mktemp("pairs") / "lfw_part.bin"
    write_pairs(part, chosen)
    assert (len(chosen), chosen.same.sum()) == (PAIRS, PAIRS // 2)
    return part


def distances(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return pair_distances(unit_length(embeddings), consecutive_pairs(PAIRS))


@pytest.mark.slow
def test_engines_and_the_cpp_host_agree(
    weights: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run: Run = runner(monkeypatch, capsys)
    model = ["--model", "mobilefacenet", "--weights", weights]
    exported = tmp_path / "aten.pt"
    assert run("export", *model, "--kernels", "aten", "--input", "uint8", "-o", exported).code == 0
    evaluate = ["eval", "--data", pairs, "--folds", FOLDS, "--threads", 1, "--json"]
    eager = run(*evaluate, *model, "--engine", "eager").json["results"]["lfw_part"]
    script = run(*evaluate, "--weights", exported).json["results"]["lfw_part"]

    np.save(tmp_path / "crops.npy", np.stack(list(open_pairs(pairs).crops())))
    output = tmp_path / "embeddings.npy"
    files = ["--crops", tmp_path / "crops.npy", "--output", output]
    done = subprocess.run(
        [str(part) for part in (cpp_host(), exported, *files, "--flip", "--batch", 16)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["crops"] == 2 * PAIRS
    host = judge(distances(np.load(output, allow_pickle=False)), open_pairs(pairs).same, folds=FOLDS)

    # 98.9 % on all ten folds; a pair is 0.7 percent here.
    assert 0.97 <= eager["accuracy"] <= 1
    assert 0.97 <= eager["without_flip"]["accuracy"] <= 1
    for found in (script, vars(host)):
        assert abs(found["accuracy"] - eager["accuracy"]) <= 1 / PAIRS
        assert found["threshold"] == pytest.approx(eager["threshold"], abs=0.02)
    assert script["xnorm"] == pytest.approx(eager["xnorm"], rel=1e-4)
    assert 1 <= eager["threshold"] <= 1.9
