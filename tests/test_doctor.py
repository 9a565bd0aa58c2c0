"""``pocketnet doctor``: the report, and what it finds missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pocketnet_fast
from pocketnet_fast.cli.main import app
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.models.yunet import YuNet
from pocketnet_fast.ops import native


@pytest.fixture(autouse=True)
def _plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def report(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def needs_kernels() -> None:
    try:
        native.library_path()
    except ImportError as error:
        pytest.skip(str(error))


def test_versions_and_threads() -> None:
    import torch

    found = report()
    assert found["versions"]["pocketnet_fast"] == pocketnet_fast.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"]["intra_op"] == torch.get_num_threads()
    assert found["cpu"]["usable"] >= 1
    assert found["threads"]["affinity"] == len(os.sched_getaffinity(0))
    quota = found["threads"]["quota"]
    assert quota is None or quota >= 1
    assert found["threads"]["kernels"] <= min(torch.get_num_threads(), quota or found["threads"]["affinity"])
    assert any("libtorch_cpu" in path for path in found["libraries"])


def test_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    needs_kernels()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(native, "processors", lambda: {"affinity": 8, "quota": 3, "usable": 3})
    found = report()
    threads = found["threads"]
    assert (threads["intra_op"], threads["affinity"], threads["quota"], threads["kernels"]) == (16, 8, 3, 3)
    assert any("OMP_NUM_THREADS=3" in item["how"] for item in found["missing"])
    shown = " ".join(CliRunner().invoke(app, ["doctor"]).stdout.split())
    assert "PyTorch's 16 in an operator" in shown
    assert "processors of the affinity mask 8" in shown
    assert "processors of the container's quota 3" in shown
    assert "the fused kernels use 3" in shown


def test_kernels() -> None:
    needs_kernels()
    found = report()
    assert found["kernels"]["used"] in found["kernels"]["available"]
    assert found["kernels"]["available"][-1] == "scalar"
    assert found["kernels"]["bf16"] == native.compiled_isa("bf16")
    assert found["kernels"]["tiles_denied"] == native.tiles_denied()
    assert found["kernels"]["library"] in found["libraries"]


def test_tiles_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kernels()
    monkeypatch.setattr(native, "tiles_denied", lambda: True)
    result = CliRunner().invoke(app, ["doctor"])
    assert "which the system refuses" in " ".join(result.stdout.split())


def test_a_source_tree_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise ImportError("the native part is missing")

    monkeypatch.setattr(native, "library_path", absent)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "pip install ." in result.stdout


def test_an_unknown_instruction_set() -> None:
    needs_kernels()
    environment = os.environ | {"PNF_FORCE_ISA": "sse9"}
    command = [sys.executable, "-m", "pocketnet_fast.cli.main", "doctor", "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert "sse9" in found["kernels"]["error"]
    assert found["environment"]["PNF_FORCE_ISA"] == "sse9"
    assert any("unset PNF_FORCE_ISA" in item["how"] for item in found["missing"])


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = report()["gpu"]
    assert found["devices"] == found["runs"] == []
    assert found["tiles"] == {}


def test_with_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pocketnet_fast.cli import doctor
    from pocketnet_fast.ops.triton_tuning import Tiles, tables

    pytest.importorskip("triton")
    monkeypatch.setenv("POCKETNET_CACHE", str(tmp_path / "tiles"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    monkeypatch.setattr(tables, "_tables", {})
    path = tables.keep("NVIDIA H200", {"node/1": Tiles(16, 16, 16, 1, 1)})
    found = report()["gpu"]
    assert found["devices"] == ["NVIDIA H200"] * 2
    assert "training" in found["runs"]
    assert found["tiles"] == {"NVIDIA H200": {"path": str(path), "shapes": 1}}
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    without = report()
    assert without["gpu"]["runs"] == []
    assert any("pocketnet_fast[gpu]" in item["how"] for item in without["missing"])


def test_the_detector_that_ships() -> None:
    assert report()["detector"] == {"path": None, "shipped": True}


def test_another_detector_is_named_and_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.safetensors"
    save_weights(YuNet(), own)
    monkeypatch.setenv("POCKETNET_DETECTOR", str(own))
    assert report()["detector"] == {"path": str(own), "shipped": False}
    for name in ("absent.onnx", "broken.safetensors"):
        (tmp_path / "broken.safetensors").write_bytes(b"own")
        monkeypatch.setenv("POCKETNET_DETECTOR", str(tmp_path / name))
        (item,) = (item for item in report()["missing"] if name in item["what"])
        assert "POCKETNET_DETECTOR" in item["how"]


def test_readable_report() -> None:
    text = CliRunner().invoke(app, ["doctor"]).stdout
    for word in ("Versions", "Kernels", "Threads", "Libraries loaded", "missing", "the one that ships"):
        assert word in text


def test_help_has_an_example() -> None:
    text = CliRunner().invoke(app, ["doctor", "--help"]).stdout
    assert "pocketnet doctor" in text
    assert "Example" in text
