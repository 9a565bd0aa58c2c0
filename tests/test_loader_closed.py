"""A loader that is closed ends its workers, also where an exception keeps its iterator alive to the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from faces import write_records

SCRIPT = """
import contextlib, sys
from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.loader import make_loader
from pocketnet_fast.data.records import RecordDataset

loader = make_loader(
    RecordDataset(sys.argv[1]), batch_size=1, augmentation=Augmentation(), seed=0, workers=1
)
kept = []
with contextlib.closing(iter(loader)) as batches:
    kept.append(batches)
    next(batches)
    raise ImportError("in the middle of an epoch")
"""


def test_an_exception_in_a_step_ends_the_process(tmp_path: Path) -> None:
    records = write_records(tmp_path / "a.rec", [[number] for number in range(40)])
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(records)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1
    assert "in the middle of an epoch" in result.stderr
