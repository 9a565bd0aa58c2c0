"""The example that joins two teachers: an ONNX file whose cosines are the mean of theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import randomize_
from training_runs import write_faces

import pocketnet_fast
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.export import export_onnx
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.training.onnx_network import OnnxNetwork
from pocketnet_fast.training.sampling import sampled_faces

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "join_teachers.py"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.slow
def test_cosines_are_the_mean_of_both(tmp_path: Path) -> None:
    write_faces(tmp_path / "train.rec", identities=8)
    networks = []
    for place, width in enumerate((6, 9)):
        network = randomize_(
            pocketnet_fast.create_model("pocketnet", channels=2, layers=4, embedding_dim=width), place
        )
        networks.append(export_onnx(network, tmp_path / f"{place}.onnx").path)
    pupil = randomize_(pocketnet_fast.create_model("pocketnet", channels=2, layers=4, embedding_dim=15), 7)
    save_weights(pupil, tmp_path / "pupil.safetensors")
    command = [sys.executable, str(SCRIPT), *map(str, networks), "--weight", "1", "--data", str(tmp_path)]
    command += ["--pupil", str(tmp_path / "pupil.safetensors"), "-o", str(tmp_path / "two.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "15 dimensions, cosine" in done.stdout

    faces = torch.cat([*sampled_faces(open_dataset(tmp_path), 16)])
    images = pupil.input_spec.normalize(faces)
    first, second, both = (
        unit(OnnxNetwork(path)(images).numpy()) for path in (*networks, tmp_path / "two.onnx")
    )
    # As many dimensions as both have together: nothing is left out.
    np.testing.assert_allclose(both @ both.T, (first @ first.T + second @ second.T) / 2, atol=1e-4)
    own = unit(pocketnet_fast.compile(pupil)(faces).numpy())
    other = np.linalg.qr(np.random.default_rng(0).normal(size=(15, 15)))[0]
    assert (own * both).sum(1).mean() > (own * (both @ other)).sum(1).mean()


def test_what_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "a.onnx"), str(tmp_path / "a.onnx")]
    command += ["--data", "synthetic:identities=4,images=2", "-o", str(tmp_path / "two.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "join_teachers: " in done.stderr
    assert not (tmp_path / "two.onnx").exists()
