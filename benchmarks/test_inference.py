"""The subjects under pytest-benchmark: pytest benchmarks -o addopts= --benchmark-group-by=param:batch."""

from __future__ import annotations

import pytest
import torch
from subjects import SUBJECTS, UnavailableError, agreement, batch_of, limit_threads, network

# A subject with an environment of its own needs a process of its own, which benchmarks/run.py gives it.
IN_PROCESS = [subject for subject in SUBJECTS if not subject.environment]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("subject", IN_PROCESS, ids=lambda subject: subject.name)
@pytest.mark.filterwarnings("ignore")
def test_inference(benchmark, subject, batch):
    limit_threads(1)
    x = batch_of(batch)
    with torch.no_grad():
        expected = network("pocketnet_s128")(x)
        try:
            subject.require()
            run = subject.build(network("pocketnet_s128"), x, 1)
        except UnavailableError as error:
            pytest.skip(str(error))
        assert agreement(run(x).clone(), expected).within(subject)
        benchmark.pedantic(run, (x,), rounds=20, warmup_rounds=2)
