"""Regression of a teacher's feature maps, which teaches a network layer by layer, and of longer embeddings.

The maps of given heights are compared after a learned pointwise projection of the pupil's, each channel of
the teacher's brought to mean 0 and deviation 1 over the batch, as their scales differ by layer (hints, arXiv
1412.6550, with a projection per map). A map of the teacher that is smaller than any of the pupil's is
compared with means of the pupil's last one. The map "tail", which the global depthwise convolution reads, is
compared as it is, relative to the teacher's mean square: with the teacher's own layers after it
(``copy_tail``) a pupil that gives the teacher's map gives the teacher's embedding. Embeddings that differ in
length are compared after a learned matrix, too, where the recipe says so (``match`` "linear").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.training.recipe import DistillationRecipe
from pocketnet_fast.training.teacher import Teacher

Maps = dict[str, Tensor]

TAIL: Final = "tail"
EMBEDDING: Final = "embedding"
_EPSILON: Final = 1e-6


class MapPupil(nn.Module):
    """A network and the projections of its maps and embeddings, which are for training alone.

    Args:
        model: The network.
        projections: A module per map other than "tail", and "embedding" where embeddings have one.
        sources: By map, the one of the network that it is made of.
    """

    def __init__(self, model: EmbeddingModel, projections: nn.ModuleDict, sources: Mapping[str, str]) -> None:
        super().__init__()
        self.model, self.projections, self.sources = model, projections, dict(sources)

    def forward(self, x: Tensor) -> tuple[Tensor, Maps]:
        """The embeddings and the maps, after their projections."""
        embedding, found = self.model.forward_maps(x, tuple(dict.fromkeys(self.sources.values())))
        maps = {name: found[source] for name, source in self.sources.items()}
        for name in maps.keys() & self.projections.keys():
            maps[name] = self.projections[name](maps[name])
        if EMBEDDING in self.projections:
            embedding = self.projections[EMBEDDING](embedding)
        return embedding, maps


class MapObjective(nn.Module):
    """The weighted sum of the maps' differences.

    Args:
        weights: Factor by map.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, maps: Maps, targets: Maps) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's samples, and each map's part of it, not weighted.

        Args:
            maps: The pupil's, N,channels,height,width each.
            targets: The teacher's, of the same shapes.
        """
        parts = {}
        for name in self.weights:
            target, found = targets[name], maps[name]
            if name == TAIL:
                parts[name] = (found - target).square().mean() / (target.square().mean() + _EPSILON)
            else:
                variance, mean = torch.var_mean(target, (0, 2, 3), correction=0, keepdim=True)
                parts[name] = (found - (target - mean) * (variance + _EPSILON).rsqrt()).square().mean()
        loss = sum((self.weights[name] * part for name, part in parts.items()), start=torch.zeros(()))
        return loss, {f"map {name}": part.detach() for name, part in parts.items()}


def map_weights(recipe: DistillationRecipe) -> dict[str, float]:
    """The recipe's maps and their factors; empty without."""
    weights = dict.fromkeys(recipe.maps, recipe.map_weight) if recipe.map_weight else {}
    return weights | ({TAIL: recipe.tail_weight} if recipe.tail_weight else {})


def make_pupil(
    model: EmbeddingModel,
    teacher: Teacher,
    names: tuple[str, ...],
    seed: int,
    embedding: Tensor | None = None,
) -> MapPupil:
    """Build the projections from the pupil's maps to the teacher's.

    Args:
        model: The pupil; its mode is kept.
        teacher: Any; of this package's networks or an ONNX file if there are maps.
        names: The maps.
        seed: The seed of the projections' weights.
        embedding: Where the embeddings' projection starts, float32 teacher's dimensions,pupil's; None: they
            have none.

    Raises:
        PocketNetError: One of the two has no such map, a map has another size in the other network, or the
            tails' maps differ in channels.
    """
    device = next(model.parameters()).device
    probe = torch.zeros(1, *model.input_spec.size, 3, dtype=torch.uint8, device=device)
    targets = teacher.with_maps(probe, names)[1]
    training = model.training
    model.eval()
    with torch.no_grad():
        sources, maps = _sources(model, model.input_spec.normalize(probe), names)
    model.train(training)
    projections = nn.ModuleDict()
    torch.manual_seed(seed)
    for name in names:
        ours, theirs = maps[name].shape[1:], targets[name].shape[1:]
        step = ours[1] // theirs[1] if sources[name] != name else 1
        if any(a // max(step, 1) != b for a, b in zip(ours[1:], theirs[1:], strict=True)) or (
            name == TAIL and ours != theirs
        ):
            raise PocketNetError(
                f"the feature map {name} is {tuple(ours)} in the pupil and {tuple(theirs)} in the teacher "
                f"{teacher.name}; they cannot be compared"
            )
        if name != TAIL:
            mean = [nn.AvgPool2d(step)] if step > 1 else []
            norm = nn.BatchNorm2d(theirs[0], track_running_stats=False)
            projections[name] = nn.Sequential(*mean, nn.Conv2d(ours[0], theirs[0], 1, bias=False), norm)
    if embedding is not None:
        linear = nn.Linear(embedding.shape[1], embedding.shape[0], bias=False)
        linear.weight.data.copy_(embedding)
        projections[EMBEDDING] = linear
    return MapPupil(model, projections.to(device), sources)


def _sources(model: EmbeddingModel, probe: Tensor, names: tuple[str, ...]) -> tuple[dict[str, str], Maps]:
    """The map of the pupil that each one is made of, and these maps."""
    sources, maps = {}, {}
    for name in names:
        try:
            sources[name], maps[name] = name, model.forward_maps(probe, (name,))[1][name]
        except PocketNetError:
            if not name.isdecimal():
                raise
            sources[name], maps[name] = TAIL, model.forward_maps(probe, (TAIL,))[1][TAIL]
    return sources, maps


@torch.no_grad()
def copy_tail(model: EmbeddingModel, teacher: Teacher) -> None:
    """Start the pupil's layers after the map "tail" from the teacher's.

    A bias of the teacher's pointwise convolution, which the pupil's lacks, goes into the mean that the
    normalisation after it subtracts.

    Raises:
        PocketNetError: One of the networks has no such layers, or their shapes differ.
    """
    source = teacher.network
    if not isinstance(source, EmbeddingModel):
        raise PocketNetError(f"the tail of {teacher.name} cannot be copied: it is no network of this package")
    bias: Tensor | None = None
    for ours, theirs in zip(model.tail_layers(), source.tail_layers(), strict=True):
        state = theirs.state_dict()
        if isinstance(ours, nn.Conv2d) and ours.bias is None:
            bias = state.pop("bias", None)
        elif bias is not None and "running_mean" in state:
            state["running_mean"] = state["running_mean"] - bias
            bias = None
        try:
            ours.load_state_dict(state)
        except RuntimeError as error:
            last = str(error).strip().rpartition("\n")[2].strip()
            raise PocketNetError(f"the tail of {teacher.name} does not fit the pupil's: {last}") from None
