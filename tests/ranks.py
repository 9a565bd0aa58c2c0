"""Processes of a gloo group that leave their results in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def run_ranks(worker: Callable[[int, str], None], folder: Path, ranks: int) -> list[Any]:
    """Run ``worker(rank, folder)`` in each process; returns what each saved as ``{rank}.pt`` there."""
    paths = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), paths]))
    try:
        mp.spawn(worker, (str(folder),), nprocs=ranks)
    finally:
        os.environ["PYTHONPATH"] = paths
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
