"""The subjects under pytest-benchmark; for comparisons, `run.py` lets them take turns."""

from __future__ import annotations

import pytest
import torch
from subjects import SUBJECTS, UnavailableError, agreement, batch_of, by_name, network

# A subject with an environment of its own needs a process of its own, which benchmarks/run.py gives it.
IN_PROCESS = [subject.name for subject in SUBJECTS if not subject.environment]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("subject", IN_PROCESS)
def test_inference(benchmark, subject, batch):
    chosen = by_name(subject)
    x = batch_of(batch)
    with torch.no_grad():
        expected = network("pocketnet_s128")(x)
        try:
            chosen.require()
            run = chosen.build(network("pocketnet_s128"), x, 1)
        except UnavailableError as error:
            pytest.skip(str(error))
        assert agreement(run(x).clone(), expected).within(chosen)
        benchmark.group = f"inference, batch {batch}"
        benchmark.pedantic(run, (x,), rounds=20, warmup_rounds=2)
