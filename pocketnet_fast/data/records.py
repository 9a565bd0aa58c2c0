"""A record file as a dataset of face crops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.dataset import FaceDataset, decode_crop
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.recordio import (
    CorruptRecordError,
    RecordFile,
    image_index,
    read_labels,
    unpack_image,
)
from pocketnet_fast.errors import PocketNetError

RECORDS_NAME: Final = "train.rec"
PROPERTY_NAME: Final = "property"


def _records_of(path: Path) -> Path:
    return path / RECORDS_NAME if path.is_dir() else path


def damaged_records(path: str | os.PathLike[str]) -> dict[int, str]:
    """Say what is wrong with the image records that are damaged, by place in the dataset; decodes no image.

    ``RecordDataset`` opens no file that has some, as their identities are unknown.

    Args:
        path: As for ``RecordDataset``.

    Raises:
        PocketNetError: There is no such file.
        CorruptRecordError: The index must be rebuilt, or record 0 is damaged: there are no places then.
    """
    file = RecordFile(_records_of(Path(path)))
    found = {}
    for place, (key, offset) in enumerate(image_index(file).tolist()):
        try:
            unpack_image(file.read_at(offset), f"{file.path}: key {key} (offset {offset})")
        except CorruptRecordError as error:
            found[place] = str(error)
    return found


class RecordDataset(FaceDataset):
    """The images of a ``.rec`` file.

    The labels are read from the records' headers when the dataset is opened; no image is. The first label of
    a record is its identity. The distinct identities, in ascending order, become the classes 0, 1, ...:
    identities that are numbered without gaps from 0 keep their numbers.

    Args:
        path: The ``.rec`` file, or a folder that holds ``train.rec``, ``train.idx`` and, if there is one,
            ``property``: one line, "classes,height,width", which is then checked.

    Attributes:
        file: The records.
        keys: int64, the key of each image's record.
        offsets: int64, where it starts in the file, in bytes.
        identities: int64, the number by which the file calls each class.

    Raises:
        PocketNetError: A file is missing, there is no image, or ``property`` says something else.
        CorruptRecordError: A record's header is damaged or its label is no identity.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        records = _records_of(folder)
        self.name = str(path)
        self.file = RecordFile(records)
        self.keys, self.offsets = image_index(self.file).T
        if not self.keys.size:
            raise PocketNetError(f"{records} holds no image")
        stated = read_labels(self.file, self.offsets)
        wrong = np.flatnonzero(~((stated >= 0) & (stated < 2**31) & (stated == np.floor(stated))))
        if wrong.size:
            raise CorruptRecordError(
                f"{self._place(int(wrong[0]))}: the label {stated[wrong[0]]:g} is no identity; "
                "expected an integer from 0"
            )
        self.identities, labels = np.unique(stated.astype(np.int64), return_inverse=True)
        self.labels = labels.astype(np.int64)
        self.classes = len(self.identities)
        if folder.is_dir() and (folder / PROPERTY_NAME).exists():
            self._check_property(folder / PROPERTY_NAME)

    def image(self, index: int) -> ImageArray:
        """Read and decode one crop: 112 x 112 x 3 uint8, RGB.

        Raises:
            CorruptRecordError: The record is damaged.
            PocketNetError: The image is damaged or has another size.
        """
        return decode_crop(self.encoded(index), self._place(index))

    def encoded(self, index: int) -> bytes:
        """Read an image as it is stored.

        Raises:
            CorruptRecordError: The record is damaged.
        """
        payload = self.file.read_at(int(self.offsets[index]))
        return unpack_image(payload, self._place(index)).image

    def _place(self, index: int) -> str:
        return f"{self.file.path}: key {self.keys[index]} (offset {self.offsets[index]})"

    def _check_property(self, path: Path) -> None:
        text = path.read_text(encoding="ascii", errors="replace").strip()
        fields = text.split(",")
        if len(fields) != 3 or not all(field.strip().isdecimal() for field in fields):
            raise PocketNetError(f'{path} holds {text!r}; expected "classes,height,width"')
        classes, height, width = map(int, fields)
        if (height, width) != (CROP_SIZE, CROP_SIZE):
            raise PocketNetError(
                f"{path} announces images of {width}x{height}; expected {CROP_SIZE}x{CROP_SIZE}"
            )
        if classes != self.classes:
            raise PocketNetError(
                f"{path} announces {classes:,} identities, and the records hold {self.classes:,}; "
                "correct or remove it, or name the .rec file itself"
            )
