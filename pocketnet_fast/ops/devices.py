"""Where the operands of an operator lie."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def on_one_device(name: str, tensors: Iterable[Tensor]) -> None:
    """Refuse operands of several devices where an operator computes shapes only.

    PyTorch calls that code for real tensors too, as soon as one of them is on ``meta``, and would hand out
    memory that nothing wrote.

    Raises:
        RuntimeError: Two tensors lie on different devices.
    """
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise RuntimeError(f"{name}: every tensor must be on one device, got {' and '.join(devices)}")
