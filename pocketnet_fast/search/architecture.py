"""The gradient of the validation loss in the alphas, at the weights or a step ahead (DARTS, Section 2.3)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.search.network import SearchNetwork

Batch = tuple[Tensor, Tensor]
Tensors = dict[str, Tensor]
Hessian = Literal["double", "published", "exact"]

_PERTURBATION = 0.01  # length of the difference's step either way (DARTS, footnote 2)


def architecture_gradient(
    network: SearchNetwork,
    train_batch: Batch,
    val_batch: Batch,
    *,
    xi: float,
    optimizer: torch.optim.Optimizer,
    order: int = 2,
    hessian: Hessian = "double",
    average: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
) -> dict[str, Tensor]:
    """Differentiate the validation loss, a cross entropy, in the alphas.

    First order, that is dL_val(w, a)/da at the weights w as they are. Second order, the weights are taken to
    follow the alphas by one step of SGD, w' = w - xi (momentum b + dL_train(w, a)/dw + decay w) with the
    optimiser's momentum buffer b, which gives (DARTS, eq. 7)::

        dL_val(w', a)/da - xi d2L_train(w, a)/da dw v,    v = dL_val(w', a)/dw'

    and the last product is, except with "exact", a difference over w +- 0.01 v / |v| (eq. 8). The loss has
    kinks (PReLU, max pooling), so that this difference is no derivative's approximation, and a rounding error
    can put an activation on the other side of one: docs/search.md has measurements.

    Whatever happens meanwhile, the network stays as it is: weights, running statistics and ``grad``.

    Args:
        network: In training mode for the gradients of DARTS.
        train_batch: Images N,3,112,112 in the network's dtype, and labels int64 N.
        val_batch: The same of the batch that the architecture is judged by.
        xi: Learning rate of the step ahead; DARTS takes the weights' own.
        optimizer: SGD over the network's weights.
        order: 1 or 2. The first is computed in the network's dtype, and with as many passes as one batch has.
        hessian: How the second order is computed. "double": as published, in float64 whatever the network's
            dtype, since float32 changes the result by a fifth and more; images that are normalised bytes but
            for rounding are taken as what was rounded. "published": in the network's dtype,
            on the fused kernels where they can run. "exact": the derivative itself, by differentiating twice,
            in the network's dtype.
        average: Called with gradients that are to be replaced by their averages over processes.

    Returns:
        A gradient per alpha by parameter name, in the alpha's dtype.

    Raises:
        PocketNetError: Another order or mode, or, for the second order, on an optimiser whose step is not
            the one above.

    Examples:
        >>> gradients = architecture_gradient(network, train, val, xi=0.1, optimizer=optimizer)
        >>> gradients["alpha_normal.0"].shape
        torch.Size([2, 8])
    """
    if order not in (1, 2):
        raise PocketNetError(f"order is {order!r}; expected 1 or 2")
    if hessian not in get_args(Hessian):
        raise PocketNetError(f"hessian is {hessian!r}; expected one of {', '.join(get_args(Hessian))}")
    passes = _Passes(network, plain=order == 2 and hessian != "published")
    dtype = torch.float64 if order == 2 and hessian == "double" else None
    alphas, weights = _copies(network.alphas(), dtype), _copies(network.weights(), dtype)
    if dtype is not None:
        train_batch, val_batch = (
            (_exact_pixels(images, network.input_spec), label) for images, label in (train_batch, val_batch)
        )
    if order == 1:
        gradient = passes.gradients(alphas, weights, val_batch, alphas)
        average(list(gradient.values()))
        return gradient

    ahead = passes.gradients(alphas, weights, train_batch, weights)
    average(list(ahead.values()))
    _step(weights, ahead, xi, _sgd_steps(network, optimizer))
    gradient = passes.gradients(alphas, ahead, val_batch, {**alphas, **ahead})
    average(list(gradient.values()))
    direction = {name: gradient.pop(name) for name in weights}
    if hessian == "exact":
        product = passes.product(alphas, weights, train_batch, direction)
    else:
        product = _difference(passes, alphas, weights, train_batch, direction)
    average(list(product.values()))
    found = network.alphas()
    return {name: (value - xi * product[name]).to(found[name].dtype) for name, value in gradient.items()}


def _exact_pixels(images: Tensor, spec: InputSpec) -> Tensor:
    """Images in float64; those that are bytes, normalised and rounded, as before they were rounded.

    Their rounding alone is worth up to 2 % of the second order.
    """
    wide = images.double()
    mean, std = (wide.new_tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    exact = ((((wide * std + mean) * 255).round() / 255) - mean) / std
    limit = 4 * torch.finfo(torch.float32).eps / float(std.min())
    return exact if float((exact - wide).abs().max()) <= limit else wide


class _Passes(nn.Module):
    """Passes with other parameters than the network's own, which keeps what it has even if one fails."""

    def __init__(self, network: SearchNetwork, *, plain: bool) -> None:
        super().__init__()
        self.network, self.plain = network, plain

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.network.plain_forward(x) if self.plain else self.network(x)
        return logits

    def loss(self, alphas: Tensors, weights: Tensors, batch: Batch) -> Tensor:
        images, label = batch
        dtype = next(iter(alphas.values())).dtype
        buffers = {
            name: buffer.to(dtype, copy=True) if buffer.is_floating_point() else buffer.clone()
            for name, buffer in self.network.named_buffers()
        }
        state = {f"network.{name}": value for name, value in {**alphas, **weights, **buffers}.items()}
        return cross_entropy(functional_call(self, state, (images.to(dtype),)), label)

    def gradients(self, alphas: Tensors, weights: Tensors, batch: Batch, wanted: Tensors) -> Tensors:
        with _differentiable(wanted):
            return _gradients(self.loss(alphas, weights, batch), wanted)

    def product(self, alphas: Tensors, weights: Tensors, batch: Batch, vector: Tensors) -> Tensors:
        """d2L/da dw v, by differentiating <dL/dw, v> in the alphas."""
        with _differentiable({**alphas, **weights}):
            slope = torch.autograd.grad(
                self.loss(alphas, weights, batch), [*weights.values()], create_graph=True
            )
            along = torch.stack([(g * vector[name]).sum() for g, name in zip(slope, weights, strict=True)])
            return _gradients(along.sum(), alphas)


def _difference(
    passes: _Passes, alphas: Tensors, weights: Tensors, batch: Batch, direction: Tensors
) -> Tensors:
    # The product is |v| times a difference along v / |v|, which stays in range however small v is.
    norm = math.sqrt(sum(float(v.double().square().sum()) for v in direction.values()))
    if norm == 0:
        return {name: torch.zeros_like(alpha) for name, alpha in alphas.items()}
    ends = []
    for length in (_PERTURBATION, -_PERTURBATION):
        shifted = {name: w + (length / norm) * direction[name] for name, w in weights.items()}
        ends.append(passes.gradients(alphas, shifted, batch, alphas))
    factor = norm / (2 * _PERTURBATION)
    return {name: factor * (above - ends[1][name]) for name, above in ends[0].items()}


def _copies(parameters: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensors:
    return {name: p.detach().to(dtype or p.dtype, copy=True) for name, p in parameters.items()}


@contextlib.contextmanager
def _differentiable(leaves: Tensors) -> Iterator[None]:
    for leaf in leaves.values():
        leaf.requires_grad_()
    try:
        yield
    finally:
        for leaf in leaves.values():
            leaf.requires_grad_(False)


def _gradients(value: Tensor, leaves: Tensors) -> Tensors:
    found = torch.autograd.grad(value, [*leaves.values()])
    return dict(zip(leaves, found, strict=True))


def _step(weights: Tensors, gradient: Tensors, xi: float, rules: Mapping[str, _Rule]) -> None:
    """Replace the gradient by the weights after a step with it."""
    for name, slope in gradient.items():
        weight, rule = weights[name], rules[name]
        slope.add_(weight, alpha=rule.decay)
        if rule.buffer is not None:
            slope.add_(rule.buffer.to(slope.dtype), alpha=rule.momentum)
        slope.mul_(-xi).add_(weight)


@dataclass(frozen=True)
class _Rule:
    """What SGD does with one weight beside following its gradient."""

    momentum: float
    decay: float
    buffer: Tensor | None


def _sgd_steps(network: SearchNetwork, optimizer: torch.optim.Optimizer) -> dict[str, _Rule]:
    if not isinstance(optimizer, torch.optim.SGD):
        raise PocketNetError(
            f"the optimiser of the weights is {type(optimizer).__name__}; expected SGD, by whose step the "
            "second order looks ahead"
        )
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    rules = {}
    for name, parameter in network.weights().items():
        if parameter not in groups:
            raise PocketNetError(f"the optimiser has no {name}; expected all weights of the network")
        group = groups[parameter]
        unknown = [key for key in ("nesterov", "maximize", "dampening") if group[key]]
        if unknown:
            raise PocketNetError(f"the optimiser has {unknown[0]}, which the second order does not know")
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        rules[name] = _Rule(group["momentum"], group["weight_decay"], buffer)
    return rules
