"""Embedded faces as .npz, .csv or JSON; ``parquet_part`` writes them as parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from pocketnet_fast.faces.sources import EmbeddedFace


def write_npz(stream: BinaryIO, faces: Sequence[EmbeddedFace], about: dict[str, Any]) -> None:
    """Write faces as arrays, with what made the embeddings as JSON in the array ``about``."""
    columns: dict[str, Any] = {
        "files": np.array([face.path for face in faces]),
        "embeddings": np.stack([face.embedding for face in faces]),
        "norms": np.array([face.norm for face in faces], np.float32),
        "about": np.array(json.dumps(about)),
    }
    if faces[0].faces:
        chosen = [face.faces[0] for face in faces]
        columns["boxes"] = np.array([face.box for face in chosen])
        columns["landmarks"] = np.stack([face.landmarks for face in chosen])
        columns["scores"] = np.array([face.score for face in chosen])
        columns["qualities"] = np.array([face.quality for face in chosen])
        columns["counts"] = np.array([len(face.faces) for face in faces])
    np.savez(stream, **columns)


def write_csv(stream: BinaryIO, faces: Sequence[EmbeddedFace]) -> None:
    """Write file, norm and a column for each dimension."""
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "norm", *(f"e{index}" for index in range(len(faces[0].embedding)))])
    for face in faces:
        # Nine digits give a float32 back exactly.
        writer.writerow([face.path, f"{face.norm:.9g}", *(f"{value:.9g}" for value in face.embedding)])
    text.flush()
    text.detach()


def as_dicts(faces: Sequence[EmbeddedFace]) -> list[dict[str, Any]]:
    """The faces as JSON has them."""
    rows = []
    for face in faces:
        row: dict[str, Any] = {"file": face.path, "embedding": face.embedding.tolist(), "norm": face.norm}
        if face.faces:
            first = face.faces[0]
            row |= {"box": first.box, "landmarks": first.landmarks.tolist(), "score": first.score}
            row |= {"quality": first.quality, "faces": len(face.faces)}
        rows.append(row)
    return rows
