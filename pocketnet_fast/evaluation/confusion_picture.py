"""A picture of the worst confusions of an identification: who was searched, who was found, who it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.files import atomic_write
from pocketnet_fast.pictures import picture

ImageArray = npt.NDArray[np.uint8]

_CROP: Final = 1.25
_CAPTION: Final = 0.42


@dataclass(frozen=True, eq=False)
class ConfusedFaces:
    """One confusion, as it is drawn.

    Attributes:
        crops: 112 x 112 x 3 uint8, RGB: of the probe, of the other person's face, of the own person's.
        captions: A line for each.
    """

    crops: tuple[ImageArray, ImageArray, ImageArray]
    captions: tuple[str, str, str]


def draw_confusions(path: Path, confusions: list[ConfusedFaces], title: str) -> None:
    """Draw confusions row by row to a .png file.

    Raises:
        PocketNetError: matplotlib is not installed, or the file cannot be written.
    """
    size = (3 * _CROP + 2.4, len(confusions) * (_CROP + _CAPTION) + 0.6)
    with atomic_write(path) as stream, picture(stream, "png", size) as figure:
        figure.suptitle(title)
        grid = figure.subplots(len(confusions), 3, squeeze=False)
        for row, confused in zip(grid, confusions, strict=True):
            for axes, crop, caption in zip(row, confused.crops, confused.captions, strict=True):
                axes.imshow(crop)
                # Names are text, not formulas.
                axes.set_title(caption, fontsize=7, parse_math=False)
                axes.set_axis_off()
