"""Each step of PocketNetS-128 alone; `steps.py` lets ours, by the executor's clock, and eager take turns."""

from __future__ import annotations

import pytest
import torch
from step_shapes import read_shapes
from steps import FORMATS, Eager, Ours

NETWORK = "pocketnet_s128"
SHAPES = {str(shape): shape for shape in read_shapes() if NETWORK in shape.uses}


@pytest.mark.parametrize("subject", ["ours", *FORMATS])
@pytest.mark.parametrize("step", SHAPES)
def test_step(benchmark, step, subject):
    shape = SHAPES[step]
    with torch.inference_mode():
        # Ours runs the small plan around the step, too, which costs a few microseconds more.
        timer = Ours(shape) if subject == "ours" else Eager(shape, FORMATS[subject])
        benchmark.group = step
        benchmark.pedantic(timer, rounds=20, warmup_rounds=2)
