"""Networks by name, with or without trained weights."""

from __future__ import annotations

import os

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.architectures import build_network, check_fixed
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.genotypes import Genotype
from pocketnet_fast.models.identification import architecture_for
from pocketnet_fast.models.loading import build_for
from pocketnet_fast.models.shipped import ShippedFile, verified
from pocketnet_fast.models.weights import load_weights, read_weights

PRETRAINED: dict[str, ShippedFile] = {
    "pocketnet_m128": ShippedFile(
        path="pocketnet_m128.safetensors",
        sha256="faba11bb1143ae515202faf58144e09379f85efb9fddcbbd95a6adfa4f7b5e39",
        embedding_dim=128,
    ),
    "pocketnet_s128": ShippedFile(
        path="pocketnet_s128.safetensors",
        sha256="16dc8a80c223c446f24965d22b7b55c29113697eb8ff6ef756a51e45ea5d78fc",
        embedding_dim=128,
    ),
}
"""Trained weights by model name; docs/models/ has a card for each."""

# Of these, a file of weights says the variant and the sizes.
_BUILT_AS_FILES_SAY = ("mobilefacenet", "mobilefacenet_mbf")


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    embedding_dim: int | None = None,
    genotype: str | Genotype | None = None,
    channels: int | None = None,
    layers: int | None = None,
) -> EmbeddingModel:
    """Build a network by name.

    Args:
        name: One of ``list_models()``, or ``"pocketnet"`` for a PocketNet of a genotype of your own.
        pretrained: Load the weights that ship with the package.
        weights: Load this weight file instead (see ``load_weights``). A MobileFaceNet gets the sizes that the
            file's has, and ``"mobilefacenet"`` is then either of its variants.
        embedding_dim: Length of the embedding, if not the architecture's own.
        genotype: For ``"pocketnet"`` only: an object, or what ``genotype_from_name`` takes: the name of a
            published genotype, the text or JSON form, a file. Default: the one of the named PocketNets.
        channels: For ``"pocketnet"`` only; default 16.
        layers: For ``"pocketnet"`` only; default 18.

    Returns:
        The network in training mode, as constructors leave it. Without ``pretrained`` or ``weights`` its
        weights are random and its ``weights_source`` is None.

    Raises:
        PocketNetError: An unknown name (with the closest ones), on arguments the name has fixed, no
            pretrained weights ship for the model, or from reading the weights.

    Examples:
        >>> model = create_model("pocketnet_s128", pretrained=True)
        >>> small = create_model("pocketnet", genotype="softmax_casia", channels=8, layers=9)
    """
    if pretrained and weights is not None:
        raise PocketNetError("both pretrained and weights were given; choose one")
    file = _pretrained_file(name) if pretrained else None
    if file is not None and embedding_dim not in (None, file.embedding_dim):
        raise PocketNetError(
            f"the pretrained weights of {name} have embedding_dim {file.embedding_dim}, not {embedding_dim}"
        )
    if weights is not None and name in _BUILT_AS_FILES_SAY:
        check_fixed(name, genotype, channels, layers)
        return _from_file(name, weights, embedding_dim)
    model = build_network(name, embedding_dim, genotype, channels, layers)
    if file is not None:
        load_weights(model, verified(file))
        model.weights_source = f"pretrained {name}"
    elif weights is not None:
        load_weights(model, weights)
    return model


def _from_file(name: str, path: str | os.PathLike[str], embedding_dim: int | None) -> EmbeddingModel:
    file = read_weights(path)
    architecture = architecture_for(file, name)
    if embedding_dim not in (None, architecture.embedding_dim):
        raise PocketNetError(
            f"{file.path}: holds {architecture}, whose embedding has {architecture.embedding_dim} "
            f"dimensions, not {embedding_dim}"
        )
    return build_for(file, architecture)


def _pretrained_file(name: str) -> ShippedFile:
    if name in PRETRAINED:
        return PRETRAINED[name]
    available = ", ".join(PRETRAINED) or "no model yet"
    raise PocketNetError(
        f"no pretrained weights ship for {name!r} (available: {available}); pass a file as weights"
    )
