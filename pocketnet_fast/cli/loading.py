"""What the commands that embed faces share: their options, and a model that is never silently random."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.data.image_folder import ImagesBelow
    from pocketnet_fast.export.exported import ExportedModel
    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.faces.sources import EmbeddedFace, FaceSource
    from pocketnet_fast.models.base import EmbeddingModel

DEFAULT_MODEL: Final = "pocketnet_s128"

# Files that a remark names.
_SHOWN: Final = 5

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
BatchOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Crops per call of the network; of photos 4 at most on the fused kernels, where more are no "
        "quicker.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; default: as many as PyTorch uses.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def note(text: str) -> None:
    """Print a remark where it does not mix with results."""
    typer.echo(f"pocketnet: {text}", err=True)


@dataclass
class SeveralFaces:
    """Remembers the photos with several faces, of which one was taken, and says so in the end.

    Attributes:
        shown: The first of them with their numbers of faces.
        count: How many there are.
    """

    shown: list[tuple[str, int]] = field(default_factory=list)
    count: int = 0

    def add(self, face: EmbeddedFace) -> None:
        """Take note of a photo."""
        if len(face.faces) > 1:
            self.join(SeveralFaces([(face.path, len(face.faces))], 1))

    def join(self, others: SeveralFaces) -> None:
        """Take note of photos that others took note of."""
        self.shown = [*self.shown, *others.shown][:_SHOWN]
        self.count += others.count

    def say(self) -> None:
        """Name the first photos and count the rest."""
        for path, count in self.shown:
            note(f"{path} shows {count} faces; the most prominent was taken")
        if self.count > len(self.shown):
            note(f"so do {self.count - len(self.shown):,} more photos")


def photos_below(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, sorted; says which files were passed over.

    Raises:
        PocketNetError: there is none.
    """
    return _found_below(folder).images


def all_photos(given: list[Path], passed_over: list[tuple[Path, str]] | None = None) -> list[Path]:
    """The files among what was given, and for each folder the images in it.

    Args:
        given: Files and folders.
        passed_over: Takes the files of folders that are no images that are read, with what they are.

    Raises:
        PocketNetError: a folder holds none.
    """
    photos = []
    for one in given:
        if not one.is_dir():
            photos.append(one)
            continue
        found = _found_below(one)
        photos += found.images
        if passed_over is not None:
            passed_over += found.others
    return photos


def _found_below(folder: Path) -> ImagesBelow:
    from pocketnet_fast.data.folder import IMAGE_SUFFIXES
    from pocketnet_fast.data.image_folder import images_below

    found = images_below(folder)
    if found.others:
        named = [f"{path.relative_to(folder)} ({kind})" for path, kind in found.others[:_SHOWN]]
        more = f" and {len(found.others) - _SHOWN:,} more" if len(found.others) > _SHOWN else ""
        files = "1 file" if len(found.others) == 1 else f"{len(found.others):,} files"
        note(f"{folder}: passed over {files}: {', '.join(named)}{more}")
    if not found.images:
        raise PocketNetError(f"{folder} holds no image; expected files {', '.join(IMAGE_SUFFIXES)}")
    return found


def weight_file(weights: Path) -> Path:
    """The file that ``--weights`` means: itself, or of a training run's folder the newest (averaged) weights.

    Raises:
        PocketNetError: the folder is no training run's or holds no weights yet.
    """
    if not weights.is_dir():
        return weights
    from pocketnet_fast.training.checkpoint import newest_weights

    file = newest_weights(weights)
    note(f"taking the weights {file}")
    return file


def load_model(name: str | None, weights: Path | None, untrained: bool) -> EmbeddingModel:
    """Build a model with trained weights, or, only if asked to, with random ones (seed 0) and a warning.

    Args:
        name: The architecture; None: what the weight file says, or without one the default.
        weights: See ``weight_file``; None for those of the package.
        untrained: Accept random weights.

    Raises:
        PocketNetError: there are no trained weights and ``untrained`` is not set, or both are given; or the
            file is of another network than ``name``, or of none that can be told.
    """
    import torch

    if weights is not None and not untrained:
        return _load_file(name, weight_file(weights))
    name = name or DEFAULT_MODEL

    from pocketnet_fast.models.registry import PRETRAINED, create_model

    if untrained:
        if weights is not None:
            raise PocketNetError("--weights and --untrained exclude each other")
        torch.manual_seed(0)
        model = create_model(name)
        note(f"warning: {name} is untrained (random weights); its results say nothing about faces")
        return model
    if name in PRETRAINED:
        return create_model(name, pretrained=True)
    create_model(name)  # an unknown name is the more useful error
    raise PocketNetError(
        f"no trained weights ship for {name}: pass --weights FILE (or --untrained, to try things out)"
    )


def _load_file(name: str | None, path: Path) -> EmbeddingModel:
    from pocketnet_fast.models.identification import architecture_for, build_for
    from pocketnet_fast.models.weights import read_weights

    file = read_weights(path)
    architecture = architecture_for(file, name)
    if not architecture.stated and name is None:
        note(f"{path} does not name its network; by its keys and shapes it is {architecture}")
    return build_for(file, architecture)


def load_network(name: str | None, weights: Path | None, untrained: bool) -> EmbeddingModel | ExportedModel:
    """``load_model``, or the network of a file that ``export_torchscript`` wrote.

    Raises:
        PocketNetError: See ``load_model`` and ``load_exported``.
    """
    from pocketnet_fast.export.exported import is_exported, load_exported

    if weights is not None and not untrained and is_exported(weights):
        return load_exported(weights)
    return load_model(name, weights, untrained)


def load_embedder(
    name: str | None,
    weights: Path | None,
    untrained: bool,
    *,
    engine: str,
    flip: bool,
    threads: int | None,
    batch: int,
) -> Embedder:
    """Build the model and its engine, saying so when the fused kernels cannot run it.

    Args:
        name: See ``load_model``; an exported file's own holds instead.
        weights: See ``load_model``; or a file that ``export_torchscript`` wrote.
        untrained: Accept random weights.
        engine: See ``Embedder``, as for the others.
        flip: Add the embeddings of the mirror images.
        threads: Of one call.
        batch: Images per call.

    Raises:
        PocketNetError: see ``load_model``, ``load_exported`` and ``Embedder``.
    """
    from pocketnet_fast.faces.pipeline import Embedder, check_engine

    check_engine(engine)
    model = load_network(name, weights, untrained)
    return _announced(Embedder(model, engine=engine, flip=flip, threads=threads, batch_size=batch))


def load_source(
    name: str | None,
    weights: Path | None,
    untrained: bool,
    *,
    aligned: bool,
    detector: Path | None,
    upright: bool,
    engine: str,
    flip: bool,
    threads: int | None,
    batch: int = 32,
) -> FaceSource:
    """Build what every command takes faces from, so that a photo has one crop and one embedding in all.

    Args:
        name: See ``load_embedder``, as for those not named here.
        weights: Likewise.
        untrained: Likewise.
        aligned: Whether images are aligned crops, in which nothing is detected.
        detector: Another model file than ``find_detector`` finds.
        upright: Find out which way up photos are.
        engine: Likewise.
        flip: Likewise.
        threads: Likewise; of photos, as many are looked at at a time.
        batch: Likewise.

    Raises:
        PocketNetError: See ``load_embedder``; or ``aligned`` and ``detector`` are both given, or the
            detector's model file is missing or unusable.
    """
    from pocketnet_fast.faces.analyzer import FaceAnalyzer
    from pocketnet_fast.faces.detector import find_detector
    from pocketnet_fast.faces.pipeline import check_engine
    from pocketnet_fast.faces.sources import FaceSource

    if aligned:
        if detector is not None:
            raise PocketNetError("--aligned and --detector exclude each other")
        return FaceSource(
            load_embedder(name, weights, untrained, engine=engine, flip=flip, threads=threads, batch=batch)
        )
    check_engine(engine)
    find_detector(detector)
    analyzer = FaceAnalyzer(
        model=load_network(name, weights, untrained),
        detector=detector,
        engine=engine,
        flip=flip,
        upright=upright,
        threads=threads,
        batch_size=batch,
    )
    _announced(analyzer.embedder)
    return FaceSource(analyzer)


def _announced(embedder: Embedder) -> Embedder:
    if embedder.note is not None:
        note(f"running eager PyTorch: {embedder.note}")
    return embedder
