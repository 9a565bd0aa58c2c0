"""What there is to see in a dataset: counts, damaged images, and a sheet of some of its faces."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray, encode_image
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

# The size of a sheet.
_ROWS: Final = 8
_COLUMNS: Final = 8


def damaged_images(dataset: FaceDataset, on_image: Callable[[], None] = lambda: None) -> dict[int, str]:
    """Why an image cannot be used, by index; ``on_image`` is called after each, for progress."""
    found = {}
    for index in range(len(dataset)):
        try:
            dataset.image(index)
        except PocketNetError as error:
            found[index] = str(error)
        on_image()
    return found


def described(dataset: FaceDataset) -> dict[str, Any]:
    """What there is to say about a dataset without decoding an image, as JSON has it."""
    counts = np.bincount(dataset.labels, minlength=dataset.classes)
    about: dict[str, Any] = {
        "source": dataset.name,
        "kind": type(dataset).__name__.removesuffix("Dataset").lower(),
        "images": len(dataset),
        "identities": dataset.classes,
        "images_per_identity": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
        },
        "size": [CROP_SIZE, CROP_SIZE],
    }
    if isinstance(dataset, RecordDataset):
        about["bytes"] = dataset.file.path.stat().st_size
        about["index_rebuilt"] = dataset.file.index_was_rebuilt
    return about


def write_sheet(dataset: FaceDataset, damaged: Container[int], path: Path) -> None:
    """Draw the first images of identities that are spread over the dataset, one row each.

    Args:
        dataset: What is drawn.
        damaged: Images that are left out.
        path: The picture, whose name says its kind.

    Raises:
        PocketNetError: No image is left, or the file cannot be written.
    """
    rows = []
    shown = np.unique(np.linspace(0, dataset.classes - 1, _ROWS).round().astype(int))
    for label in shown:
        held = [int(index) for index in np.flatnonzero(dataset.labels == label) if index not in damaged]
        rows.append(held[:_COLUMNS])
    columns = max(map(len, rows))
    if columns == 0:
        raise PocketNetError(
            f"{dataset.name} has no image to show: all those of the identities drawn are damaged"
        )
    side = CROP_SIZE
    sheet: ImageArray = np.full((len(rows) * side, columns * side, 3), 255, np.uint8)
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            tile: npt.NDArray[np.uint8] = dataset.image(index)
            sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    with atomic_write(path) as file:
        file.write(encode_image(sheet, path.suffix.lower()))
