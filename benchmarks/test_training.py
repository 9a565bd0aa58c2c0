"""The loss, a training step and a step of the search, at sizes that one process holds side by side."""

from __future__ import annotations

import margin_cross_entropy
import pytest
import search_step
import training_step

# What torch.compile needs to begin would outlast what is measured.
NOT_HERE = ("compiled", "torch.compile")


def in_process(subjects):
    """Those that need no environment of their own."""

    def environment(subject):
        return subject[0] if isinstance(subject, tuple) else getattr(subject, "environment", None)

    return [n for n, s in subjects.items() if n not in NOT_HERE and not environment(s)]


@pytest.mark.parametrize("classes", [10_000])
@pytest.mark.parametrize("subject", in_process(margin_cross_entropy.SUBJECTS))
def test_loss(benchmark, subject, classes):
    problem = margin_cross_entropy.inputs(64, 128, classes)
    step = margin_cross_entropy.SUBJECTS[subject]()
    benchmark.group = f"loss, {classes:,} classes"
    benchmark.pedantic(step, problem, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("batch", [4])
@pytest.mark.parametrize("network", ["pocketnet_s128"])
@pytest.mark.parametrize("subject", in_process(training_step.SUBJECTS))
def test_training_step(benchmark, subject, network, batch):
    model, images = training_step.build(subject, network, batch)
    benchmark.group = f"training step, {network}, batch {batch}"
    half = training_step.SUBJECTS[subject].half
    benchmark.pedantic(training_step.step, (model, images, half), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("batch", [2])
@pytest.mark.parametrize("subject", in_process(search_step.SUBJECTS))
def test_search_step(benchmark, subject, batch, order):
    step = search_step.build(subject, channels=8, layers=4, batch=batch, order=order)
    benchmark.group = f"search step, batch {batch}, order {order}"
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
