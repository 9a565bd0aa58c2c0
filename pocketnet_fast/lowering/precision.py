"""Choosing a precision for the CPU by measurement: the fastest whose embeddings stay near those of fp32."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError

PRECISIONS = ("fp32", "bf16")
"""What ``compile`` takes on the CPU besides ``"auto"``."""

MIN_COSINE = 0.998
"""The bound that ``compile(precision="auto")`` sets unless it is given another."""

_ROUNDS = 9
_IMAGES = 16


@dataclass(frozen=True)
class Choice:
    """A precision, and what was measured of each.

    Attributes:
        precision: The chosen one.
        milliseconds: By precision, the median for one image.
        min_cosine: By precision, the smallest cosine between an image's embedding and that of fp32.
        bound: What ``min_cosine`` had to reach.
    """

    precision: str
    milliseconds: dict[str, float]
    min_cosine: dict[str, float]
    bound: float

    def __str__(self) -> str:
        measured = ", ".join(
            f"{name} {time:.2f} ms an image, cosine to fp32 at least {self.min_cosine[name]:.5f}"
            for name, time in self.milliseconds.items()
        )
        return f"precision {self.precision}: the fastest whose cosine stays above {self.bound} ({measured})"


def synthetic_calibration() -> Tensor:
    """Rendered faces, uint8 N,112,112,3."""
    from pocketnet_fast.data.synthetic import SyntheticDataset

    faces = SyntheticDataset(identities=_IMAGES, images=1, seed=7)
    return torch.from_numpy(np.stack([faces.image(i) for i in range(_IMAGES)]))


Network = TypeVar("Network", bound=nn.Module)


def choose_precision(
    build: Callable[[str], Network], calibration: Tensor | None, bound: float
) -> tuple[Network, Choice]:
    """Build a network in every precision, and take the fastest that is faithful enough.

    Args:
        build: Makes the network of a precision.
        calibration: Images as the network takes them, at least one; None for rendered faces. Faces as the
            network will see them say more.
        bound: Smallest accepted cosine of an embedding to that of fp32.

    Returns:
        The network and the choice.

    Raises:
        PocketNetError: There are no images, or the bound is no cosine.
    """
    if not 0.0 < bound <= 1.0:
        raise PocketNetError(f"min_cosine is {bound}; expected more than 0 and at most 1")
    images = synthetic_calibration() if calibration is None else calibration
    if images.dim() != 4 or images.shape[0] == 0:
        raise PocketNetError(
            f"calibration has the shape {list(images.shape)}; expected at least one image, as the network "
            "takes it"
        )
    networks = {name: build(name) for name in PRECISIONS}
    with torch.no_grad():
        embeddings = {name: network(images) for name, network in networks.items()}
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(_ROUNDS):
            for name, network in networks.items():
                start = time.perf_counter()
                network(images[:1])
                seconds[name].append(time.perf_counter() - start)
    milliseconds = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    cosines = {
        name: float(torch.cosine_similarity(found.double(), embeddings["fp32"].double()).min())
        for name, found in embeddings.items()
    }
    # fp32 is its own measure, whatever rounding makes of its cosine.
    faithful = [name for name in networks if name == "fp32" or cosines[name] >= bound]
    precision = min(faithful, key=lambda name: milliseconds[name])
    return networks[precision], Choice(precision, milliseconds, cosines, bound)
