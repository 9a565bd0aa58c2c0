"""JSON as its standard has it, which knows neither NaN nor infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(content: Any, *, indent: int | None = None) -> str:
    """Write numbers, text, lists and dictionaries as JSON; what is not finite becomes ``null``.

    Args:
        content: What ``json.dumps`` takes.
        indent: Spaces a level; None for one line.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
