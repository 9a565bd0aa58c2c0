"""MobileFaceNets as others write and export them, for the tests of reading them from ONNX."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randomize_
from torch import Tensor, nn

from pocketnet_fast.models.base import InputSpec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTHS = (
    128,
    ((128, 128, 1), (128, 128, 4), (256, 256, 1), (256, 256, 6), (512, 256, 1), (256, 256, 2)),
    512,
)
"""Of "mbf": the stem's; (inner, outer, blocks) of strided and of residual blocks in turn; the last map's."""


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class Foreign(nn.Sequential):
    input_spec = InputSpec()


def conv(
    act: Callable[[int], nn.Module] | None, i: int, o: int, k: int, s: int = 1, g: int = 1
) -> list[nn.Module]:
    parts: list[nn.Module] = [nn.Conv2d(i, o, k, s, k // 2 if k < 7 else 0, groups=g, bias=False)]
    return [*parts, nn.BatchNorm2d(o), *([act(o)] if act else [])]


def block(act: Callable[[int], nn.Module], i: int, inner: int, outer: int, s: int) -> list[nn.Module]:
    return conv(act, i, inner, 1) + conv(act, inner, inner, 3, s, inner) + conv(None, inner, outer, 1)


def insightface(
    seed: int = 0, *, groups: int = 64, widths: Any = WIDTHS, dim: int = 512, bias: bool = False
) -> Foreign:
    stem, stages, last = widths
    parts = conv(nn.PReLU, 3, stem, 3, 2)
    if groups:
        parts += conv(nn.PReLU, stem, stem, 3, 1, groups)
    width = stem
    for number, (inner, outer, count) in enumerate(stages):
        for _ in range(count):
            inside = block(nn.PReLU, width, inner, outer, 2 - number % 2)
            parts += [Around(nn.Sequential(*inside))] if number % 2 else inside
            width = outer
    parts += [*conv(nn.PReLU, width, last, 1), *conv(None, last, last, 7, 1, last), Rows()]
    parts += [nn.Linear(last, dim, bias=bias), nn.BatchNorm1d(dim)]
    return randomize_(Foreign(*parts), seed)  # type: ignore[type-var]


def relu6_variant(seed: int = 0, dim: int = 128) -> Foreign:
    def relu6(_: int) -> nn.Module:
        return nn.ReLU6()

    parts = conv(relu6, 3, 64, 3, 2)
    for groups, kernel in ((64, 3), (1, 1)):
        parts += conv(lambda _: nn.ReLU(), 64, 64, kernel, 1, groups)
    width = 64
    for inner, outer, strides in (
        (128, 64, (2, 1, 1, 1, 1)),
        (256, 128, (2,)),
        (256, 128, (1,) * 6),
        (512, 128, (2,)),
        (256, 128, (1, 1)),
    ):
        for stride in strides:
            inside = block(relu6, width, inner, outer, stride)
            parts += [Around(nn.Sequential(*inside))] if stride == 1 and width == outer else inside
            width = outer
    parts += [*conv(relu6, width, 512, 1), *conv(None, 512, 512, 7, 1, 512)]
    parts += [nn.Conv2d(512, dim, 1), nn.BatchNorm2d(dim), nn.Flatten()]
    return randomize_(Foreign(*parts), seed)  # type: ignore[type-var]


def exported(
    network: nn.Module, *, folded: bool = True, dynamic: bool = True, dynamo: bool = False, opset: int = 13
) -> Any:
    """The network as torch exports it, normalisations folded into convolutions or not."""
    buffer, images = io.BytesIO(), torch.randn(1 if not dynamic else 2, 3, 112, 112)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = ({0: torch.export.Dim("N", min=1)},) if dynamic else None
            program = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=batch, verbose=False)
            assert program is not None
            return program.model_proto
        torch.onnx.export(
            network,
            (images,),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["input.1"],
            dynamic_axes={"input.1": {0: "N"}} if dynamic else None,
            training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE,
        )
    return onnx.load_from_string(buffer.getvalue())


def shuffled(proto: Any, seed: int = 0) -> Any:
    """The same graph with the names of all that it holds drawn anew, and its constants in another order."""
    graph, draw = proto.graph, random.Random(seed)
    values = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    values |= {name for node in graph.node for name in (*node.input, *node.output) if name}
    order = sorted(values)
    draw.shuffle(order)
    names = {name: str(number) for number, name in enumerate(order)} | {"": ""}
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names[value.name]
    for node in graph.node:
        node.name = ""
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    constants = list(graph.initializer)
    draw.shuffle(constants)
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(constants)
    return proto


def halved(proto: Any) -> Any:
    """The same graph with weights in half precision, which nodes make single."""
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            name = tensor.name
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def written(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def by_onnxruntime(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    parts: Sequence[Tensor] = images.split(1) if batch == 1 else [images]
    return torch.cat(
        [torch.from_numpy(session.run(None, {name: part.numpy()})[0]) for part in parts]
    ).flatten(1)
