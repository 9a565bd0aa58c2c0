"""Networks with the weights of a file, built as the file says."""

from __future__ import annotations

import os

import torch

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.checkpoint_file import CheckpointFile
from pocketnet_fast.models.identification import Architecture, architecture_for
from pocketnet_fast.models.weights import check_fits, load_checkpoint, read_weights


def load_model(path: str | os.PathLike[str], name: str | None = None) -> EmbeddingModel:
    """Build the network that a file of weights belongs to, with these weights.

    Files that this package wrote say which network it is, its genotype included. Of others, the keys and
    shapes tell, where they are those of a network of ``list_models()`` or of a published genotype.

    Args:
        path: As in ``load_weights``.
        name: The network's name, if the file does not tell.

    Returns:
        The network, in training mode, as constructors leave it.

    Raises:
        PocketNetError: The file cannot be read, belongs to another network than ``name``, or to none that
            is known.

    Examples:
        >>> model = load_model("runs/tiny/300ema.safetensors").eval()
    """
    file = read_weights(path)
    return build_for(file, architecture_for(file, name))


def build_for(file: CheckpointFile, architecture: Architecture) -> EmbeddingModel:
    """Build the network and load the file's weights into it.

    Raises:
        PocketNetError: They do not fit.
    """
    try:
        with torch.device("meta"):
            described = architecture.build()
    except PocketNetError as error:
        raise PocketNetError(f"{file.path}: {error}") from None
    # A few bytes can describe a network larger than memory: it is built once its weights are there.
    check_fits(described, file)
    return load_checkpoint(architecture.build(), file)
