"""The networks that are known by name, built with random weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA, Genotype, genotype_from_name
from pocketnet_fast.models.iresnet import IResNet
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.mobilefacenet_mbf import MobileFaceNetMbf
from pocketnet_fast.models.pocketnet import PocketNet

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


def list_models() -> list[str]:
    """Return the names of the fixed architectures; ``"pocketnet"`` builds any other PocketNet.

    Examples:
        >>> "pocketnet_s128" in list_models()
        True
    """
    return list(_MODELS)


def default_embedding_dim(name: str) -> int:
    """Length of the embedding of a network of ``list_models()``, unless another is asked for."""
    return _MODELS[name][1]


def build_network(
    name: str,
    embedding_dim: int | None = None,
    genotype: str | Genotype | None = None,
    channels: int | None = None,
    layers: int | None = None,
) -> EmbeddingModel:
    """Build a network with random weights; see ``create_model``.

    Raises:
        PocketNetError: An unknown name, with the closest ones, or arguments that the name has fixed.
    """
    model = _build(name, embedding_dim, genotype, channels, layers)
    model.model_name = name
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
    check_fixed(name, genotype, channels, layers)
    builder, default_dim = _MODELS[name]
    return builder(default_dim if embedding_dim is None else embedding_dim)


def check_fixed(name: str, genotype: object, channels: object, layers: object) -> None:
    """Refuse arguments that a named network has fixed.

    Raises:
        PocketNetError: The message names them.
    """
    options = {"genotype": genotype, "channels": channels, "layers": layers}
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise PocketNetError(f"{name} has {', '.join(given)} fixed; the model {CUSTOM!r} takes them")
