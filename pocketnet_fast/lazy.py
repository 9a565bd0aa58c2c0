"""Names of a package that are loaded on first use, so that importing it stays cheap."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: Its ``__name__``.
        names: The names that come from each module.
    """
    namespace = vars(sys.modules[package])
    modules = {name: module for module, own in names.items() for name in own}

    def get(name: str) -> Any:
        module = modules.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(importlib.import_module(module), name)
        return value

    def listed() -> list[str]:
        return sorted({*namespace, *modules})

    return get, listed
