"""What the commands that embed faces load: photos, and a model that is never silently random."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.data.image_folder import ImagesBelow
    from pocketnet_fast.export.exported import ExportedModel
    from pocketnet_fast.models.base import EmbeddingModel

DEFAULT_MODEL: Final = "pocketnet_s128"

# Files that a remark names.
_SHOWN: Final = 5


def photos_below(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, sorted; says which files were passed over.

    Raises:
        PocketNetError: There is none.
    """
    return _found_below(folder).images


def all_photos(given: list[Path], passed_over: list[tuple[Path, str]] | None = None) -> list[Path]:
    """The files among what was given, and for each folder the images in it.

    Args:
        given: Files and folders.
        passed_over: Takes the files of folders that are no images that are read, with what they are.

    Raises:
        PocketNetError: A folder holds none.
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


def new_set_name(source: Path, taken: Collection[str]) -> str:
    """How results call a data set: its file's stem.

    Raises:
        PocketNetError: Another one is called so.
    """
    name = source.resolve().stem
    if name in taken:
        raise PocketNetError(f"{source}: another data set is called {name} too")
    return name


def weight_file(weights: Path) -> Path:
    """The file that ``--weights`` means: itself, or of a training run's folder the newest (averaged) weights.

    Raises:
        PocketNetError: The folder is no training run's or holds no weights yet.
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
        PocketNetError: There are no trained weights and ``untrained`` is not set, or both are given; or the
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
    from pocketnet_fast.models.identification import architecture_for
    from pocketnet_fast.models.loading import build_for
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
