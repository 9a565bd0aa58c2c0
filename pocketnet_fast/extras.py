"""Packages that the extras of this one bring."""

from __future__ import annotations

import importlib
from typing import Any

from pocketnet_fast.errors import PocketNetError


def package_of(extra: str, module: str, purpose: str, *, name: str | None = None) -> Any:
    """Import a package of an extra.

    Args:
        extra: The extra that brings it.
        module: What is imported.
        purpose: What the message says of it.
        name: How the message calls it, if not by the module's name.

    Raises:
        PocketNetError: It is not installed.
    """
    try:
        # A part of a package that was loaded before is found without the package.
        importlib.import_module(module.partition(".")[0])
        return importlib.import_module(module)
    except ImportError:
        raise PocketNetError(
            f'{name or module} is not installed, which {purpose}: pip install "pocketnet_fast[{extra}]"'
        ) from None
