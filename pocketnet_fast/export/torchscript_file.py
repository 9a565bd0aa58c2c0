"""TorchScript files of this package, as they are read."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import METADATA_FILE


@contextlib.contextmanager
def quiet_about_torchscript() -> Iterator[None]:
    """Deprecated in favour of torch.export, but what C++ programs without Python load on every torch."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", r".*torch\.jit\.", category)
        yield


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a file that ``export_torchscript`` wrote, without running it.

    Raises:
        PocketNetError: The file is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(f"/extra/{METADATA_FILE}"))
            content = json.loads(archive.read(name))
        if not isinstance(content, dict):
            raise ValueError("the metadata are no object")
    except Exception as problem:
        # zipfile and zlib raise many unrelated types on damaged files.
        raise PocketNetError(f"{path}: not a TorchScript file of pocketnet_fast") from problem
    return content
