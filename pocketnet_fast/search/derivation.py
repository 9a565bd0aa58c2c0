"""From alphas to the genotype they stand for (DARTS, Section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import Edge, Genotype, Node
from pocketnet_fast.search.cells import SEARCH_OPERATIONS

_EDGES_PER_NODE = 2


def derive_genotype(alpha_normal: Sequence[Tensor], alpha_reduce: Sequence[Tensor]) -> Genotype:
    """Keep, per node, the two edges whose best operation other than ``none`` is strongest, strongest first.

    Strengths are compared before the softmax, as the published genotypes were derived: a softmax weight also
    depends on the other operations of its edge. Equal ones are taken in the order of ``torch.topk`` on the
    CPU, which recorded genotypes come from; it is fixed, though not that of the indices.

    Args:
        alpha_normal: Per node, [edges, operations]; edge e reads state e.
        alpha_reduce: The same of the reduction cells.

    Raises:
        PocketNetError: An alpha has another shape, or is not finite.

    Examples:
        >>> genotype = derive_genotype([*network.alpha_normal], [*network.alpha_reduce])
    """
    normal = tuple(_derive_node(alpha, f"alpha_normal.{n}", n) for n, alpha in enumerate(alpha_normal))
    reduce = tuple(_derive_node(alpha, f"alpha_reduce.{n}", n) for n, alpha in enumerate(alpha_reduce))
    return Genotype(normal, tuple(range(2, 2 + len(normal))), reduce, tuple(range(2, 2 + len(reduce))))


def _derive_node(alpha: Tensor, name: str, node: int) -> Node:
    expected = (node + 2, len(SEARCH_OPERATIONS))
    if tuple(alpha.shape) != expected:
        raise PocketNetError(f"{name} has shape {tuple(alpha.shape)}; expected {expected}")
    values = alpha.detach().cpu()
    if not bool(torch.isfinite(values).all()):
        raise PocketNetError(f"{name} has values that are not finite")
    strength, operation = values[:, :-1].topk(1)
    edges = strength[:, 0].topk(_EDGES_PER_NODE).indices.tolist()
    return tuple(Edge(SEARCH_OPERATIONS[int(operation[edge, 0])], edge) for edge in edges)
