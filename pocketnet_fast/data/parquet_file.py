"""pyarrow, which reads and writes parquet, where it is installed."""

from __future__ import annotations

from typing import Any

from pocketnet_fast.extras import package_of


def require_pyarrow() -> Any:
    """The package.

    Raises:
        PocketNetError: It is not installed.
    """
    return package_of("parquet", "pyarrow", "reads and writes parquet")
