"""Places buffers in one arena so that only those alive at the same time lie apart."""

from __future__ import annotations

from collections.abc import Sequence

from pocketnet_fast.lowering.plan import Buffer


def place(buffers: Sequence[Buffer], lifetimes: Sequence[tuple[int, int]]) -> int:
    """Set the offsets of ``buffers`` and return the floats that hold them all.

    Large buffers first, each at the lowest offset that is free during its whole life.

    Args:
        buffers: What to place.
        lifetimes: For each, the first and the last time at which it is in use, both included.
    """
    placed: list[tuple[Buffer, tuple[int, int]]] = []
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].floats, lifetimes[i]))
    for index in order:
        buffer, (born, dies) = buffers[index], lifetimes[index]
        rivals = sorted(
            (other.offset, other.offset + other.floats)
            for other, (other_born, other_dies) in placed
            if other_born <= dies and born <= other_dies
        )
        offset = 0
        for begin, end in rivals:
            if offset + buffer.floats <= begin:
                break
            offset = max(offset, end)
        buffer.offset = offset
        placed.append((buffer, lifetimes[index]))
    return max((buffer.offset + buffer.floats for buffer in buffers), default=0)
