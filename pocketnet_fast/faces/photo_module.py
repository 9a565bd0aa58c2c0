"""The whole way from a photo to embeddings as one torch module, for TorchScript and AOTInductor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketnet_fast.data.alignment import CROP_SIZE


class PhotoModule(nn.Module):
    """Finds the faces of a photo and embeds them; made by ``FaceAnalyzer.as_module``.

    Args:
        detector: int32 words and float32 weights of a YuNet, lowered for the photo's channel order.
        embedder: From uint8 N,112,112,3 in the same order to embeddings of any length.
        least_score: Faces below it are left out.
        upright: Find out which way up the photo is.
        max_faces: The most prominent ones; 0: all.
    """

    def __init__(
        self,
        detector: tuple[Tensor, Tensor],
        embedder: nn.Module,
        *,
        least_score: float,
        upright: bool,
        max_faces: int,
    ) -> None:
        super().__init__()
        from pocketnet_fast.ops import align_faces, find_faces  # noqa: F401  (registers the operators)

        program, weights = detector
        self.register_buffer("program", program)
        self.register_buffer("weights", weights)
        self.embedder = embedder
        self.least_score = least_score
        self.upright = upright
        self.max_faces = max_faces
        self.side = CROP_SIZE

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find and embed the faces of a photo.

        Args:
            photo: uint8 H,W,3 of any size and strides.

        Returns:
            float32: boxes N,4 (left, top, width, height) and landmarks N,5,2 in pixels of the photo as given,
            scores N, and embeddings N,D of length 1; the most prominent face first. Doubtful faces are left
            out, so that nothing is decided by them; N may be 0.
        """
        found: Tensor = torch.ops.pocketnet_fast.find_faces(
            photo, self.program, self.weights, self.least_score, self.upright, 0
        )
        if self.max_faces > 0:
            found = found[: self.max_faces]
        found = found[found[:, 15] == 0]
        landmarks = found[:, 4:14].reshape(found.size(0), 5, 2)
        crops: Tensor = torch.ops.pocketnet_fast.align_faces(photo, landmarks, self.side)
        return (
            found[:, :4].to(torch.float32),
            landmarks.to(torch.float32),
            found[:, 14].to(torch.float32),
            self.embed(crops),
        )

    @torch.jit.export
    def embed(self, crops: Tensor) -> Tensor:
        """Embed aligned crops, as ``forward`` does with those that it cuts out of a photo.

        Args:
            crops: uint8 N,112,112,3, in the channel order of the photos.

        Returns:
            float32 N,D of length 1.
        """
        embeddings: Tensor = self.embedder(crops)
        return functional.normalize(embeddings)


class WithMirrorImage(nn.Module):
    """The sum of the embeddings of uint8 N,112,112,3 crops and of their mirror images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        """Embed crops."""
        out: Tensor = self.network(crops) + self.network(crops.flip(2))
        return out
