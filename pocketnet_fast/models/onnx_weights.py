"""Weights of networks that others publish in ONNX: MobileFaceNets, by the structure of their graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.chain import ChainModel, Unit
from pocketnet_fast.models.checkpoint_file import CheckpointFile
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.mobilefacenet_mbf import MobileFaceNetMbf, mbf_sizes, sizes_of_chain
from pocketnet_fast.models.onnx_graph import Constants, Graph, ReadGraph, read_graph

_ACTIVATIONS: Final = {nn.ReLU: "Relu", nn.ReLU6: "Relu6", nn.PReLU: "PRelu"}
_SIDE: Final = 112
_FLOATS: Final = ("float", "float16", "bfloat16")


def read_onnx_weights(path: Path) -> CheckpointFile:
    """Read a MobileFaceNet of either variant from an ONNX file, its normalisations folded or not.

    A convolution into which its normalisation was folded gets one that only adds the bias, whose moments
    therefore say nothing of its result.

    Returns:
        What a weight file of this package would hold, which names the network.

    Raises:
        PocketNetError: The package onnx is missing, or the file is no such network of normalised pixels.
    """
    if not path.is_file():
        raise PocketNetError(f"{path}: no such weight file")
    found = read_graph(path, side=_SIDE)
    _check_interface(found)
    with torch.device("meta"):
        candidates = _candidates(found)
    graphs = {model: _traced(model) for model in candidates}
    model = max(candidates, key=lambda candidate: _agreement(found, graphs[candidate]))
    if found.differs(graphs[model]) is not None:
        raise PocketNetError(
            f"{path} is no MobileFaceNet, which is what is read from ONNX files: "
            f"{found.difference(graphs[model], model.model_name)}"
        )
    if found.result != len(found.nodes) - 1:
        raise PocketNetError(f"{path}: a MobileFaceNet whose only result is not the embedding")
    metadata = {"model_name": model.model_name, "embedding_dim": str(model.embedding_dim)}
    return CheckpointFile(path, _state(model, found), metadata)


def _check_interface(found: ReadGraph) -> None:
    stated = ", ".join(f"{kind} {[*sizes]}".replace("None", "N") for kind, sizes in found.inputs)
    kinds, shapes = [kind for kind, _ in found.inputs], [sizes for _, sizes in found.inputs]
    fitting = len(shapes) == 1 and kinds[0] in _FLOATS and len(shapes[0]) == 4
    if not fitting or any(n not in (None, m) for n, m in zip(shapes[0][1:], (3, _SIDE, _SIDE), strict=True)):
        raise PocketNetError(
            f"{found.path} takes {stated}; a MobileFaceNet is read from a graph of one input, normalised "
            f"pixels in float N,3,{_SIDE},{_SIDE}"
        )


def _candidates(found: ReadGraph) -> list[ChainModel]:
    """The networks that it may be."""
    products = (node.sizes[:2] for node in reversed(found.nodes) if node.operation in ("Conv", "Gemm"))
    # What has no elements may state any size.
    dim = next((sizes[0] for sizes in products if len(sizes) == 2 and all(sizes)), 1)
    convolutions = [node.sizes for node in found.nodes if node.operation == "Conv"]
    return [MobileFaceNet(dim), MobileFaceNetMbf(dim, sizes_of_chain(convolutions) or mbf_sizes())]


def _agreement(found: ReadGraph, graph: Graph) -> int:
    place = found.differs(graph)
    return len(graph.nodes) + 1 if place is None else place


def _traced(model: ChainModel) -> Graph:
    graph = Graph()
    # What each unit takes, and what the last one gives.
    states = [-1]
    for unit in model.units():
        x = states[-1]
        layer = unit.layer
        if isinstance(layer, nn.Linear):
            x = graph.add("Gemm", layer.weight.shape, x)
        else:
            channels, inputs = layer.out_channels, layer.in_channels
            window = (layer.kernel_size[0], layer.stride[0], layer.groups)
            assert isinstance(layer.padding, tuple)
            x = graph.convolution(x, channels, inputs, *window, layer.padding[0])
        if unit.activation is not None:
            sizes = (unit.activation.num_parameters,) if isinstance(unit.activation, nn.PReLU) else ()
            x = graph.add(_ACTIVATIONS[type(unit.activation)], sizes, x)
        if unit.around:
            x = graph.add("Add", (), x, states[-unit.around])
        states.append(x)
    return graph


def _state(model: ChainModel, found: ReadGraph) -> dict[str, Tensor]:
    names = {module: name for name, module in model.named_modules()}
    constants = iter(found.constants[number] for number in sorted(found.constants))
    state: dict[str, np.ndarray] = {}
    for unit in model.units():
        of_product = next(constants)
        state |= {f"{names[unit.norm]}.{key}": value for key, value in _norm(unit, of_product).items()}
        state[f"{names[unit.layer]}.weight"] = of_product.weight
        if unit.layer.bias is not None:
            # Without a normalisation the bias is that one's.
            kept = None if of_product.norm is None else of_product.bias
            state[f"{names[unit.layer]}.bias"] = _zeros(of_product) if kept is None else kept
        if isinstance(unit.activation, nn.PReLU):
            state[f"{names[unit.activation]}.weight"] = next(constants).weight
    return {name: torch.tensor(value) for name, value in state.items()}


def _norm(unit: Unit, constants: Constants) -> dict[str, np.ndarray]:
    epsilon = unit.norm.eps
    bias = _zeros(constants) if constants.bias is None else constants.bias
    if constants.norm is None:
        ones = np.ones_like(bias)
        return {
            "weight": ones,
            "bias": bias,
            "running_mean": _zeros(constants),
            "running_var": ones - epsilon,
        }
    norm = constants.norm
    return {
        "weight": norm.weight,
        "bias": norm.bias,
        "running_mean": norm.mean if unit.layer.bias is not None else norm.mean - bias,
        "running_var": norm.variance + (norm.epsilon - epsilon),
    }


def _zeros(constants: Constants) -> np.ndarray:
    return np.zeros(len(constants.weight), np.float32)
