"""A PocketNet in training, its cells on the fused operator ``cell``.

A cell is one call. It reads the states of the cells before it where they lie, so that their concatenation
is never formed; normalisation after the stem and in front of the tail's depthwise convolution are calls of
their own. Batch statistics are those of torch's BatchNorm: the batch's own for normalising, its unbiased
variance for the running one.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.cells import Cell, DepthwiseSeparable, FactorizedReduce, Pool
from pocketnet_fast.ops.cell.autograd import product_dtype
from pocketnet_fast.ops.cell.structure import Kind, Operation


class CellNetwork(Protocol):
    """A network that is a chain of cells between a stem and a tail, as ``PocketNet`` is."""

    stem: nn.Sequential
    cells: nn.ModuleList
    tail: nn.Sequential
    training: bool


class Trainable(Protocol):
    """What can be in training mode."""

    training: bool


def runs_fused(network: nn.Module, x: Tensor, obstacle: Callable[[Any, Tensor], str | None]) -> bool:
    """Whether a forward pass on ``x`` is to run fused, by ``network.fused`` and what stands in its way.

    Raises:
        PocketNetError: In training mode, if ``fused`` is True and the kernels cannot run (says why), or it
            is none of its values.
    """
    fused = network.fused
    if fused not in ("auto", True, False):
        raise PocketNetError(f"fused is {fused!r}; expected 'auto', True or False")
    if fused is False or (fused == "auto" and not network.training):
        return False
    reason = obstacle(network, x)
    if reason is not None and fused is True and network.training:
        raise PocketNetError(f"fused=True, but {reason}")
    return reason is None


def obstacle(network: CellNetwork, x: Tensor) -> str | None:
    """Why the network cannot train fused on input ``x``; None if it can."""
    return parts_obstacle(network, (network.stem, network.cells, network.tail), x)


def parts_obstacle(network: Trainable, parts: Sequence[nn.Module], x: Tensor) -> str | None:
    """Why ``parts`` of the network cannot train fused on input ``x``; None if they can."""
    if not network.training:
        return "the network is in eval mode"
    if x.device.type not in ("cpu", "cuda"):
        return f"the input is on {x.device.type}, and the kernels are for the CPU and CUDA"
    if x.device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed, which the kernels for CUDA need (pip install 'pocketnet_fast[gpu]')"
    if not x.is_floating_point() or x.dtype == torch.float64:
        return f"the input is {x.dtype}, not float32"
    for part in parts:
        for module in part.modules():
            reason = _module_obstacle(module, x.device)
            if reason is not None:
                return reason
    return None


def _module_obstacle(module: nn.Module, device: torch.device) -> str | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if type(module) is not nn.BatchNorm2d:
            return f"a normalisation is {type(module).__name__}, not BatchNorm2d"
        if not module.training:
            return "a BatchNorm2d is in eval mode"
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return f"a {type(module).__name__} has hooks, which the fused cells would not call"
    for parameter in module._parameters.values():
        if parameter is not None and (parameter.dtype != torch.float32 or parameter.device != device):
            return f"a parameter is {parameter.dtype} on {parameter.device}, not float32 on {device}"
    return None


def _operator(device: torch.device) -> Callable[..., tuple[list[Tensor], Tensor, Tensor]]:
    """The device's entry to the operator."""
    if device.type == "cuda":
        from pocketnet_fast.ops.cell import triton_launch

        return triton_launch.cell
    from pocketnet_fast.ops.cell import cpu

    return cpu.cell


def state_dtype(device: torch.device) -> torch.dtype:
    """The type of the states between a network's operations, and of their gradients.

    On the CPU bfloat16 under autocast to it; on CUDA autocast changes the operands of products alone.
    """
    in_half = device.type == "cpu" and product_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if in_half else torch.float32


@dataclass
class RunningStatistics:
    """What the normalisations saw, until it is written to all of their buffers at once."""

    norms: list[nn.BatchNorm2d] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)

    def add(self, norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
        """Remember a batch's moments, the variance being the unbiased one."""
        if norm.track_running_stats:
            self.norms.append(norm)
            self.means.append(mean)
            self.variances.append(variance)

    @torch.no_grad()
    def write(self) -> None:
        """Update the running statistics as torch's BatchNorm does."""
        counts = [_buffer(norm.num_batches_tracked) for norm in self.norms]
        if not counts:
            return
        torch._foreach_add_(counts, 1)
        factors = [
            1.0 / float(count) if norm.momentum is None else norm.momentum
            for norm, count in zip(self.norms, counts, strict=True)
        ]
        for factor in set(factors):
            chosen = [i for i, value in enumerate(factors) if value == factor]
            means = [_buffer(self.norms[i].running_mean) for i in chosen]
            variances = [_buffer(self.norms[i].running_var) for i in chosen]
            torch._foreach_lerp_(means, [self.means[i] for i in chosen], factor)
            torch._foreach_lerp_(variances, [self.variances[i] for i in chosen], factor)


def _buffer(value: Tensor | None) -> Tensor:
    assert value is not None  # of a module that tracks its statistics
    return value


class CellCall:
    """The operations of one call of the operator, collected edge by edge."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = list(inputs)
        self.parameters: list[Tensor] = []
        self.operations: list[Operation] = []
        # Every normalisation and the sum it adds to; the operations of one stand one after another.
        self.norms: list[tuple[nn.BatchNorm2d, int]] = []
        self.sums = 0
        # Gammas and betas of the normalisations that have none of their own.
        self._constants: dict[tuple[float, int], Tensor] = {}

    def next_sum(self) -> int:
        """Start another sum; returns the index of the state that it will be."""
        self.sums += 1
        return len(self.inputs) + self.sums - 1

    def edge(self, module: nn.Module, first_state: int, parts: int = 1, factor: Tensor | None = None) -> None:
        """Add to the current sum what a cell's edge or pre-processing computes.

        ``factor`` multiplies it, channel by channel: the gamma of an operation whose normalisation has no
        weight and bias.
        """
        if isinstance(module, DepthwiseSeparable):
            activation, depthwise, pointwise, norm = module.net
            assert isinstance(activation, nn.PReLU)
            assert isinstance(depthwise, nn.Conv2d)
            assert isinstance(pointwise, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            kernel, stride = depthwise.kernel_size[0], depthwise.stride[0]
            weights = (activation.weight, depthwise.weight, pointwise.weight)
            self._append(
                Kind.SEPARABLE,
                first_state,
                parts,
                norm,
                norm.num_features,
                weights,
                kernel,
                stride,
                factor=factor,
            )
        elif isinstance(module, FactorizedReduce):
            begin = 0
            branches = ((module.conv11, module.conv12), (module.conv21, module.conv22))
            for offset, (depthwise, pointwise) in enumerate(branches):
                weights = (module.relu.weight, depthwise.weight, pointwise.weight)
                width = pointwise.out_channels
                self._append(
                    Kind.SEPARABLE, first_state, parts, module.bn, width, weights, 1, 2, offset, begin, factor
                )
                begin += width
        elif isinstance(module, Pool):
            pool, norm = module.pool, module.bn
            assert isinstance(pool, (nn.MaxPool2d, nn.AvgPool2d))
            assert isinstance(pool.stride, int)
            kind = Kind.MAX_POOL if isinstance(pool, nn.MaxPool2d) else Kind.AVG_POOL
            self._append(kind, first_state, parts, norm, norm.num_features, (), 3, pool.stride, factor=factor)
        elif factor is None:
            self.operations.append(Operation(self.sums - 1, Kind.RESIDUAL, first_state, parts))
        else:
            self.operations.append(Operation(self.sums - 1, Kind.SCALED, first_state, parts))
            self.parameters.append(factor)

    def projection(
        self, activation: nn.PReLU, pointwise: nn.Conv2d, norm: nn.BatchNorm2d, parts: int
    ) -> None:
        """Add PReLU, pointwise and normalisation of all inputs together."""
        one = activation.weight.new_ones((activation.num_parameters, 1, 1, 1))
        weights = (activation.weight, one, pointwise.weight)
        self._append(Kind.SEPARABLE, 0, parts, norm, norm.num_features, weights)

    def normalize(self, norm: nn.BatchNorm2d) -> None:
        """Add the normalised first input."""
        self._append(Kind.NORMALIZE, 0, 1, norm, norm.num_features, ())

    def _append(
        self,
        kind: Kind,
        first_state: int,
        parts: int,
        norm: nn.BatchNorm2d,
        width: int,
        weights: tuple[Tensor, ...],
        kernel: int = 1,
        stride: int = 1,
        offset: int = 0,
        first_out: int = 0,
        factor: Tensor | None = None,
    ) -> None:
        self.operations.append(
            Operation(self.sums - 1, kind, first_state, parts, kernel, stride, offset, first_out, norm.eps)
        )
        end = first_out + width
        if norm.affine:
            gamma: Tensor = norm.weight
            beta: Tensor = norm.bias
        else:
            gamma = self._constant(1.0, norm.num_features) if factor is None else factor
            beta = self._constant(0.0, norm.num_features)
        if width < norm.num_features:
            gamma, beta = gamma[first_out:end], beta[first_out:end]
        self.parameters += [*weights, gamma, beta]
        if first_out == 0:
            self.norms.append((norm, self.sums - 1))

    def _constant(self, value: float, channels: int) -> Tensor:
        if (value, channels) not in self._constants:
            self._constants[value, channels] = self.inputs[0].new_full(
                (channels,), value, dtype=torch.float32
            )
        return self._constants[value, channels]

    def compute(self, statistics: RunningStatistics) -> list[Tensor]:
        """The sums."""
        sums, mean, variance = _operator(self.inputs[0].device)(self.inputs, self.parameters, self.operations)
        counts = [s.shape[0] * s.shape[2] * s.shape[3] for s in sums]
        if 1 in counts:
            raise ValueError(
                f"expected more than one value per channel when training, got N = {sums[0].shape[0]}"
            )
        if 0 not in counts:
            widths = [norm.num_features for norm, _ in self.norms]
            moments = zip(mean.float().split(widths), variance.float().split(widths), strict=True)
            for (norm, total), (m, v) in zip(self.norms, moments, strict=True):
                statistics.add(norm, m, v * (counts[total] / (counts[total] - 1)))
        return sums


def begin_cell(
    preproc0: nn.Module, preproc1: nn.Module, before: Sequence[Tensor], previous: Sequence[Tensor]
) -> tuple[CellCall, list[int]]:
    """A cell's call with its two pre-processings, and the states that they give.

    ``before`` and ``previous`` are one object where a cell reads the same states twice.
    """
    same = before is previous
    call = CellCall(before if same else [*before, *previous])
    states = [call.next_sum()]
    call.edge(preproc0, 0, len(before))
    states.append(call.next_sum())
    call.edge(preproc1, 0 if same else len(before), len(previous))
    return call, states


def _cell(
    module: Cell, before: Sequence[Tensor], previous: Sequence[Tensor], statistics: RunningStatistics
) -> list[Tensor]:
    call, states = begin_cell(module.preproc0, module.preproc1, before, previous)
    for node, sources in zip(module.dag, module.inputs, strict=True):
        assert isinstance(node, nn.ModuleList)
        states.append(call.next_sum())
        for edge, source in zip(node, sources, strict=True):
            call.edge(edge, states[source])
    sums = call.compute(statistics)
    return [sums[states[i] - len(call.inputs)] for i in module.concat]


def fused_stem(stem: nn.Sequential, x: Tensor, statistics: RunningStatistics) -> list[Tensor]:
    """The state that the first cells read, of ``state_dtype``, as the only part of the stem's map.

    Args:
        stem: A convolution and a BatchNorm.
        x: The input of the network.
        statistics: Takes the batch's moments.
    """
    convolution, norm = stem
    assert isinstance(norm, nn.BatchNorm2d)
    convolved = convolution(x.contiguous(memory_format=torch.channels_last))
    call = CellCall([convolved.to(state_dtype(x.device))])
    call.next_sum()
    call.normalize(norm)
    return call.compute(statistics)


def fused_projection(
    layers: Sequence[nn.Module], parts: Sequence[Tensor], statistics: RunningStatistics
) -> Tensor:
    """What the tail makes of the last cell's output before its depthwise convolution.

    Args:
        layers: A PReLU, a pointwise convolution and a BatchNorm.
        parts: The output of the last cell, in parts by channels.
        statistics: Takes the batch's moments.
    """
    activation, pointwise, norm = layers
    call = CellCall(parts)
    call.next_sum()
    call.projection(activation, pointwise, norm, len(parts))  # type: ignore[arg-type]
    (middle,) = call.compute(statistics)
    return middle


def fused_forward(network: CellNetwork, x: Tensor, maps: dict[str, Sequence[Tensor]] | None = None) -> Tensor:
    """The embeddings of a batch; call it where ``obstacle`` is None.

    ``maps`` receives the feature maps that ``EmbeddingModel.forward_maps`` names, in parts by channels. Up to
    the tail's depthwise convolution every map but the stem's convolution is of ``state_dtype``; on CUDA
    autocast's type is that of the operands of matrix products. The running statistics are updated.

    Raises:
        ValueError: A normalisation has one value per channel only, as torch's own does.
    """
    statistics = RunningStatistics()
    before = previous = fused_stem(network.stem, x, statistics)
    if maps is not None:
        maps[str(previous[0].shape[2])] = previous
    for module in network.cells:
        before, previous = previous, _cell(module, before, previous, statistics)  # type: ignore[arg-type]
        if maps is not None:
            maps[str(previous[0].shape[2])] = previous
    tail = list(network.tail)
    middle = fused_projection(tail[:3], previous, statistics)
    statistics.write()
    activation, depthwise, *rest = tail[3:]
    assert isinstance(depthwise, nn.Conv2d)
    middle = activation(middle)
    if maps is not None:
        maps["tail"] = [middle]
    if middle.shape[2:] == depthwise.weight.shape[2:]:
        # The window is the whole map, which torch's depthwise convolution is slow at.
        middle = (middle * depthwise.weight.squeeze(1)).sum((2, 3), keepdim=True)
    else:
        middle = depthwise(middle)
    for module in rest:
        middle = module(middle)
    return middle.flatten(1)


def tune(network: nn.Module, x: Tensor, seconds: float | None = None) -> int:
    """Measure, on CUDA, how much a program of each training kernel had best compute; keep it in the cache.

    Args:
        network: One that trains fused; a copy makes the step.
        x: A batch as in training, on the network's device; autocast as it is at the call.
        seconds: Shapes whose turn has not come after these keep the tiles they have.

    Returns:
        The number of shapes that were measured.

    Raises:
        PocketNetError: The network cannot train fused on ``x``, or the cache cannot be written.
    """
    from pocketnet_fast.ops.triton_tuning import tuning

    network = copy.deepcopy(network).train()
    setattr(network, "fused", True)  # noqa: B010 - not every module has it
    if x.device.type != "cuda":
        raise PocketNetError(f"tiles are those of CUDA's kernels, and the input is on {x.device.type}")
    # The backward pass stays on this thread, whose launches are measured.
    with torch.autograd.set_multithreading_enabled(False), tuning(seconds=seconds) as session:
        network(x).float().square().sum().backward()
    return sum(map(len, session.measured.values()))
