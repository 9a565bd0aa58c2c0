"""The network that is searched in: every edge is a softmax-weighted sum of all operations.

Attribute names are those of the published checkpoints, so that their ``state_dict`` loads strictly. Equations
are those of DARTS (arXiv 1806.09055); operations, stem and tail those of PocketNet (arXiv 2108.10710,
Sections III-A and III-B).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.fused_training import runs_fused
from pocketnet_fast.search.cells import SEARCH_OPERATIONS, Supernet
from pocketnet_fast.search.fused import fused_forward, obstacle

# Equal but for a little noise, so that no operation has an advantage at the start (DARTS, Section 2.2).
_ALPHA_DEVIATION = 1e-3


class SearchNetwork(nn.Module):
    """PocketNet's search network: weights, and the alphas that say how much each operation counts.

    Input float N,3,112,112, ``(x / 255 - 0.5) / 0.5`` of RGB pixels; output N,``classes`` logits.

    Args:
        channels: Width C of the first cells; it doubles at each of the three reduction cells.
        layers: Number of cells L; the cells L//3, 2L//3 and L-1 reduce.
        classes: Length of the logits.
        nodes: Nodes of a cell.
        stem_multiplier: The stem has this many times C channels.

    Attributes:
        alpha_normal: Per node, the alphas [edges, operations] of the normal cells; edge e reads state e, and
            the operations are ``SEARCH_OPERATIONS``. They start equal but for noise of deviation 1e-3.
        alpha_reduce: The alphas of the reduction cells.
        fused: Whether training runs the cells on the fused kernels: ``"auto"`` where they can, True to make
            it an error where they cannot, False for plain PyTorch, which alone can be differentiated twice.
        input_spec: Size and normalisation of the input.

    Raises:
        PocketNetError: A size is not positive, or fewer than four cells leave no room for three
            reductions.

    Examples:
        >>> network = SearchNetwork(16, 8, classes=100)
        >>> network(torch.randn(2, 3, 112, 112)).shape
        torch.Size([2, 100])
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        classes: int,
        *,
        nodes: int = 4,
        stem_multiplier: int = 3,
    ) -> None:
        super().__init__()
        sizes = {
            "channels": channels,
            "classes": classes,
            "nodes": nodes,
            "stem_multiplier": stem_multiplier,
        }
        for name, size in sizes.items():
            if size < 1:
                raise PocketNetError(f"{name} is {size}; expected a positive number")
        self.channels, self.layers, self.classes, self.nodes = channels, layers, classes, nodes
        self.fused: bool | str = "auto"
        self.input_spec = InputSpec()
        self.alpha_normal = _alphas(nodes)
        self.alpha_reduce = _alphas(nodes)
        self.net = Supernet(channels, layers, classes, nodes, stem_multiplier)

    def alphas(self) -> dict[str, nn.Parameter]:
        """The architecture's parameters by name, such as ``alpha_normal.0``."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("net.")}

    def weights(self) -> dict[str, nn.Parameter]:
        """All other parameters by name."""
        return {name: p for name, p in self.named_parameters() if name.startswith("net.")}

    def operation_weights(self, *, reduction: bool) -> list[Tensor]:
        """Per node, the weights [edges, operations] of a cell: each edge's softmax over its alphas."""
        alphas = self.alpha_reduce if reduction else self.alpha_normal
        return [alpha.softmax(-1) for alpha in alphas]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of a batch.

        Raises:
            PocketNetError: In training mode, if ``fused`` is True and the kernels cannot run (says why), or
                it is none of its values.
        """
        if runs_fused(self, x, obstacle):
            return fused_forward(self, x)
        return self.plain_forward(x)

    def plain_forward(self, x: Tensor) -> Tensor:
        """Compute the logits operation by operation, whatever ``fused`` says."""
        net = self.net
        normal = self.operation_weights(reduction=False)
        reduce = self.operation_weights(reduction=True)
        before = previous = net.stem(x)
        for module in net.cells:
            weights = reduce if module.reduction else normal
            before, previous = previous, module(before, previous, weights)
        logits: Tensor = net.linear(torch.flatten(net.tail(previous), 1))
        return logits


def _alphas(nodes: int) -> nn.ParameterList:
    return nn.ParameterList(
        nn.Parameter(_ALPHA_DEVIATION * torch.randn(node + 2, len(SEARCH_OPERATIONS)))
        for node in range(nodes)
    )
