"""Means that rounded weights shift, against sampled ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import randomize_

from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.rounding import Moments, expected_prelu, rounded
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet


@pytest.mark.parametrize("slope", [-0.5, 0.25, 1.0, 1.7])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.5, 0.5), (2.0, 3.0), (0.7, 0.0)])
def test_expected_prelu(mean: float, deviation: float, slope: float) -> None:
    sample = np.random.default_rng(0).normal(mean, deviation, 400_000)
    expected = np.where(sample > 0, sample, slope * sample).mean()
    moments = Moments(np.array([mean]), np.array([deviation**2]))
    assert expected_prelu(moments, np.array([slope]))[0] == pytest.approx(expected, abs=0.02)


def test_moments_of_sums_and_concatenations() -> None:
    a, b = (Moments(np.array([m, 1.0]), np.array([v, 2.0])) for m, v in ((1.0, 4.0), (3.0, 5.0)))
    assert a.plus(b).mean.tolist() == [4.0, 2.0]
    assert a.plus(b).variance.tolist() == [9.0, 4.0]
    assert Moments.joined([a, b]).mean.tolist() == [1.0, 1.0, 3.0, 1.0]


def test_rounding_is_torchs() -> None:
    weights = np.random.default_rng(0).normal(size=1000)
    expected = torch.from_numpy(weights).to(torch.bfloat16).double().numpy()
    assert (rounded(weights) == expected).all()


def test_the_mean_of_a_convolution_is_kept() -> None:
    """Of the first pre-processing, whose bias the plan corrects, on states as normalisation says they are."""
    model = randomize_(PocketNet(SOFTMAX_CASIA, 16, 4, 64), 1).double().eval()
    prelu, depthwise, pointwise, norm = model.cells[0].preproc0.net
    rng = np.random.default_rng(0)
    moments = Moments.after(model.stem[1])
    x = rng.normal(moments.mean, np.sqrt(moments.variance), (200_000, len(moments.mean)))
    slope = prelu.weight.detach().numpy()
    activated = np.where(x > 0, x, slope * x).mean(0)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy()
    weight = (pointwise.weight[:, :, 0, 0] * depthwise.weight[:, 0, 0, 0]).detach().numpy() * scale[:, None]
    shift = (rounded(weight) - weight) @ activated

    def bias_of(precision: str) -> np.ndarray:
        plan = lower(model, precision=precision)
        step = next(step for step in plan.steps() if step.name == "cells.0.preproc0")
        return plan.weights[step.bias : step.bias + len(shift)].astype(np.float64)

    corrected = bias_of("fp32") - bias_of("bf16")
    assert np.abs(corrected - shift).max() < 0.05 * np.abs(shift).max()
