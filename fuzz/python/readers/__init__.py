"""What is fuzzed in Python: every reader of bytes that come from elsewhere.

A reader gives a result or a ``PocketNetError``; whatever else it does with any bytes, a warning and a line on
the terminal included, is a defect. ``run.py`` looks for such bytes; ``tests/test_fuzz_corpora.py`` replays
what it found.
"""

from __future__ import annotations

from readers import galleries, images, networks, recipes, training_data, verification
from readers.judgement import Finding, judge, remove_folder
from readers.target import BETWEEN, CORPORA, Target

__all__ = ["BETWEEN", "CORPORA", "TARGETS", "Finding", "Target", "remove_folder", "try_reader"]

TARGETS = {
    name: target
    for room in (training_data, verification, recipes, networks, images, galleries)
    for name, target in room.TARGETS.items()
}


def try_reader(name: str, data: bytes) -> bool:
    """Read an input by a target; returns whether it was accepted.

    Raises:
        Finding: The reader neither gave a result nor refused.
    """
    return judge(name, TARGETS[name].read, data)
