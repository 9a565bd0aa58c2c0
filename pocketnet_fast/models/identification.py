"""Which network a file of weights belongs to: by what it says of itself, else by its keys and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.architectures import CUSTOM, build_network, default_embedding_dim, list_models
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.checkpoint_file import CheckpointFile
from pocketnet_fast.models.genotypes import PUBLISHED, Genotype, parse_genotype
from pocketnet_fast.models.mobilefacenet_mbf import MbfSizes, MobileFaceNetMbf, mbf_sizes, sizes_of_checkpoint
from pocketnet_fast.models.pocketnet import PocketNet

Shapes = Mapping[str, tuple[int, ...]]

_MBF: Final = "mobilefacenet_mbf"

# The running mean of the normalisation that ends the networks of a family is as long as their embedding.
_LAST: Final = {
    "tail.7.running_mean": CUSTOM,
    "bn.running_mean": "mobilefacenet",
    "features.layers.3.running_mean": _MBF,
    "features.running_mean": "iresnet",
}

# Several times what any network has. A file may state any size, in a few bytes: shapes are compared without
# memory for weights, and of these sizes they can be counted.
_MOST_CHANNELS: Final = 1 << 14
_MOST_CELLS: Final = 1 << 8


@dataclass(frozen=True)
class Architecture:
    """What ``create_model`` builds a network from.

    Attributes:
        name: As ``create_model`` takes it.
        embedding_dim: Length of the embedding.
        genotype: The genotype of the model "pocketnet"; None if it is not known.
        channels: The width of the model "pocketnet".
        layers: The number of cells of the model "pocketnet".
        sizes: The sizes of the model "mobilefacenet_mbf"; None: the usual ones.
        stated: Whether the file says so itself, rather than its keys and shapes.
    """

    name: str
    embedding_dim: int
    genotype: Genotype | None = None
    channels: int | None = None
    layers: int | None = None
    sizes: MbfSizes | None = None
    stated: bool = False

    def __str__(self) -> str:
        if self.name != CUSTOM:
            default = default_embedding_dim(self.name)
            widths = "" if self.sizes in (None, mbf_sizes()) else " of other widths"
            embedding = "" if self.embedding_dim == default else f", embedding {self.embedding_dim}"
            return f"{self.name}{widths}{embedding}"
        known = next((name for name, genotype in PUBLISHED.items() if genotype == self.genotype), None)
        genotype = (
            "" if self.genotype is None else f" of the genotype {known}" if known else " of its own genotype"
        )
        return (
            f"a PocketNet{genotype}, {self.channels} channels, {self.layers} cells, "
            f"embedding {self.embedding_dim}"
        )

    def build(self) -> EmbeddingModel:
        """The network with random weights.

        Raises:
            PocketNetError: The genotype is not known.
        """
        if self.name == CUSTOM and self.genotype is None:
            raise PocketNetError(
                f"it holds {self}, whose genotype it does not say; build the network in Python with "
                'create_model("pocketnet", genotype=..., ...), load the file, and write it with '
                "save_weights, which notes the genotype"
            )
        if self.sizes is not None:
            return MobileFaceNetMbf(self.embedding_dim, self.sizes)
        return build_network(self.name, self.embedding_dim, self.genotype, self.channels, self.layers)


def architecture_for(file: CheckpointFile, name: str | None = None) -> Architecture:
    """The network of a file, which must be ``name``, or a variant of it, if that is given.

    Raises:
        PocketNetError: It is not, or it cannot be told.
    """
    found = identify(file)
    if name is None:
        if found is None:
            raise PocketNetError(
                f"{file.path}: does not say which network it belongs to, and its keys are those of none of "
                f"{', '.join([CUSTOM, *list_models()])}"
            )
        return found
    wanted = _default(name)
    # A family's name stands for its variants.
    if found is None or found.name == name or found.name.startswith(f"{name}_"):
        return found or wanted
    if name == CUSTOM and _default(found.name).genotype is not None:
        return found
    if _same_pocketnet(wanted, found):
        return Architecture(name, found.embedding_dim, stated=found.stated)
    if found.stated:
        raise PocketNetError(
            f"{file.path}: holds {found}, not {name}; it names its network, so leave --model out"
        )
    raise PocketNetError(f"{file.path}: looks like {found}, not like {name}")


def identify(file: CheckpointFile) -> Architecture | None:
    """The network of a file by its metadata, else by its keys and shapes; None if neither tells.

    Raises:
        PocketNetError: The metadata are damaged.
    """
    shapes = {name: tuple(t.shape) for name, t in file.state.items()}
    return _stated(file, shapes) or _recognised(shapes)


def _stated(file: CheckpointFile, shapes: Shapes) -> Architecture | None:
    metadata = file.metadata
    name = metadata.get("model_name")
    if name not in (CUSTOM, *list_models()):
        return None
    try:
        embedding_dim = int(metadata["embedding_dim"])
        if name != CUSTOM:
            stated = replace(_of_shapes(name, embedding_dim, shapes), stated=True)
        else:
            genotype = parse_genotype(metadata["genotype"])
            channels, layers = int(metadata["channels"]), int(metadata["layers"])
            stated = Architecture(name, embedding_dim, genotype, channels, layers, stated=True)
    except KeyError:
        return None
    except ValueError as error:
        raise PocketNetError(f"{file.path}: damaged: it does not describe its network: {error}") from None
    if not _is_credible(stated):
        raise PocketNetError(
            f"{file.path}: damaged: it states {stated}; expected at most {_MOST_CHANNELS:,} channels or "
            f"values of an embedding, and {_MOST_CELLS} cells"
        )
    return stated


def _is_credible(architecture: Architecture) -> bool:
    sizes = architecture.sizes
    widths = [architecture.embedding_dim, architecture.channels or 0]
    if sizes is not None:
        blocks = [width for block in sizes.blocks for width in (block.hidden, block.channels)]
        widths += [sizes.stem, sizes.features, *blocks]
    cells = (architecture.layers or 0, 0 if sizes is None else len(sizes.blocks))
    return max(widths) <= _MOST_CHANNELS and max(cells) <= _MOST_CELLS


def _recognised(shapes: Shapes) -> Architecture | None:
    families = [(family, shapes[last][0]) for last, family in _LAST.items() if len(shapes.get(last, ())) == 1]
    if len(families) != 1:
        return None
    family, dim = families[0]
    members = [name for name in list_models() if name.startswith(family)]
    # Of two that differ in the embedding's length alone, the one whose own it is.
    for name in members:
        architecture = _of_shapes(name, dim, shapes)
        if dim == default_embedding_dim(name) and _fits(shapes, architecture):
            return architecture
    if family == CUSTOM:
        return _recognised_pocketnet(shapes, dim)
    return next((a for a in (_of_shapes(name, dim, shapes) for name in members) if _fits(shapes, a)), None)


def _of_shapes(name: str, dim: int, shapes: Shapes) -> Architecture:
    """A network of ``list_models()``, of the sizes that the shapes tell where its sizes vary."""
    return Architecture(name, dim, sizes=sizes_of_checkpoint(shapes) if name == _MBF else None)


def _recognised_pocketnet(shapes: Shapes, dim: int) -> Architecture | None:
    """A PocketNet of any size; its genotype only if that is published, as keys do not name all of one."""
    stem = shapes.get("stem.0.weight", ())
    cells = {int(found[1]) for name in shapes if (found := re.match(r"cells\.([0-9]{1,9})\.", name))}
    if len(stem) != 4 or stem[0] % 4 or len(cells) < 4 or cells != set(range(len(cells))):
        return None
    sizes = (stem[0] // 4, len(cells))
    unknown = Architecture(CUSTOM, dim, None, *sizes)
    if not _is_credible(unknown):
        return None
    for genotype in PUBLISHED.values():
        architecture = Architecture(CUSTOM, dim, genotype, *sizes)
        if _fits(shapes, architecture):
            return architecture
    return unknown


def _fits(shapes: Shapes, architecture: Architecture) -> bool:
    def floats(entries: Shapes) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape in entries.items() if not name.endswith("num_batches_tracked")}

    return _is_credible(architecture) and floats(shapes) == floats(_shapes(architecture))


@lru_cache(maxsize=64)
def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state: dict[str, Tensor] = architecture.build().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@lru_cache(maxsize=64)
def _default(name: str) -> Architecture:
    """A network by name, as ``create_model`` builds it without more; an unknown name is its error."""
    with torch.device("meta"):
        model = build_network(name)
    if isinstance(model, PocketNet):
        return Architecture(name, model.embedding_dim, model.genotype, model.channels, model.layers)
    return Architecture(name, model.embedding_dim)


def _same_pocketnet(first: Architecture, second: Architecture) -> bool:
    one, other = (a if a.name == CUSTOM else _default(a.name) for a in (first, second))
    if first.embedding_dim != second.embedding_dim or one.genotype is None:
        return False
    return (one.genotype, one.channels, one.layers) == (other.genotype, other.channels, other.layers)
