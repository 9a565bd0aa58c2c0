"""Galleries for the service: files with people whose faces the tests know."""

from __future__ import annotations

from pathlib import Path

from pocketnet_fast.export.torchscript_file import read_metadata
from pocketnet_fast.gallery import EmbeddingSpace, Gallery


def empty_gallery(folder: Path, name: str, model: Path) -> Path:
    """An empty gallery of the embeddings that an exported analyzer gives."""
    metadata = read_metadata(model)
    space = EmbeddingSpace(
        metadata["model"],
        metadata["weights_sha256"],
        metadata["adds_mirror_image"],
        metadata["embedding_dim"],
    )
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.gallery"
    Gallery.create(path, space).close()
    return path
