"""What the commands that embed faces share: their options, and a model that is never silently random."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.export.exported import ExportedModel
    from pocketnet_fast.faces.detector import FaceDetector
    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.models.base import EmbeddingModel

ModelOption = Annotated[
    str, typer.Option(help="Architecture; `pocketnet info` lists them. An exported file knows its own.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Trained weights, .safetensors or .pth, or, where faces are embedded, a .pt that `pocketnet "
        "export` wrote; default: those of the package."
    ),
]
UntrainedOption = Annotated[
    bool, typer.Option("--untrained", help="Accept random weights; results then mean nothing.")
]
AlignedOption = Annotated[
    bool, typer.Option("--aligned", help="The images are aligned crops of 112x112; detect nothing.")
]
DetectorOption = Annotated[
    Path | None, typer.Option(help="YuNet's model file; default: $POCKETNET_DETECTOR or the downloaded one.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        help="fused, eager, torchscript, or auto: fused for a PocketNet, eager for other models, torchscript "
        "for an exported file."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; default: as many as PyTorch uses.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def note(text: str) -> None:
    """Print a remark where it does not mix with results."""
    typer.echo(f"pocketnet: {text}", err=True)


def load_model(name: str, weights: Path | None, untrained: bool) -> EmbeddingModel:
    """Build a model with trained weights, or, only if asked to, with random ones (seed 0) and a warning.

    Raises:
        PocketNetError: there are no trained weights and ``untrained`` is not set, or both are given.
    """
    import torch

    from pocketnet_fast.models.registry import PRETRAINED, create_model

    if untrained:
        if weights is not None:
            raise PocketNetError("--weights and --untrained exclude each other")
        torch.manual_seed(0)
        model = create_model(name)
        note(f"warning: {name} is untrained (random weights); its results say nothing about faces")
        return model
    if weights is not None:
        return create_model(name, weights=weights)
    if name in PRETRAINED:
        return create_model(name, pretrained=True)
    create_model(name)  # an unknown name is the more useful error
    raise PocketNetError(
        f"no trained weights ship for {name}: pass --weights FILE (or --untrained, to try things out)"
    )


def load_embedder(
    name: str,
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
        name: Architecture of the weights; an exported file's own holds instead.
        weights: A weight file, a file that ``export_torchscript`` wrote, or None for the package's weights.
        untrained: Accept random weights.
        engine: See ``Embedder``, as for the others.
        flip: Add the embeddings of the mirror images.
        threads: Of one call.
        batch: Images per call.

    Raises:
        PocketNetError: see ``load_model``, ``load_exported`` and ``Embedder``.
    """
    from pocketnet_fast.export.exported import is_exported, load_exported
    from pocketnet_fast.faces.pipeline import ENGINES, Embedder

    if engine not in ENGINES:
        raise PocketNetError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
    model: EmbeddingModel | ExportedModel
    if weights is not None and not untrained and is_exported(weights):
        model = load_exported(weights)
    else:
        model = load_model(name, weights, untrained)
    embedder = Embedder(model, engine=engine, flip=flip, threads=threads, batch_size=batch)
    if embedder.note is not None:
        note(f"running eager PyTorch: {embedder.note}")
    return embedder


def load_detector(aligned: bool, detector: Path | None) -> FaceDetector | None:
    """Load the detector unless the images are aligned crops.

    Raises:
        PocketNetError: both are given, or the model file is missing or unusable.
    """
    from pocketnet_fast.faces.detector import FaceDetector

    if not aligned:
        return FaceDetector(detector)
    if detector is not None:
        raise PocketNetError("--aligned and --detector exclude each other")
    return None
