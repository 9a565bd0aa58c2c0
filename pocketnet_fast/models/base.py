"""What every face recognition network of the package carries beside its parameters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.calibration import Calibration


@dataclass(frozen=True)
class InputSpec:
    """The images that a network was trained on.

    A pixel value ``v`` in 0..255 enters the network as ``(v / 255 - mean) / std``, per channel in the order
    of ``color``.

    Attributes:
        size: Height and width of the aligned face crop.
        mean: Per channel, on the scale 0..1.
        std: Per channel, on the scale 0..1.
        color: Channel order that the network expects, ``"rgb"`` or ``"bgr"``.
    """

    size: tuple[int, int] = (112, 112)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    color: str = "rgb"

    def check(self, images: Tensor) -> None:
        """Raise unless ``images`` is float N,3,height,width, the shape and kind that the forward takes.

        Raises:
            PocketNetError: Naming the shape or dtype found and the one expected.
        """
        expected = (3, *self.size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise PocketNetError(
                f"input has shape {tuple(images.shape)}; expected (N, {', '.join(map(str, expected))})"
            )
        if not images.is_floating_point():
            raise PocketNetError(f"input has dtype {images.dtype}; expected normalised floating-point pixels")

    def normalize(self, pixels: Tensor, *, color: str = "rgb") -> Tensor:
        """Turn uint8 images into the network's input.

        Args:
            pixels: uint8, N,height,width,3.
            color: Channel order of ``pixels``, ``"rgb"`` or ``"bgr"``.

        Returns:
            float32, N,3,height,width, contiguous.

        Raises:
            PocketNetError: Another dtype, shape or channel order.
        """
        if color not in ("rgb", "bgr"):
            raise PocketNetError(f"unknown channel order {color!r}; expected 'rgb' or 'bgr'")
        if pixels.dtype != torch.uint8 or pixels.dim() != 4 or tuple(pixels.shape[1:]) != (*self.size, 3):
            raise PocketNetError(
                f"images have dtype {pixels.dtype} and shape {tuple(pixels.shape)}; "
                f"expected torch.uint8 and (N, {self.size[0]}, {self.size[1]}, 3)"
            )
        if color != self.color:
            pixels = pixels.flip(-1)
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        scaled = (pixels.to(torch.float32) / 255.0 - mean) / std
        return scaled.permute(0, 3, 1, 2).contiguous()


class EmbeddingModel(nn.Module):
    """A network from normalised face crops N,3,112,112 to embeddings N,``embedding_dim`` (not L2-normalised).

    Attributes:
        input_spec: Size, normalisation and channel order of the input.
        embedding_dim: Length of an embedding.
        model_name: The registry's name of the architecture.
        weights_source: What ``load_weights`` or ``pretrained=True`` read; None if neither was used.
        calibration: The thresholds that came with the weights, if any did.
    """

    # Annotated in the constructor only: torch.jit.script cannot read postponed class annotations.
    def __init__(self, embedding_dim: int, input_spec: InputSpec | None = None) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise PocketNetError(f"embedding_dim is {embedding_dim}; expected a positive number")
        self.embedding_dim = embedding_dim
        self.input_spec = input_spec or InputSpec()
        self.model_name = type(self).__name__.lower()
        self.weights_source: str | None = None
        self.calibration: Calibration | None = None

    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the embeddings and keep feature maps on the way, which another network can be taught.

        Args:
            x: As in ``forward``.
            names: "tail" is the map that the global depthwise convolution reads, a number the last map of
                that height: "56", "28", "14" or "7" for an input of 112.

        Returns:
            The embeddings, and the maps by name, N,channels,height,width.

        Raises:
            PocketNetError: The architecture has no such map.
        """
        raise PocketNetError(f"{self.model_name} keeps no feature maps")

    def tail_layers(self) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """The layers after the map "tail": global depthwise, normalisation, pointwise, normalisation.

        Raises:
            PocketNetError: The architecture has no such tail.
        """
        raise PocketNetError(f"{self.model_name} has no tail of a global depthwise convolution")

    def _check_maps(self, maps: Collection[str], names: Collection[str]) -> None:
        missing = [name for name in names if name not in maps]
        if missing:
            raise PocketNetError(f"{self.model_name} has no feature map {', '.join(missing)}")
