"""Data sets that networks learn from."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketnet_fast.errors import PocketNetError
from readers.checksums import tar_with_checksums
from readers.target import BETWEEN, PICKLE_WORDS, Target, laid, png


def _read_records(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.recordio import RecordFile, image_keys
    from pocketnet_fast.data.records import RecordDataset, damaged_records

    index, between, records = data.partition(BETWEEN)
    path = laid(records if between else data, folder, "train.rec")
    if between:
        laid(index, folder, "train.idx")
    file = RecordFile(path)
    for key in file.keys[:8]:
        with contextlib.suppress(PocketNetError):
            file.read(key)
    with contextlib.suppress(PocketNetError):
        image_keys(file)
    file.close()
    with contextlib.suppress(PocketNetError):
        damaged_records(path)
    dataset = RecordDataset(path)
    for place in range(min(len(dataset), 2)):
        with contextlib.suppress(PocketNetError):
            dataset.image(place)


def _record_seeds() -> Iterator[bytes]:
    from pocketnet_fast.data.recordio import ImageRecord, RecordWriter, pack_image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.rec"
        with RecordWriter(path) as writer:
            writer.write(0, pack_image(ImageRecord(np.array([3.0, 5.0], np.float32), b"")))
            for key in (1, 2):
                writer.write(key, pack_image(ImageRecord(np.array([key - 1.0], np.float32), png(), key)))
            writer.write(3, b"ab" + struct.pack("<I", 0xCED7230A) * 2)
        yield path.read_bytes()
        yield path.with_suffix(".idx").read_bytes() + BETWEEN + path.read_bytes()


def _read_image_table(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.stored_images import ImageInputs, StoredImage

    # Tables are kept by their paths.
    inputs = ImageInputs([laid(data, folder, f"images{_number()}.parquet")])
    # A table may state any number of rows; the first ones are read.
    for image in inputs.part(1, max(len(inputs) // 2, 1)):
        assert isinstance(image, StoredImage) and isinstance(image.name, str)
        with contextlib.suppress(PocketNetError):
            assert isinstance(image.read(), bytes)


_number = itertools.count().__next__


def _image_table_seeds() -> Iterator[bytes]:
    import pyarrow
    from pyarrow import parquet

    images = [b"a", None, b"c"]
    for columns in (
        {"image": images, "file": ["x", None, "z"]},
        {"bytes": pyarrow.array([b"a", b"a", b"a"]).dictionary_encode()},
        {"image": [{"bytes": content, "path": "p"} for content in images]},
    ):
        stream = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), stream, compression="none", row_group_size=2)
        yield stream.getvalue()


def _read_mixture(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.opening import open_dataset

    text, _, exclude = data.partition(BETWEEN)
    laid(exclude, folder, "exclude.txt")
    open_dataset(laid(text, folder, "mixture.toml"))


def _read_cifar(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.cifar import CifarDataset

    dataset = CifarDataset(laid(tar_with_checksums(data), folder, "cifar.tar"))
    assert len(dataset) == 0 or dataset.image(0).shape == (112, 112, 3)


def _cifar_seeds() -> Iterator[bytes]:
    import tarfile

    # As Python 2 wrote it: an array of numpy's, whose bytes are text.
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntRp1\n"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntRp2\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    state = b"(I1\n(I1\nI3072\nt" + kind + b"I00\nS'" + b"0" * 3072 + b"'\ntb"
    batch = b"(dS'data'\n" + array + state + b"sS'labels'\n(lI3\nas."
    for name, content in (("data_batch_1", batch), ("data_batch_1.bin", bytes(3073))):
        member = tarfile.TarInfo(f"cifar/{name}")
        member.size = len(content)
        for mode, kind in (
            ("w", tarfile.USTAR_FORMAT),
            ("w:gz", tarfile.PAX_FORMAT),
            ("w:xz", tarfile.GNU_FORMAT),
        ):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode=mode, format=kind, pax_headers={"size": "9"}) as archive:
                archive.addfile(member, io.BytesIO(content))
            yield stream.getvalue()


TARGETS = {
    "records": Target(_read_records, _record_seeds, (b"\x0a\x23\xd7\xce", BETWEEN, b"\t", b"9" * 20)),
    "image_table": Target(_read_image_table, _image_table_seeds, (b"PAR1", b"ARROW:schema"), 8192),
    "mixture": Target(
        _read_mixture,
        lambda: [
            b'[[faces]]\nsource = "synthetic:identities=4,images=2"\nrepeat = 2\nexclude = "exclude.txt"\n'
            + BETWEEN
            + b"1\n2\n"
        ],
        (BETWEEN, b"[[faces]]", b"repeat", b"exclude", b"synthetic:", b"[" * 40),
        512,
    ),
    "cifar": Target(_read_cifar, _cifar_seeds, (*PICKLE_WORDS, b"data_batch_2", b"ustar"), 16_384),
}
