"""Options of several commands: their types, and groups of those that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import DEFAULT_MODEL, load_model, load_network
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.export.exported import ExportedModel
    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.faces.sources import FaceSource
    from pocketnet_fast.models.base import EmbeddingModel

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="The network, if a weight file does not tell; `pocketnet info` lists them. Without weights: "
        f"the package's, default {DEFAULT_MODEL}.",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Trained weights: .safetensors, .pth and the like, a MobileFaceNet's .onnx, or a training run's "
        "folder, of which the newest are taken, averaged ones if it has them; where faces are embedded, a "
        ".pt of `pocketnet export`, too. Default: those of the package.",
        show_default=False,
    ),
]
UntrainedOption = Annotated[
    bool, typer.Option("--untrained", help="Accept random weights; results then mean nothing.")
]
AlignedOption = Annotated[
    bool, typer.Option("--aligned", help="The images are aligned crops of 112x112; detect nothing.")
]
DetectorOption = Annotated[
    Path | None,
    typer.Option(help="Another YuNet file; default: $POCKETNET_DETECTOR or the one that ships."),
]
UprightOption = Annotated[
    bool,
    typer.Option(
        "--upright/--no-upright",
        help="Find out which way up a photo is, and look along the tilt of faces. Without it, photos must be "
        "upright as they are given.",
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        help="fused, eager, torchscript, or auto: fused for a PocketNet, eager for other models, torchscript "
        "for an exported file."
    ),
]
FlipOption = Annotated[
    bool, typer.Option("--flip/--no-flip", help="Add the embeddings of the mirror images.")
]
PhotoBatchOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Crops per call of the network; of photos 4 at most on the fused kernels, where more are no "
        "quicker.",
    ),
]
CropBatchOption = Annotated[int, typer.Option(min=1, help="Images per call.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; default: as many as PyTorch uses.")]
MaxFacesOption = Annotated[
    int | None, typer.Option("--max-faces", min=1, help="Of a photo, the most prominent; default: all.")
]
_SKIP = "Leave out {} that cannot be used, naming each."
SkipOption = Annotated[bool, typer.Option("--skip", help=_SKIP.format("photos"))]
SkipImagesOption = Annotated[bool, typer.Option("--skip", help=_SKIP.format("images"))]
FarOption = Annotated[
    float | None,
    typer.Option(
        help="Decide at this false accept rate, one of those that the weights were calibrated for; default: "
        "the weights' own, 1e-4 where they carry it.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class NetworkOptions:
    """Which network, with which weights."""

    model: ModelOption = None
    weights: WeightsOption = None
    untrained: UntrainedOption = False

    def trained_model(self) -> EmbeddingModel:
        """Build the network from weights; see ``load_model``."""
        return load_model(self.model, self.weights, self.untrained)

    def network(self) -> EmbeddingModel | ExportedModel:
        """Build the network from weights or from an exported file; see ``load_network``."""
        return load_network(self.model, self.weights, self.untrained)


@dataclass(frozen=True)
class EngineOptions(NetworkOptions):
    """Which network, and what runs it.

    Attributes:
        batch: Crops per call of the network; an option in classes that say so.
    """

    engine: EngineOption = "auto"
    threads: ThreadsOption = None
    batch: int = 32

    def embedder(self, *, flip: bool) -> Embedder:
        """Build what embeds aligned crops, saying so where the fused kernels cannot run the network.

        Args:
            flip: Add the embeddings of the mirror images.

        Raises:
            PocketNetError: See ``load_network`` and ``Embedder``.
        """
        from pocketnet_fast.faces.pipeline import Embedder, check_engine

        check_engine(self.engine)
        return _announced(
            Embedder(
                self.network(), engine=self.engine, flip=flip, threads=self.threads, batch_size=self.batch
            )
        )


@dataclass(frozen=True)
class CropOptions(EngineOptions):
    """Which network, and what runs it on many aligned crops."""

    batch: CropBatchOption = 32


@dataclass(frozen=True)
class FaceOptions(EngineOptions):
    """How a few photos, or aligned crops, become embedded faces: in all commands in the same way."""

    aligned: AlignedOption = False
    detector: DetectorOption = None
    upright: UprightOption = True
    flip: FlipOption = True

    def source(self) -> FaceSource:
        """Build what faces are taken from.

        Raises:
            PocketNetError: See ``embedder``; or ``aligned`` and ``detector`` are both given, or the
                detector's model file is missing or unusable.
        """
        from pocketnet_fast.faces.analyzer import FaceAnalyzer
        from pocketnet_fast.faces.detector import find_detector
        from pocketnet_fast.faces.pipeline import check_engine
        from pocketnet_fast.faces.sources import FaceSource

        if self.aligned:
            if self.detector is not None:
                raise PocketNetError("--aligned and --detector exclude each other")
            return FaceSource(self.embedder(flip=self.flip))
        check_engine(self.engine)
        find_detector(self.detector)
        analyzer = FaceAnalyzer(
            model=self.network(),
            detector=self.detector,
            engine=self.engine,
            flip=self.flip,
            upright=self.upright,
            threads=self.threads,
            batch_size=self.batch,
        )
        _announced(analyzer.embedder)
        return FaceSource(analyzer)

    def facts(self) -> dict[str, Any]:
        """What a file of embeddings says of how they were made."""
        switches = {name: getattr(self, name) for name in ("flip", "untrained", "aligned", "upright")}
        return switches | {"detector": None if self.detector is None else self.detector.name}


@dataclass(frozen=True)
class ManyFacesOptions(FaceOptions):
    """How many photos, or aligned crops, become embedded faces."""

    batch: PhotoBatchOption = 32


def _announced(embedder: Embedder) -> Embedder:
    if embedder.note is not None:
        note(f"running eager PyTorch: {embedder.note}")
    return embedder
