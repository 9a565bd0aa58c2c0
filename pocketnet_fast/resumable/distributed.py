"""The processes of a run: one, or those that torchrun started."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError

# The first process verifies and writes while the others wait for it.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Its number.
        ranks: How many there are.
        device: Where it computes.
    """

    rank: int
    ranks: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their averages over all processes, in one exchange."""
        if self.ranks == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.ranks
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def take_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by the first process's."""
        if self.ranks > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def average_gradients(self, network: nn.Module) -> nn.Module:
        """The network, its gradients those of all processes averaged; its buffers stay each process's own."""
        if self.ranks == 1:
            return network
        parallel = nn.parallel.DistributedDataParallel
        # Newer torches call it otherwise, and warn of the name that the older ones know.
        new = "forward_sync_buffers" in inspect.signature(parallel).parameters
        options: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
        device_ids = [self.device] if self.device.type == "cuda" else None
        return parallel(network, device_ids=device_ids, **options)

    def wait(self) -> None:
        """Return once all processes are here."""
        if self.ranks > 1:
            dist.barrier()


def _device(choice: str, local_rank: int) -> torch.device:
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise PocketNetError(
            "run.device is 'cuda', and PyTorch finds no CUDA device; expected 'cpu' or 'auto'"
        )
    if choice == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise PocketNetError(
            f"process {local_rank} of this machine has no CUDA device, of which there are "
            f"{torch.cuda.device_count()}; start at most as many processes"
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun announces in the environment; one process needs no group.

    NCCL connects CUDA devices, gloo processes on the CPU. After an exception the group is left as it is: the
    others of the group then fail in their next exchange, and torchrun ends them.

    Args:
        device: "auto", "cpu" or "cuda".

    Raises:
        PocketNetError: There is no such device for this process.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    here = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if ranks == 1:
        yield Processes(0, 1, here)
        return
    if here.type == "cuda":
        dist.init_process_group("nccl", timeout=_PATIENCE, device_id=here)
    else:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    yield Processes(dist.get_rank(), ranks, here)
    dist.destroy_process_group()
