"""pyarrow, which reads and writes parquet, where it is installed."""

from __future__ import annotations

from typing import Any

from pocketnet_fast.errors import PocketNetError


def require_pyarrow() -> Any:
    """The package.

    Raises:
        PocketNetError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise PocketNetError(
            'pyarrow is not installed, which reads and writes parquet: pip install "pocketnet_fast[parquet]"'
        ) from None
    return pyarrow
