"""A teacher's embeddings in fewer dimensions: the directions in which they lie on the transfer set.

Cosines decide, so the second moments of the unit-length embeddings are diagonalised as they are, without
their mean taken away (an uncentred principal component analysis): of all projections to that many dimensions
it keeps the most of every inner product, in the mean of squares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.training.sampling import sampled_faces
from pocketnet_fast.training.teacher import Teacher

PROJECTION_NAME: Final = "teacher_projection.safetensors"
_IMAGES: Final = 8192


def principal_directions(embeddings: Tensor, dimensions: int) -> Tensor:
    """The directions that keep the most of unit-length embeddings.

    Args:
        embeddings: N,D of any length.
        dimensions: How many, at most D.

    Returns:
        float32 D,``dimensions`` with orthonormal columns, the most important first.

    Raises:
        PocketNetError: There are fewer embeddings than dimensions.
    """
    count, width = embeddings.shape
    if count < dimensions or width < dimensions:
        raise PocketNetError(
            f"{count} embeddings of {width} dimensions do not fix {dimensions} directions; "
            "more faces are needed"
        )
    unit = functional.normalize(embeddings.double())
    directions = torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1)[:, :dimensions]
    # An eigenvector's sign is arbitrary; the largest component is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return (directions * largest.sign()).float()


def project_teacher(
    teacher: Teacher, dimensions: int, dataset: FaceDataset, processes: Processes, folder: Path | None
) -> None:
    """Give a teacher embeddings of fewer dimensions, those that the run's folder holds if it holds them.

    Args:
        teacher: Whose ``embedding_dim`` is larger.
        dimensions: The pupil's.
        dataset: The transfer set, of which up to 8,192 faces are embedded.
        processes: The processes of the run; the first one computes and writes.
        folder: The folder of the run, or None: nothing is kept.

    Raises:
        PocketNetError: The dataset is too small, or the kept projection is for something else.
    """
    projection = torch.empty(teacher.embedding_dim, dimensions, device=processes.device)
    if processes.first:
        path = None if folder is None else folder / PROJECTION_NAME
        if path is not None and path.is_file():
            kept = _read(path)
            if kept.shape != projection.shape:
                raise PocketNetError(
                    f"{path} projects {kept.shape[0]} to {kept.shape[1]} dimensions; the teacher's "
                    f"embeddings have {teacher.embedding_dim} and the pupil's {dimensions}"
                )
        else:
            faces = sampled_faces(dataset, _IMAGES)
            embeddings = torch.cat([teacher(batch.to(processes.device)) for batch in faces])
            kept = principal_directions(embeddings, dimensions)
            if path is not None:
                _write(path, kept)
        projection.copy_(kept)
    processes.take_first_([projection])
    teacher.project(projection)


def _read(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PocketNetError(f"{path} is damaged: {error}") from None
    if set(tensors) != {"projection"} or tensors["projection"].dim() != 2:
        raise PocketNetError(f"{path} is not a teacher's projection")
    return tensors["projection"]


def _write(path: Path, projection: Tensor) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(save({"projection": projection.cpu().contiguous()}))
