"""Any ONNX file that embeds faces, run by onnxruntime, as a network that teaches."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError

_SIDE: Final = 112


class OnnxNetwork(nn.Module):
    """An ONNX graph from float N,3,112,112 to N,D, which runs on the CPU in its own threads.

    Args:
        path: The file. Of several outputs, the first of two dimensions is the embedding.
        threads: The threads of a call.

    Attributes:
        embedding_dim: D.

    Raises:
        PocketNetError: onnxruntime is not installed, or the file is no such graph.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        super().__init__()
        self.path, self.threads = path, threads
        self._session = _session(path, None, threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or not _takes_crops(inputs[0]):
            stated = "; ".join(f"{found.name} {found.type} {found.shape}" for found in inputs)
            raise PocketNetError(
                f"{path} takes {stated}; expected one input of float N,3,{_SIDE},{_SIDE}, aligned faces"
            )
        self._input: str = inputs[0].name
        # Some exports fix the number of images.
        self._batch = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None
        self._maps: dict[str, str] = {}
        self._output = self._embedding_output()

    def forward(self, x: Tensor) -> Tensor:
        """Embed float32 N,3,112,112, normalised as the graph expects; float32 N,D."""
        return self._run([self._output], x)[0]

    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``EmbeddingModel.forward_maps``; a number names the graph's last square map of that height.

        Raises:
            PocketNetError: The graph has no such map.
        """
        missing = [name for name in names if name not in self._maps]
        if missing:
            self._show(missing)
        embedding, *maps = self._run([self._output, *(self._maps[name] for name in names)], x)
        return embedding, dict(zip(names, maps, strict=True))

    def _run(self, outputs: list[str], x: Tensor) -> list[Tensor]:
        pixels = x.detach().cpu().contiguous().numpy()
        count = len(pixels)
        batch = self._batch or max(count, 1)
        parts = []
        for start in range(0, count, batch):
            part = pixels[start : start + batch]
            if len(part) < batch:
                part = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            try:
                parts.append(self._session.run(outputs, {self._input: part}))
            except Exception as error:  # onnxruntime's exceptions share no class of their own
                raise PocketNetError(f"{self.path} fails on {len(part)} faces: {_line(error)}") from None
        return [
            torch.from_numpy(np.concatenate(values)[:count]).to(x.device)
            for values in zip(*parts, strict=True)
        ]

    def _embedding_output(self) -> str:
        names = [output.name for output in self._session.get_outputs()]
        probe = torch.zeros(self._batch or 1, 3, _SIDE, _SIDE)
        answers = self._run(names, probe)
        for name, answer in zip(names, answers, strict=True):
            if answer.dim() == 2 and answer.shape[0] == len(probe) and answer.is_floating_point():
                self.embedding_dim = answer.shape[1]
                return name
        stated = ", ".join(f"{name} {tuple(a.shape)}" for name, a in zip(names, answers, strict=True))
        raise PocketNetError(f"{self.path} gives {stated} for {len(probe)} faces; expected an embedding, N,D")

    def _show(self, names: list[str]) -> None:
        """Make maps outputs of the graph: one run with every tensor shown tells their sizes."""
        try:
            import onnx
        except ImportError:
            raise PocketNetError(
                "feature maps of an ONNX file need the package onnx: pip install 'pocketnet_fast[onnx]'"
            ) from None
        model = onnx.load(str(self.path))
        shown = {output.name for output in model.graph.output}
        tensors = [name for node in model.graph.node for name in node.output if name and name not in shown]
        probe = np.zeros((self._batch or 1, 3, _SIDE, _SIDE), np.float32)
        everything = _session(self.path, _with_outputs(model, tensors), self.threads)
        found: dict[str, str] = {}
        for name, value in zip(tensors, everything.run(tensors, {self._input: probe}), strict=True):
            if (
                isinstance(value, np.ndarray)
                and value.dtype == np.float32
                and value.ndim == 4
                and value.shape[0] == len(probe)
                and value.shape[2] == value.shape[3]
            ):
                found[str(value.shape[2])] = name
        missing = [name for name in names if name not in found]
        if missing:
            raise PocketNetError(
                f"{self.path} has no feature map {', '.join(missing)}; it has maps of {', '.join(found)} "
                "pixels"
            )
        self._maps |= {name: found[name] for name in names}
        self._session = _session(self.path, _with_outputs(model, [*self._maps.values()]), self.threads)


def _with_outputs(model: Any, names: list[str]) -> bytes:
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(changed.SerializeToString())


def _session(path: Path, content: bytes | None, threads: int) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise PocketNetError(f"{path} needs onnxruntime: pip install 'pocketnet_fast[onnx]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content or str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no class of their own
        raise PocketNetError(f"{path} cannot be loaded as an ONNX file: {_line(error)}") from None


def _takes_crops(stated: Any) -> bool:
    # Sizes that the file leaves open are names or None.
    fits = zip(stated.shape[1:], (3, _SIDE, _SIDE), strict=False)
    return (
        stated.type == "tensor(float)"
        and len(stated.shape) == 4
        and all(side == wanted or not isinstance(side, int) for side, wanted in fits)
    )


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
