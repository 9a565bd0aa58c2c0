"""YuNet (Wu et al., Machine Intelligence Research 2023), the face detector, in plain PyTorch.

A pyramid of separable units, each a pointwise and a depthwise 3x3 convolution with ReLU, whose states at
strides 8, 16 and 32 are merged from the coarsest to the finest. At each place of the three, the last unit
tells a face's class and objectness, box and landmarks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.onnx_graph import Constants, Graph, read_constants
from pocketnet_fast.models.shipped import ShippedFile, verified
from pocketnet_fast.models.weights import load_weights

STRIDES: Final = (8, 16, 32)
"""Pixels of the image for a place of each map."""

# Class and objectness as logits, the box, and five landmarks; the last two in strides from the place.
CHANNELS: Final = 16
_HEADS: Final = (("class", 1), ("box", 4), ("objectness", 1), ("landmarks", 10))
_PLACES: Final = {"class": 0, "objectness": 1, "box": 2, "landmarks": 6}

SHIPPED: Final = ShippedFile(
    "yunet.safetensors", "261a3517f2fd4fb668138c2c60b68f3d6792e3a2c62b26b1e245ab89a70a5a83"
)
"""The weights of OpenCV Zoo's face_detection_yunet_2023mar.onnx (MIT, notice beside them)."""

# What the published graph does to maps after the last convolution, which leaves these as they are.
_SAME: Final = ("Flatten", "Reshape", "Transpose", "Sigmoid", "Sub", "Mul", "Div")

_STAGES: Final = (((16, 32), False), ((32, 64), False), ((64, 64), True), ((64, 64), True), ((64, 64), True))


class SeparableUnit(nn.Module):
    """A pointwise convolution and a depthwise 3x3, each with a bias, then ReLU if ``active``."""

    def __init__(self, channels_in: int, channels: int, active: bool = True) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(channels_in, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        x = self.depthwise(self.pointwise(x))
        return functional.relu(x) if self.active else x


class YuNet(nn.Module):
    """The detector.

    Input float N,3,H,W, values 0..255, BGR, H and W multiples of 32; output its maps N,16,H/s,W/s of strides
    8, 16 and 32: class and objectness (logits), box, landmarks.

    Attributes:
        input_spec: As of the embedding networks, but for the size, which is any.
        model_name: What its weight files name.
        weights_source: The file that they were read from, if they were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model_name = "yunet"
        self.weights_source: str | None = None
        self.input_spec = InputSpec((320, 320), (0.0,) * 3, (1 / 255,) * 3, "bgr")
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.first = SeparableUnit(16, 16)
        self.stages = nn.ModuleList(
            nn.Sequential(SeparableUnit(inner, inner), SeparableUnit(inner, outer))
            for (inner, outer), _ in _STAGES
        )
        self.laterals = nn.ModuleList(SeparableUnit(64, 64) for _ in STRIDES)
        self.heads = nn.ModuleList(SeparableUnit(64, CHANNELS, active=False) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the three maps."""
        x = functional.max_pool2d(self.first(functional.relu(self.stem(x))), 2)
        states = []
        for stage, (_, kept) in zip(self.stages, _STAGES, strict=True):
            x = stage(x)
            if kept:
                states.append(x)
            if kept and len(states) == len(STRIDES):
                break
            if stage is not self.stages[0]:
                x = functional.max_pool2d(x, 2)
        merged = [self.laterals[2](states[2])]
        for level in (1, 0):
            wider = functional.interpolate(merged[0], scale_factor=2, mode="nearest")
            merged.insert(0, self.laterals[level](states[level] + wider))
        return tuple(head(state) for head, state in zip(self.heads, merged, strict=True))

    def units(self) -> Iterator[SeparableUnit]:
        """All units but the heads, in the order of the published graph."""
        yield self.first
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            yield from stage  # type: ignore[misc]
        for level in (2, 1, 0):
            lateral = self.laterals[level]
            assert isinstance(lateral, SeparableUnit)
            yield lateral


def load_yunet(path: str | os.PathLike[str] | None = None) -> YuNet:
    """Load a detector in evaluation mode.

    Args:
        path: An ONNX file of its structure, such as OpenCV Zoo publishes, or weights that ``save_weights``
            wrote; None: those that ship with the package.

    Raises:
        PocketNetError: The file is missing, damaged or no YuNet.
    """
    if path is not None and Path(path).suffix == ".onnx":
        return read_onnx(path)
    return load_weights(YuNet(), verified(SHIPPED) if path is None else path).eval()


def read_onnx(path: str | os.PathLike[str]) -> YuNet:
    """Read the detector as OpenCV Zoo publishes it (``face_detection_yunet_2023mar.onnx``, MIT).

    Raises:
        PocketNetError: The file is no YuNet.
    """
    constants = iter(read_constants(Path(path), _trace, "YuNet", _SAME))
    model = YuNet().eval()
    with torch.no_grad():
        _fill(model.stem, next(constants))
        for unit in model.units():
            _fill(unit.pointwise, next(constants))
            _fill(unit.depthwise, next(constants))
        for name, channels in _HEADS:
            for head in model.heads:
                assert isinstance(head, SeparableUnit)
                part = slice(_PLACES[name], _PLACES[name] + channels)
                _fill(head.pointwise, next(constants), part)
                _fill(head.depthwise, next(constants), part)
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise PocketNetError(f"{path} holds weights that are not finite")
    return model


def _fill(convolution: nn.Conv2d, constants: Constants, part: slice = slice(None)) -> None:
    weight, bias = constants.folded()
    convolution.weight[part] = torch.tensor(weight)
    assert convolution.bias is not None
    convolution.bias[part] = torch.tensor(bias)


def _trace(graph: Graph) -> None:
    def unit(x: int, inputs: int, channels: int, active: bool = True) -> int:
        x = graph.convolution(x, channels, inputs, 1, 1, 1)
        x = graph.convolution(x, channels, channels, 3, 1, channels)
        return graph.add("Relu", (), x) if active else x

    def pool(x: int) -> int:
        return graph.add("MaxPool", (2, 2), x)

    x = graph.add("Relu", (), graph.convolution(-1, 16, 3, 3, 2, 1))
    x = pool(unit(x, 16, 16))
    states = []
    for number, ((inner, outer), kept) in enumerate(_STAGES):
        x = unit(unit(x, inner, inner), inner, outer)
        if kept:
            states.append(x)
        if 0 < number < len(_STAGES) - 1:
            x = pool(x)
    merged = [unit(states[2], 64, 64)]
    for level in (1, 0):
        wider = graph.add("Resize", (), merged[0])
        merged.insert(0, unit(graph.add("Add", (), states[level], wider), 64, 64))
    for _, channels in _HEADS:
        for state in merged:
            unit(state, 64, channels, active=False)
