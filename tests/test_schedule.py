"""The learning rate against numbers worked out by hand."""

from __future__ import annotations

import pytest

from pocketnet_fast.training.recipe import OptimizerRecipe, ScheduleRecipe, load_recipe
from pocketnet_fast.training.schedule import initial_rate, learning_rate


def test_rate_follows_the_batch() -> None:
    assert initial_rate(OptimizerRecipe(), 512) == pytest.approx(0.1)
    assert initial_rate(OptimizerRecipe(), 128) == pytest.approx(0.025)
    assert initial_rate(OptimizerRecipe(lr_batch=0), 128) == 0.1


def test_published_steps() -> None:
    # 26 epochs, 0.1 for four processes of 128 images; a tenth from the epochs 8, 14, 20 and 25 on.
    schedule = load_recipe("pocketnet_s128_arcface").schedule
    rates = {1: 0.1, 7: 0.1, 8: 0.01, 13: 0.01, 14: 1e-3, 19: 1e-3, 20: 1e-4, 24: 1e-4, 25: 1e-5, 26: 1e-5}
    for epoch, rate in rates.items():
        for step in (0, 999):
            found = learning_rate(schedule, 0.1, (epoch - 1) * 1000 + step, 1000)
            assert found == pytest.approx(rate, rel=1e-12)


def test_warmup() -> None:
    schedule = ScheduleRecipe(epochs=10, milestones=(3,), warmup_epochs=0.5)
    rates = [learning_rate(schedule, 1.0, step, 8) for step in range(24)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[15:17] == pytest.approx([1.0, 0.1])


def test_cosine() -> None:
    schedule = ScheduleRecipe(epochs=4, kind="cosine", final_lr=0.1)
    rates = [learning_rate(schedule, 2.0, step, 2) for step in range(8)]
    # 2 * (0.1 + 0.9 * (1 + cos(pi * k / 8)) / 2) at k = 0, 4; it would be 0.2 after the last step.
    assert rates[0] == 2.0
    assert rates[4] == pytest.approx(1.1)
    assert rates[2] == pytest.approx(0.2 + 0.9 * (1 + 0.5**0.5))
    assert 0.2 < rates[7] < rates[6] < rates[5]
    warm = ScheduleRecipe(epochs=4, kind="cosine", warmup_epochs=1)
    assert learning_rate(warm, 2.0, 2, 2) == 2.0
    assert learning_rate(warm, 2.0, 5, 2) == pytest.approx(1.0)
