"""``.pnf`` files: networks for the C library, which needs neither Python nor torch."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketnet_fast.export.libpocketnet import LibraryModel
from pocketnet_fast.export.source import (
    MAX_ERRORS,
    ExportReport,
    check_images,
    checked_source,
    error_within,
    in_evaluation,
    metadata_of,
)
from pocketnet_fast.files import atomic_write
from pocketnet_fast.strict_json import to_json

if TYPE_CHECKING:
    from pocketnet_fast.faces.analyzer import FaceAnalyzer
    from pocketnet_fast.lowering.compiled import CompiledModel
    from pocketnet_fast.models.base import EmbeddingModel

MAGIC: Final = b"\x89PNF\r\n\x1a\n"
VERSION: Final = 1
ALIGNMENT: Final = 64
SECTIONS: Final = {
    "facts": 1,
    "metadata": 2,
    "embedder_program": 3,
    "embedder_weights": 4,
    "detector_program": 5,
    "detector_weights": 6,
}
"""Kinds of sections, as ``docs/model_file.md`` lists them."""

_HEADER: Final = struct.Struct("<8sIIQ32s8x")
_SECTION: Final = struct.Struct("<II2Q")
_FACTS: Final = struct.Struct("<IIIfII32s8x")
_FLIP, _UPRIGHT = 1, 2

_NEEDS: Final = "libpocketnet"


def export_library_file(
    model: nn.Module | FaceAnalyzer,
    path: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    flip: bool = True,
) -> ExportReport:
    """Write a ``.pnf`` file for ``libpocketnet`` (``include/pocketnet.h``), packed once for every processor.

    The library that comes with the package reads the content and is compared with ``model`` before it appears
    at ``path``. Embeddings it returns have length 1.

    Args:
        model: A network of this package that has a fused form; evaluation mode is used, the module is left as
            it was. Or a ``FaceAnalyzer``, whose options the file keeps: it then takes photos, too.
        path: Where to write, usually ``*.pnf``.
        precision: ``"fp32"`` or ``"bf16"``; an analyzer's own is kept.
        flip: Embed the mirror image, too, and add the two, as the thresholds of the weights expect; an
            analyzer's own is kept.

    Returns:
        A report with the measured error and the metadata written into the file.

    Raises:
        PocketNetError: An unknown option, a model without a fused form, a file that cannot be written, or
            an error above that of ``MAX_ERRORS``.

    Examples:
        >>> export_library_file(FaceAnalyzer(), "faces.pnf")  # for libpocketnet
    """
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

    if isinstance(model, FaceAnalyzer):
        return _export_analyzer(model, Path(path), precision)
    source = checked_source(model, "fused", "uint8", "rgb", precision)
    from pocketnet_fast.lowering.compiled import compile

    with in_evaluation(source):
        metadata = metadata_of(source, "pnf", "fused", "uint8", "rgb", precision, _NEEDS)
        metadata["adds_mirror_image"] = flip
        compiled = cast("CompiledModel", compile(source, precision=precision, flip=flip))
        content = _content(metadata, compiled, None)
        error = _crop_error(source, content, flip, MAX_ERRORS[precision])
    return _written(Path(path), content, error, metadata)


def _export_analyzer(analyzer: FaceAnalyzer, path: Path, precision: str) -> ExportReport:
    from pocketnet_fast.export.photos import check_options, photo_error, photo_metadata

    check_options(analyzer, "fused", "uint8", "rgb", precision)
    with in_evaluation(analyzer.model):
        metadata = photo_metadata(analyzer, "pnf", "fused", "rgb", _NEEDS)
        module = analyzer.as_module()
        content = _content(metadata, cast("CompiledModel", module.embedder), _lowered(module))
        with LibraryModel(content) as library:

            def exported(photo: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
                faces, embeddings, _ = library.analyze(photo.contiguous().numpy())
                parts = (faces["box"], faces["landmarks"], faces["score"], embeddings)
                boxes, landmarks, scores, rows = (
                    torch.from_numpy(np.ascontiguousarray(part)) for part in parts
                )
                return boxes, landmarks, scores, rows

            error = photo_error(analyzer, exported, "rgb", MAX_ERRORS[metadata["precision"]])
    return _written(path, content, error, metadata)


def _crop_error(source: EmbeddingModel, content: bytes, flip: bool, limit: float) -> float:
    """How far the library's embeddings of length 1 are from the source's; see ``error_within``."""
    pixels = check_images(source, "uint8")
    images = source.input_spec.normalize(pixels)
    with torch.no_grad(), LibraryModel(content, crops_only=True) as library:
        rows = source(images) + source(images.flip(3)) if flip else source(images)
        expected = functional.normalize(rows)
        found = torch.from_numpy(library.embed(pixels.numpy()))
    return error_within(found, expected, limit)


def _written(path: Path, content: bytes, error: float, metadata: dict[str, Any]) -> ExportReport:
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(path, "fused", error, len(content), metadata)


def _content(
    metadata: dict[str, Any], embedder: CompiledModel, detector: tuple[Tensor, Tensor] | None
) -> bytes:
    sections = {
        "facts": _facts(metadata, embedder),
        "metadata": to_json(metadata).encode(),
    }
    sections["embedder_program"], sections["embedder_weights"] = map(_bytes, _lowered(embedder))
    if detector is not None:
        sections["detector_program"], sections["detector_weights"] = map(_bytes, detector)
    return file_content({SECTIONS[name]: content for name, content in sections.items()})


def file_content(sections: dict[int, bytes]) -> bytes:
    """A ``.pnf`` file of sections by kind."""
    table, body = b"", b""
    begin = _HEADER.size + _SECTION.size * len(sections)
    for kind, content in sections.items():
        body += bytes(-(begin + len(body)) % ALIGNMENT)
        table += _SECTION.pack(kind, 0, begin + len(body), len(content))
        body += content
    rest = table + body
    digest = hashlib.sha256(rest).digest()
    return _HEADER.pack(MAGIC, VERSION, len(sections), _HEADER.size + len(rest), digest) + rest


def _facts(metadata: dict[str, Any], embedder: CompiledModel) -> bytes:
    calibration = metadata["calibration"] or {"points": [], "default_far": None}
    points = [(point["far"], point["threshold"]) for point in calibration["points"]]
    default = next((i for i, (far, _) in enumerate(points) if far == calibration["default_far"]), 0)
    flags = (_FLIP if embedder.flip else 0) | (_UPRIGHT if metadata.get("upright") else 0)
    facts = _FACTS.pack(
        embedder.embedding_dim,
        flags,
        metadata.get("max_faces") or 0,
        metadata.get("least_score", 0.0),
        len(points),
        default,
        bytes.fromhex(metadata["weights_sha256"]),
    )
    return facts + b"".join(struct.pack("<2d", far, threshold) for far, threshold in points)


def _lowered(module: nn.Module) -> tuple[Tensor, Tensor]:
    return cast(Tensor, module.program), cast(Tensor, module.weights)


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()
