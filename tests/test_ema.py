"""The running average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketnet_fast.training.ema import AveragedModel


def test_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.fill_(0.0)
    average = AveragedModel(model, 0.5)
    expected = 0.0
    for update in range(20):
        with torch.no_grad():
            model[0].weight.fill_(update + 1.0)
            model[1].running_mean.fill_(update + 1.0)
            model[1].num_batches_tracked.fill_(update)
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * (update + 1)
        assert float(average.model[0].weight) == pytest.approx(expected, rel=1e-5)
        assert float(average.model[1].running_mean) == pytest.approx(expected, rel=1e-5)
        assert int(average.model[1].num_batches_tracked) == update
    assert average.updates == 20
    assert not average.model.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
