"""The optimiser, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.muon import Muon, is_matrix
from pocketnet_fast.training.recipe import OptimizerRecipe

Parameters = dict[str, nn.Parameter]


def make_optimizer(recipe: OptimizerRecipe, parameters: Parameters) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over named parameters; its learning rate is set before every step."""
    values = list(parameters.values())
    # On the CPU torch would choose an operation at a time. Its single pass takes memory as it lies, which for
    # contiguous parameters is how torch lays gradients and moments out, too.
    fused = all(value.device.type == "cpu" and value.is_contiguous() for value in values)
    if recipe.kind == "adamw":
        return torch.optim.AdamW(
            values,
            lr=recipe.lr,
            betas=(recipe.momentum, 0.999),
            weight_decay=recipe.weight_decay,
            fused=fused or None,
        )
    if recipe.kind == "muon":
        # Class centres are a list of vectors, of which a process may hold a part.
        mixing = {name for name, p in parameters.items() if is_matrix(p) and not name.startswith("header.")}
        matrices = [parameters[name] for name in parameters if name in mixing]
        others = [parameters[name] for name in parameters if name not in mixing]
        return Muon(
            matrices,
            others,
            recipe.lr,
            recipe.matrix_factor,
            recipe.momentum,
            recipe.weight_decay,
            fused=fused,
        )
    return torch.optim.SGD(
        values,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=fused or None,
    )


def state_tensors(optimizer: torch.optim.Optimizer, parameters: Parameters) -> dict[str, Tensor]:
    """The optimiser's tensors by ``slot.parameter``, such as ``momentum_buffer.stem.0.weight``."""
    found = {}
    for name, parameter in parameters.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"{slot}.{name}"] = value
    return found


def load_state_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
    tensors: Mapping[str, Tensor],
    part: Callable[[str, Tensor], Tensor],
) -> None:
    """Put tensors that ``state_tensors`` named back; those that are no optimiser's are passed over.

    Args:
        optimizer: Fresh, over ``parameters``.
        parameters: By name.
        tensors: By ``slot.parameter``.
        part: Chooses this process's part of a tensor, given the parameter's name.

    Raises:
        PocketNetError: A tensor has another shape than its parameter.
    """
    for key, tensor in tensors.items():
        slot, _, name = key.partition(".")
        parameter = parameters.get(name)
        if parameter is None:
            raise PocketNetError(f"the optimiser's state has {key}, and the network no parameter {name}")
        value = part(name, tensor)
        if value.dim() and value.shape != parameter.shape:
            raise PocketNetError(
                f"the optimiser's {key} has shape {tuple(value.shape)}; expected {tuple(parameter.shape)}"
            )
        # A number of steps stays on the CPU, where the optimisers keep it.
        device = parameter.device if value.dim() else torch.device("cpu")
        optimizer.state[parameter][slot] = value.to(device=device, copy=True)
