"""Signs that a search fails: cells of skip connections, and a validation loss that is sharp in the alphas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pocketnet_fast.models.genotypes import Genotype
from pocketnet_fast.search.architecture import architecture_gradient
from pocketnet_fast.search.network import SearchNetwork

Batch = tuple[Tensor, Tensor]

# Of the difference between two gradients, for alphas of order one: float32 gradients are good to 1e-5 only.
_STEPS = {torch.float64: 1e-5}
_STEP = 1e-2


def skip_shares(genotype: Genotype) -> dict[str, float]:
    """The share of skip connections among a genotype's edges, by cell.

    Searches that train long tend to cells of little else, which do not learn (arXiv 1909.06035).
    """
    shares = {}
    for name, nodes in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        operations = [edge.operation for node in nodes for edge in node]
        shares[name] = operations.count("skip_connect") / len(operations)
    return shares


def dominant_eigenvalue(
    network: SearchNetwork,
    batch: Batch,
    *,
    optimizer: torch.optim.Optimizer,
    steps: int,
    seed: int,
    average: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
) -> float:
    """Estimate the eigenvalue of largest size of the validation loss's Hessian in the alphas.

    Its growth during a search announces genotypes that do worse than the network they were derived from
    (arXiv 1909.09656). Power iteration on differences of first-order gradients; leaves the network alone.

    Args:
        network: In training mode.
        batch: Images and labels of the validation half.
        optimizer: The optimiser of the weights.
        steps: Products with the Hessian.
        seed: The seed of the first direction.
        average: See ``architecture_gradient``.

    Returns:
        The Rayleigh quotient of the last direction.
    """
    alphas = network.alphas()
    generator = torch.Generator().manual_seed(seed)
    direction = [torch.randn(a.shape, generator=generator).to(a) for a in alphas.values()]
    step = _STEPS.get(next(iter(alphas.values())).dtype, _STEP)
    kept = [alpha.detach().clone() for alpha in alphas.values()]

    def gradient(shift: Sequence[Tensor], length: float) -> Tensor:
        with torch.no_grad():
            for alpha, origin, part in zip(alphas.values(), kept, shift, strict=True):
                alpha.copy_(origin + length * part)
        found = architecture_gradient(
            network, batch, batch, xi=0.0, optimizer=optimizer, order=1, average=average
        )
        return torch.cat([value.double().flatten() for value in found.values()])

    value = 0.0
    try:
        for _ in range(steps):
            flat = torch.cat([part.double().flatten() for part in direction])
            flat = flat / flat.norm()
            direction = [
                part.view_as(alpha).to(alpha)
                for part, alpha in zip(flat.split([a.numel() for a in kept]), kept, strict=True)
            ]
            product = (gradient(direction, step) - gradient(direction, -step)) / (2 * step)
            value = float(flat @ product)
            if not bool(product.any()):
                return 0.0
            direction = [
                part.view_as(alpha)
                for part, alpha in zip(product.split([a.numel() for a in kept]), kept, strict=True)
            ]
    finally:
        with torch.no_grad():
            for alpha, origin in zip(alphas.values(), kept, strict=True):
                alpha.copy_(origin)
    return value
