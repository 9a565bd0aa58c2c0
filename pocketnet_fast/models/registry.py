"""Networks by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA, Genotype, genotype_from_name
from pocketnet_fast.models.iresnet import IResNet
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.mobilefacenet_mbf import MobileFaceNetMbf
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.shipped import ShippedFile, verified
from pocketnet_fast.models.weights import load_weights, read_weights

PRETRAINED: dict[str, ShippedFile] = {
    "pocketnet_s128": ShippedFile(
        path="pocketnet_s128.safetensors",
        sha256="16dc8a80c223c446f24965d22b7b55c29113697eb8ff6ef756a51e45ea5d78fc",
        embedding_dim=128,
    ),
}
"""Trained weights by model name; docs/models/ has a card for each."""

_Builder = Callable[[int], EmbeddingModel]


def _pocketnet(channels: int, layers: int) -> _Builder:
    return lambda embedding_dim: PocketNet(SOFTMAX_CASIA, channels, layers, embedding_dim)


def _iresnet(*blocks: int) -> _Builder:
    first, second, third, fourth = blocks
    return lambda embedding_dim: IResNet((first, second, third, fourth), embedding_dim)


# name -> (constructor, default embedding_dim)
_MODELS: dict[str, tuple[_Builder, int]] = {
    "pocketnet_s128": (_pocketnet(16, 18), 128),
    "pocketnet_s256": (_pocketnet(16, 18), 256),
    "pocketnet_m128": (_pocketnet(32, 9), 128),
    "pocketnet_m256": (_pocketnet(32, 9), 256),
    "iresnet18": (_iresnet(2, 2, 2, 2), 512),
    "iresnet34": (_iresnet(3, 4, 6, 3), 512),
    "iresnet50": (_iresnet(3, 4, 14, 3), 512),
    "iresnet100": (_iresnet(3, 13, 30, 3), 512),
    "mobilefacenet": (MobileFaceNet, 128),
    "mobilefacenet_mbf": (MobileFaceNetMbf, 512),
}
CUSTOM = "pocketnet"
# Of these, a file of weights says the variant and the sizes.
_BUILT_AS_FILES_SAY = ("mobilefacenet", "mobilefacenet_mbf")


def list_models() -> list[str]:
    """Return the names of the fixed architectures; ``"pocketnet"`` builds any other PocketNet."""
    return list(_MODELS)


def default_embedding_dim(name: str) -> int:
    """Length of the embedding of a network of ``list_models()``, unless another is asked for."""
    return _MODELS[name][1]


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
        PocketNetError: On an unknown name (with the closest ones), on arguments the name has fixed, if no
            pretrained weights ship for the model, or from reading the weights.
    """
    if pretrained and weights is not None:
        raise PocketNetError("both pretrained and weights were given; choose one")
    file = _pretrained_file(name) if pretrained else None
    if file is not None and embedding_dim not in (None, file.embedding_dim):
        raise PocketNetError(
            f"the pretrained weights of {name} have embedding_dim {file.embedding_dim}, not {embedding_dim}"
        )
    if weights is not None and name in _BUILT_AS_FILES_SAY:
        _check_fixed(name, genotype, channels, layers)
        return _from_file(name, weights, embedding_dim)
    model = _build(name, embedding_dim, genotype, channels, layers)
    model.model_name = name
    if file is not None:
        load_weights(model, verified(file))
        model.weights_source = f"pretrained {name}"
    elif weights is not None:
        load_weights(model, weights)
    return model


def _build(
    name: str,
    embedding_dim: int | None,
    genotype: str | Genotype | None,
    channels: int | None,
    layers: int | None,
) -> EmbeddingModel:
    if name == CUSTOM:
        if genotype is None:
            genotype = SOFTMAX_CASIA
        elif isinstance(genotype, str):
            genotype = genotype_from_name(genotype)
        return PocketNet(
            genotype,
            16 if channels is None else channels,
            18 if layers is None else layers,
            128 if embedding_dim is None else embedding_dim,
        )
    if name not in _MODELS:
        names = [CUSTOM, *_MODELS]
        close = difflib.get_close_matches(name, names)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(names)}"
        raise PocketNetError(f"unknown model {name!r}; {hint}")
    _check_fixed(name, genotype, channels, layers)
    builder, default_dim = _MODELS[name]
    return builder(default_dim if embedding_dim is None else embedding_dim)


def _check_fixed(name: str, genotype: object, channels: object, layers: object) -> None:
    options = {"genotype": genotype, "channels": channels, "layers": layers}
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise PocketNetError(f"{name} has {', '.join(given)} fixed; the model {CUSTOM!r} takes them")


def _from_file(name: str, path: str | os.PathLike[str], embedding_dim: int | None) -> EmbeddingModel:
    # Imported here, as it builds networks by this module.
    from pocketnet_fast.models.identification import architecture_for, build_for

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
