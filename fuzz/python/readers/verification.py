"""Pairs, features and lists of the verification benchmarks."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketnet_fast.errors import PocketNetError
from readers.checksums import zip_with_checksums
from readers.target import BETWEEN, JSON_WORDS, PICKLE_WORDS, Target, laid, png


def _read_bin(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.bin_file import read_bin

    pairs = read_bin(laid(data, folder, "pairs.bin"))
    assert len(pairs.images) == 2 * len(pairs.same)
    assert all(isinstance(image, bytes) for image in pairs.images)


def _bin_seeds() -> Iterator[bytes]:
    image = png()
    for protocol in (0, 2, 4):
        yield pickle.dumps(([image, image], [True]), protocol)
    yield pickle.dumps(([np.frombuffer(image, np.uint8)] * 2, np.array([True])))
    yield pickle.dumps(([bytearray(image), image], [np.bool_(False)]), 4)


def _read_npz(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.pairs_npz import read_npz

    pairs = read_npz(laid(zip_with_checksums(data), folder, "pairs.npz"))
    for image in pairs.images:
        assert isinstance(image, bytes)


def _npz_seeds() -> Iterator[bytes]:
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        offsets = np.array([0, 4, 9], np.int64)
        write(stream, images=np.arange(9, dtype=np.uint8), offsets=offsets, same=np.array([True]))
        yield stream.getvalue()


def _read_pairs_folder(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.pairs_folder import read_pairs_folder

    laid(data, folder, "pairs.csv")
    read_pairs_folder(folder)


def _read_features(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.feature_file import read_embedding, read_features

    path = laid(data, folder, "a.bin")
    assert read_features(path).ndim == 2
    assert np.isfinite(read_embedding(path)).all()


def _read_face_list(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.face_list import is_noise, read_face_list, read_noise_list, without_noise

    path = laid(data, folder, "list.json")
    noise: frozenset[tuple[str, ...]] = frozenset()
    with contextlib.suppress(PocketNetError):
        noise = read_noise_list(path)
    faces = read_face_list(path)
    assert len(without_noise(faces, noise)) <= len(faces) == len(faces.ids)
    assert not is_noise("a/b.jpg", frozenset())


def _read_ijb(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation import ijb_files

    (folder / "meta").mkdir()
    (folder / "loose_crop").mkdir()
    parts = [*data.split(BETWEEN), b"", b"", b""]
    names = ("face_tid_mid", "template_pair_label", "name_5pts_score")
    for part, name in zip(parts, names, strict=False):
        laid(part, folder / "meta", f"ijbb_{name}.txt")
    subjects = laid(parts[3], folder, "ijbb_1N_probe_mixed.csv")
    files = ijb_files.find_files(folder)
    with contextlib.suppress(PocketNetError):
        ijb_files.read_subjects(subjects)
    with contextlib.suppress(PocketNetError):
        list(ijb_files.iterate_pairs(files))
    members, _, _ = ijb_files.read_members(files)
    list(ijb_files.iterate_images(files, members))


TARGETS = {
    "bin_pairs": Target(_read_bin, _bin_seeds, PICKLE_WORDS),
    "npz_pairs": Target(_read_npz, _npz_seeds, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY")),
    "pairs_folder": Target(
        _read_pairs_folder,
        lambda: [b"left,right,same\na.png,b.png,1\n", b"left,right,same\n"],
        (b"\0", b'"', b".."),
    ),
    "features": Target(
        _read_features,
        lambda: [
            struct.pack("<4i", rows, columns, 4 * columns, 5) + bytes(8) for rows, columns in ((2, 1), (1, 2))
        ],
        (b"\x05\0\0\0", b"\xff\xff\xff\x7f"),
        256,
    ),
    "face_list": Target(
        _read_face_list,
        lambda: [
            b'{"path": ["a/b.jpg", "c/d.png"], "id": ["a", "c"]}',
            b"a/b.jpg\nc/d.jpg\n",
            b"# x\n1\ta b_1.png\n",
        ],
        (*JSON_WORDS, b'"path"', b'"id"', b"..", b"/"),
    ),
    "ijb": Target(
        _read_ijb,
        lambda: [
            BETWEEN.join(
                [
                    b"1.jpg 1 69544\n2.jpg 2 3\n",
                    b"1 2 1\n1 1 0\n",
                    b"1.jpg 1 2 3 4 5 6 7 8 9 10 0.9\n2.jpg 1 2 3 4 5 6 7 8 9 10 1\n",
                    b"TEMPLATE_ID,SUBJECT_ID\n1,2\n",
                ]
            )
        ],
        (BETWEEN, b"9" * 20, b"nan", b"1e999", b"\0", b'"'),
    ),
}
