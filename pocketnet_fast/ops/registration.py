"""Registering an operator of ``csrc/`` with its shapes and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from pocketnet_fast.ops.native import extension


def register_differentiable(
    name: str,
    *,
    fake: Callable[..., Any],
    fake_backward: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    no_second: str,
) -> None:
    """Give an operator its shapes and its derivative, and its derivative a refusal.

    Args:
        name: The operator; ``{name}_backward`` is the one that its derivative calls.
        fake: Makes results of the operator's shapes.
        fake_backward: Makes results of the derivative's shapes.
        backward: The derivative.
        setup_context: Keeps what the derivative needs.
        no_second: What is said to who differentiates twice.
    """

    def refuse(*_: Any) -> NoReturn:
        raise RuntimeError(no_second)

    extension()
    torch.library.register_fake(name, fake)
    torch.library.register_fake(f"{name}_backward", fake_backward)
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    torch.library.register_autograd(f"{name}_backward", refuse)
