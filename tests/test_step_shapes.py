"""Every step of the published networks alone, at its real size, against the reference in float64."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from step_shapes import StepShape, build_plan, read_shapes
from torch import Tensor

from pocketnet_fast.ops.run_plan import run_plan
from pocketnet_fast.ops.run_plan.reference import run_plan_reference

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@functools.cache
def case(shape: StepShape) -> tuple[Tensor, Tensor]:
    """Images of small whole numbers around the plan's mean, and the float64 embeddings."""
    plan, _ = build_plan(shape)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(126, 131, (2, plan.height, plan.width, 3), dtype=torch.uint8, generator=generator)
    return pixels, run_plan_reference(pixels, *plan.encode())


# All constants and pixels are small whole numbers, of which float32 holds every partial sum: the error bounds
# of csrc/kernels/*/*.h, which count roundings, become zero, and one wrong pixel of one channel shows.
@pytest.mark.slow
@pytest.mark.parametrize("shape", read_shapes(), ids=str)
def test_step(isa: str, shape: StepShape) -> None:
    pixels, expected = case(shape)
    for rows in (0, 3):
        if rows > 0 and shape.kind not in ("stem", "node"):
            continue
        plan, _ = build_plan(shape, rows)
        found = run_plan(pixels, *plan.encode(), plan.results, threads=1)
        assert torch.equal(found.double(), expected)


def test_shapes_are_distinct_and_named_apart() -> None:
    shapes = read_shapes()
    assert len(set(map(str, shapes))) == len(set(shapes)) == len(shapes)


def test_the_benchmark_times_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import steps

    for shape in read_shapes():
        steps.Eager(shape, torch.contiguous_format)
    stem = read_shapes()[0]
    result = steps.measure(stem, rounds=1, peak=100.0)
    assert result.gflops == pytest.approx(2e-3 * stem.macs / result.ours)
    assert set(result.eager) == set(steps.FORMATS)
    with pytest.raises(RuntimeError, match="eager computes something else"):
        steps.Eager(replace(stem, macs=stem.macs + 1), torch.contiguous_format)


def test_file_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import shapes

    assert shapes.main(["--check"]) == 0


def test_a_stale_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import shapes

    monkeypatch.setattr(shapes, "collect", read_shapes)
    monkeypatch.setattr(shapes, "FILE", tmp_path / "steps.json")
    assert shapes.main(["--check"]) == 1
    assert shapes.main([]) == 0
    assert shapes.main(["--check"]) == 0
    shapes.FILE.write_text(shapes.FILE.read_text().replace('"kernel": 5', '"kernel": 7'))
    assert shapes.main(["--check"]) == 1
    assert "is stale: run python benchmarks/shapes.py" in capsys.readouterr().err
