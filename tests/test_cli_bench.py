"""``pocketnet bench`` and the profile behind it; the figures themselves are not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pocketnet_fast import compiled_isa
from pocketnet_fast.cli.main import app
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.profile import profile
from pocketnet_fast.models.genotypes import OPERATIONS, SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet


def test_profile_covers_every_step() -> None:
    plan = lower(PocketNet(SOFTMAX_CASIA, 4, 4, 16))
    times = profile(plan, repeats=3)
    assert [t.name for t in times] == [step.name for step in plan.steps()]
    assert sum(t.macs for t in times) == plan.macs
    assert all(t.microseconds > 0 for t in times)
    for t in times:
        assert t.gflops == pytest.approx(2e-3 * t.macs / t.microseconds)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [[], ["--profile"]])
def test_command(options: list[str], precision: str) -> None:
    arguments = ["bench", "--repeat", "1", "--precision", precision, *options]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["isa"] == compiled_isa(precision)
    assert content["precision"] == precision
    assert content["milliseconds_per_image"]["fused"] > 0
    assert ("steps" in content) == bool(options)
    text = CliRunner().invoke(app, arguments).stdout
    assert "ms per image" in text
    assert ("tail.6-7" in text) == bool(options)


def test_table(tmp_path: Path) -> None:
    """Every operation at every shape that an edge can have, once."""
    path = tmp_path / "table.json"
    arguments = ["bench", "--table", str(path), "--channels", "4", "--layers", "6", "--repeat", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    keys = [
        tuple(e[f] for f in ("operation", "channels", "stride", "height", "width"))
        for e in content["entries"]
    ]
    shapes = [(4, 1, 56), (8, 2, 56), (8, 1, 28), (16, 2, 28), (16, 1, 14), (32, 2, 14), (32, 1, 7)]
    expected = {(name, c, s, size, size) for name in OPERATIONS for c, s, size in shapes}
    assert set(keys) == expected
    assert len(keys) == len(expected)
    assert all(e["ms"] > 0 for e in content["entries"])
    assert content["fixed_ms"] > 0
    assert content["isa"] == compiled_isa()
    assert "dw_conv_7x7" in result.stdout


def test_picture(tmp_path: Path) -> None:
    arguments = ["bench", "--repeat", "1", "--precision", "bf16", "--json"]
    path = tmp_path / "roofline.svg"
    result = CliRunner().invoke(app, [*arguments, "--picture", str(path)])
    assert result.exit_code == 0, result.output
    assert "<svg" in path.read_text()
    content = json.loads(result.stdout)
    assert content["cache_gbs_per_thread"] > 0
    assert content["peak_gflops_per_thread"] > 0
    assert all(step["of_roofline"] > 0 for step in content["steps"])
    refused = CliRunner().invoke(app, [*arguments, "--picture", str(tmp_path / "roofline.txt")])
    assert "expected a name in .png, .svg or .pdf" in str(refused.exception)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_of_steps(precision: str) -> None:
    """Those of a pre-processing of four states: read once, with weights, and written."""
    plan = lower(PocketNet(SOFTMAX_CASIA, 16, 4, 32), precision=precision)
    step = next(s for s in profile(plan, repeats=1) if s.name == "cells.1.preproc1")
    assert step.output == "32x56x56"
    values = 56 * 56 * (4 * 16 + 32) + 64 * 32
    assert step.bytes == values * (4 if precision == "fp32" else 2)


def test_a_table_that_cannot_be_written() -> None:
    result = CliRunner().invoke(app, ["bench", "--table", "/no/such/folder/table.json"])
    assert result.exit_code != 0
    assert "cannot write" in str(result.exception)


def test_a_model_without_kernels_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "--model", "iresnet18"])
    assert result.exit_code != 0
    assert "iresnet18 has no fused form" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tune"], "--tune concerns CUDA"),
        (["--precision", "fp16"], "a plan has 'fp32' or 'bf16'"),
        (["--device", "cuda", "--precision", "int4"], "available on CUDA: fp32, tf32, bf16, fp16"),
    ],
)
def test_options_of_cuda(options: list[str], message: str) -> None:
    if "cuda" in options:
        pytest.importorskip("triton")
    result = CliRunner().invoke(app, ["bench", *options])
    assert isinstance(result.exception, PocketNetError)
    assert message in str(result.exception)
