"""The recorded search step, and small networks of the same kind, for the tests of the search."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pocketnet_fast.search.network import SearchNetwork

GOLDEN = "search_c8_l4_k10_b4"

Batch = tuple[Tensor, Tensor]


class SearchCase(NamedTuple):
    network: SearchNetwork
    train_batch: Batch
    val_batch: Batch
    optimizer: torch.optim.SGD


def recorded_case(record: Any, dtype: torch.dtype) -> SearchCase:
    """The recorded network and its batches: the first half trains, the second validates."""
    meta = record.metadata
    network = SearchNetwork(
        int(meta["channels"]),
        int(meta["layers"]),
        int(meta["classes"]),
        nodes=int(meta["nodes"]),
        stem_multiplier=int(meta["stem_multiplier"]),
    )
    network.load_state_dict(record.weights, strict=True)
    network.to(dtype).train()
    # Normalised in float64, as the recording was.
    images = (record.tensors["input_rgb_u8"].double() / 255 - 0.5) / 0.5
    images = images.permute(0, 3, 1, 2).contiguous().to(dtype)
    label = record.tensors["label"]
    half = len(label) // 2
    optimizer = torch.optim.SGD(
        network.weights().values(),
        lr=float(meta["xi"]),
        momentum=float(meta["momentum"]),
        weight_decay=float(meta["weight_decay"]),
    )
    return SearchCase(network, (images[:half], label[:half]), (images[half:], label[half:]), optimizer)
