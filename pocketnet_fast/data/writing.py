"""Writing datasets: a record file with its index, or a folder of one folder per identity."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.recordio import ImageRecord, RecordWriter, pack_image
from pocketnet_fast.data.records import PROPERTY_NAME, RECORDS_NAME
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

Labels = npt.NDArray[np.int64]
Read = Callable[[int], bytes]

_MAX_IDENTITIES: Final = 1 << 24  # float32, the type of labels in records, counts no further
_SUFFIXES: Final = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


def write_records(
    path: str | os.PathLike[str], labels: Labels, read: Read, on_image: Callable[[], None] = lambda: None
) -> None:
    """Write a record file, laid out as the distributed ones are, and its index; both appear at the end.

    Record 0 says that the images have the keys 1 to N. They are in the order of their labels; after them
    comes a record for each identity, with the first of its keys and the one after the last. Beside a file
    named ``train.rec`` stands ``property`` in the end, so that its folder is a dataset.

    Args:
        path: The ``.rec`` file.
        labels: Identity of each image, 0..classes-1.
        read: Returns an encoded image, given its place in ``labels``.
        on_image: Called after each image, for progress.

    Raises:
        PocketNetError: The file's name is another, or a file cannot be written; or what ``read`` raises.
    """
    path = Path(path)
    if path.suffix != ".rec":
        raise PocketNetError(f"{path}: the name of a record file ends with .rec")
    classes = int(labels.max()) + 1
    if classes > _MAX_IDENTITIES:
        raise PocketNetError(f"{classes:,} identities are more than records can number")
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(classes + 1)) + 1
    with RecordWriter(path) as writer:

        def write(key: int, stated: Sequence[int], image: bytes = b"") -> None:
            writer.write(key, pack_image(ImageRecord(np.array(stated, np.float32), image, key)))

        count = len(labels)
        write(0, (count + 1, count + 1 + classes))
        for key, index in enumerate(order, 1):
            write(key, (int(labels[index]),), read(int(index)))
            on_image()
        for label in range(classes):
            write(count + 1 + label, (int(bounds[label]), int(bounds[label + 1])))
    if path.name == RECORDS_NAME:
        with atomic_write(path.with_name(PROPERTY_NAME)) as file:
            file.write(f"{classes},{CROP_SIZE},{CROP_SIZE}\n".encode())


def write_folder(
    path: str | os.PathLike[str],
    labels: Labels,
    names: Sequence[str],
    read: Read,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write a folder of one folder per identity; it appears when it is complete.

    Args:
        path: The folder, which must not exist.
        labels: Identity of each image, 0..classes-1.
        names: The names of the identities' folders.
        read: Returns an encoded image, given its place in ``labels``.
        on_image: Called after each image, for progress.

    Raises:
        PocketNetError: The folder exists or cannot be written, or the kind of an image is unknown; or what
            ``read`` raises.
    """
    digits = len(str(len(labels) - 1))
    with new_folder(path) as folder:
        for name in names:
            (folder / name).mkdir()
        for index, label in enumerate(labels):
            image = read(index)
            suffix = image_suffix(image)
            if suffix is None:
                raise PocketNetError(f"image {index} is neither JPEG, PNG, WebP nor BMP")
            (folder / names[label] / f"{index:0{digits}}{suffix}").write_bytes(image)
            on_image()


def image_suffix(image: bytes) -> str | None:
    """Return the suffix of an encoded image's kind, told from its first bytes; None for other kinds."""
    return next((suffix for start, suffix in _SUFFIXES if image.startswith(start)), None)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends without an exception.

    Raises:
        PocketNetError: ``path`` exists or cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise PocketNetError(f"{path} exists already; expected a folder to make")
    temporary = target.with_name(f".pocketnet-{secrets.token_hex(6)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(target)
    except OSError as error:
        raise PocketNetError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
