"""Calls of one process that take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any


def take_turns(calls: Mapping[str, Callable[[], Any]], rounds: int, in_a_row: int) -> dict[str, list[float]]:
    """Milliseconds of calls, in a new order every round; the first call of a turn does not count.

    Args:
        calls: By name.
        rounds: Turns of each.
        in_a_row: Calls of a turn that count.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(calls), len(calls)):
            calls[name]()
            for _ in range(in_a_row):
                start = time.perf_counter()
                calls[name]()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times
