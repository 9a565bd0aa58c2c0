"""What is fuzzed in Python: every reader of bytes that come from elsewhere.

A reader gives a result or a ``PocketNetError``; whatever else it does with any bytes, a warning and a line on
the terminal included, is a defect. ``run.py`` looks for such bytes; ``tests/test_fuzz_corpora.py`` replays
what it found.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import shutil
import sqlite3
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketnet_fast.errors import PocketNetError

ROOT = Path(__file__).resolve().parents[2]
CORPORA = Path(__file__).resolve().parent / "corpora"
# Between the files of a target that reads several.
BETWEEN = b"\n====\n"


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        read: Reads bytes, with a folder to lay them into, which is empty again afterwards.
        seeds: What fuzzing begins with.
        words: What mutations may insert, besides what they find.
        longest: Bytes of an input.
    """

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    longest: int = 4096


class Finding(AssertionError):
    """A reader did with some bytes what none may."""


def try_reader(name: str, data: bytes) -> bool:
    """Read an input; returns whether it was accepted.

    Raises:
        Finding: The reader neither gave a result nor refused.
    """
    folder = _folder()
    said = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with _listening() as printed:
                TARGETS[name].read(data, folder)
        accepted = True
    except PocketNetError as error:
        accepted, said = False, str(error)
    except Exception as error:
        raise Finding(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        for entry in os.scandir(folder):
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()
    if printed():
        raise Finding(f"{name}: it printed {printed()!r}")
    if not accepted and not said.strip():
        raise Finding(f"{name}: refused without a word")
    return accepted


@functools.cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="pocketnet-fuzz-", dir=memory if memory.is_dir() else None))


def remove_folder() -> None:
    """Remove what inputs were laid into."""
    shutil.rmtree(_folder(), ignore_errors=True)


@functools.cache
def _ear() -> io.BufferedRandom:
    return open(_folder().with_suffix(".said"), "w+b", buffering=0)  # noqa: PTH123


@contextlib.contextmanager
def _listening() -> Iterator[Callable[[], bytes]]:
    """What libraries write to the terminal while this is open; yields what gives it afterwards."""
    ear = _ear()
    ear.seek(0)
    ear.truncate()
    kept = [os.dup(1), os.dup(2)]
    os.dup2(ear.fileno(), 1)
    os.dup2(ear.fileno(), 2)

    def heard() -> bytes:
        ear.seek(0)
        return ear.read(400)

    try:
        yield heard
    finally:
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _laid(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# Record files.


def _read_records(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.recordio import RecordFile, image_keys
    from pocketnet_fast.data.records import RecordDataset, damaged_records

    index, between, records = data.partition(BETWEEN)
    path = _laid(records if between else data, folder, "train.rec")
    if between:
        _laid(index, folder, "train.idx")
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
                writer.write(key, pack_image(ImageRecord(np.array([key - 1.0], np.float32), _png(), key)))
            writer.write(3, b"ab" + struct.pack("<I", 0xCED7230A) * 2)
        yield path.read_bytes()
        yield path.with_suffix(".idx").read_bytes() + BETWEEN + path.read_bytes()


# Verification files.


def _read_bin(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.bin_file import read_bin

    pairs = read_bin(_laid(data, folder, "pairs.bin"))
    assert len(pairs.images) == 2 * len(pairs.same)
    assert all(isinstance(image, bytes) for image in pairs.images)


def _bin_seeds() -> Iterator[bytes]:
    image = _png()
    for protocol in (0, 2, 4):
        yield pickle.dumps(([image, image], [True]), protocol)
    yield pickle.dumps(([np.frombuffer(image, np.uint8)] * 2, np.array([True])))
    yield pickle.dumps(([bytearray(image), image], [np.bool_(False)]), 4)


def _read_npz(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.pairs_npz import read_npz

    pairs = read_npz(_laid(data, folder, "pairs.npz"))
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

    _laid(data, folder, "pairs.csv")
    read_pairs_folder(folder)


# Lists and features of MegaFace, and metadata of IJB.


def _read_features(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.feature_file import read_embedding, read_features

    path = _laid(data, folder, "a.bin")
    assert read_features(path).ndim == 2
    assert np.isfinite(read_embedding(path)).all()


def _read_face_list(data: bytes, folder: Path) -> None:
    from pocketnet_fast.evaluation.face_list import is_noise, read_face_list, read_noise_list, without_noise

    path = _laid(data, folder, "list.json")
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
        _laid(part, folder / "meta", f"ijbb_{name}.txt")
    subjects = _laid(parts[3], folder, "ijbb_1N_probe_mixed.csv")
    files = ijb_files.find_files(folder)
    with contextlib.suppress(PocketNetError):
        ijb_files.read_subjects(subjects)
    with contextlib.suppress(PocketNetError):
        list(ijb_files.iterate_pairs(files))
    members, _, _ = ijb_files.read_members(files)
    list(ijb_files.iterate_images(files, members))


# Recipes, mixtures, genotypes, tables.


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _read_recipe(data: bytes, folder: Path) -> None:
    from pocketnet_fast.search.recipe import load_search_recipe
    from pocketnet_fast.training.recipe import load_recipe

    text, _, override = data.partition(BETWEEN)
    path = _laid(text, folder, "recipe.toml")
    overrides = dict(line.split("=", 1) for line in _text(override).splitlines() if "=" in line)
    for load in (load_recipe, load_search_recipe):
        with contextlib.suppress(PocketNetError):
            recipe = load(path, overrides)
            # What was read is written so that it is read again.
            assert type(recipe).from_toml(recipe.to_toml(), "again") == recipe


def _recipe_seeds() -> Iterator[bytes]:
    for folder in ("training", "search"):
        for path in sorted((ROOT / "pocketnet_fast" / folder / "recipes").glob("*.toml")):
            yield path.read_bytes()
    yield (
        (ROOT / "pocketnet_fast/training/recipes/synthetic_tiny.toml").read_bytes()
        + BETWEEN
        + (b"optimizer.lr=0.5\nrun.precision=bf16\ndata.turn=none\n")
    )


def _read_mixture(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.opening import open_dataset

    text, _, exclude = data.partition(BETWEEN)
    _laid(exclude, folder, "exclude.txt")
    open_dataset(_laid(text, folder, "mixture.toml"))


def _read_genotype(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.genotypes import format_genotype, parse_genotype, read_genotype

    genotype = read_genotype(_laid(data, folder, "genotype.txt"))
    assert parse_genotype(format_genotype(genotype)) == genotype


def _genotype_seeds() -> Iterator[bytes]:
    from pocketnet_fast.models.genotypes import PUBLISHED, format_genotype, genotype_to_json

    for genotype in PUBLISHED.values():
        yield format_genotype(genotype).encode()
        yield genotype_to_json(genotype).encode()


def _read_latencies(data: bytes, folder: Path) -> None:
    from pocketnet_fast.search.latency import read_latency_table

    read_latency_table(_laid(data, folder, "table.json"))


def _latency_seeds() -> Iterator[bytes]:
    entry = {"operation": "skip_connect", "channels": 16, "stride": 1, "height": 7, "width": 7, "ms": 0.1}
    yield json.dumps({"machine": "one", "entries": [entry]}).encode()


# Weights.


def _read_weights(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.loading import load_model

    name, _, content = data.partition(b"\n")
    known = (".safetensors", ".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
    suffix = known[name[0] % len(known)] if name else known[0]
    load_model(_laid(content, folder, f"weights{suffix}"))


def _weight_seeds() -> Iterator[bytes]:
    import torch
    from safetensors.torch import save

    state = {"stem.0.weight": torch.zeros(2, 3, 1, 1), "tail.7.bias": torch.ones(2)}
    yield b"\0\n" + save(state)
    yield b"\0\n" + save(state, {"model_name": "pocketnet_s128", "calibration": "{}", "genotype": "x"})
    for wrapped in (state, {"state_dict": {f"module.{key}": value for key, value in state.items()}}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(wrapped, stream, _use_new_zipfile_serialization=zipped)
            yield b"\1\n" + stream.getvalue()


def _read_calibration(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.calibration import Calibration

    calibration = Calibration.from_json(_text(data), "weights")
    assert Calibration.from_json(json.dumps(calibration.as_dict()), "again") == calibration
    assert str(calibration)


def _calibration_seeds() -> Iterator[bytes]:
    from safetensors import safe_open

    path = ROOT / "pocketnet_fast/models/pretrained/pocketnet_s128.safetensors"
    with safe_open(path, framework="np") as file:
        yield file.metadata()["calibration"].encode()
    yield json.dumps(
        {
            **{"threshold": 0.4, "far": 1e-3, "measured_far": 1e-3, "measured_tar": 0.9, "flip": True},
            **{"impostor_pairs": 1000, "genuine_pairs": 10, "dataset": "lfw (all pairs)"},
            "weights_sha256": "00",
        }
    ).encode()


def _read_state(data: bytes, folder: Path) -> None:
    from pocketnet_fast.resumable.state_file import read_state

    read_state(_laid(data, folder, "state.safetensors"), "pocketnet_fast.training.1")


def _state_seeds() -> Iterator[bytes]:
    import torch

    from pocketnet_fast.resumable.state_file import write_state

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        write_state(
            path, {"momentum": torch.ones(2, 3)}, {"format": "pocketnet_fast.training.1", "progress": "{}"}
        )
        yield path.read_bytes()


def _read_onnx(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.onnx_weights import read_onnx_weights
    from pocketnet_fast.models.yunet import read_onnx

    path = _laid(data, folder, "network.onnx")
    with contextlib.suppress(PocketNetError):
        read_onnx(path)
    read_onnx_weights(path)


def _onnx_seeds() -> Iterator[bytes]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ones(shape, np.float32), name)

    def model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> bytes:
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])
        result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [image], [result], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        return bytes(made.SerializeToString())

    node = helper.make_node
    norm = [constant(f"n{i}", 4) for i in range(4)]
    products = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "n0", "n1", "n2", "n3"], ["b"]),
        node("PRelu", ["b", "s"], ["p"]),
        node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "g", "h"], ["y"], transB=1),
    ]
    slopes, matrix, bias = constant("s", 4, 1, 1), constant("g", 2, 4), constant("h", 2)
    yield model(products, [constant("w", 4, 3, 3, 3), *norm, slopes, matrix, bias])
    shapes = [
        node("Constant", [], ["k"], value=constant("k", 2)),
        node("Cast", ["k"], ["i"], to=TensorProto.INT64),
        node("Shape", ["x"], ["q"]),
        node("Reshape", ["x", "i"], ["r"]),
        node("Clip", ["r", "", ""], ["y"]),
    ]
    yield model(shapes, [])


# Images.


def _read_image_header(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.image_header import DamagedError, UnreadError, read_header, what_is
    from pocketnet_fast.data.jpeg_file import check_jpeg

    what_is(data)
    try:
        header = read_header(data)
        if data.startswith(b"\xff\xd8"):
            check_jpeg(data)
    except (DamagedError, UnreadError) as error:
        raise PocketNetError(str(error)) from None
    assert header.width > 0 and header.height > 0


def _read_image(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.images import ImageLimits, decode_image

    image = decode_image(data, limits=ImageLimits(pixels=1 << 20, bytes=1 << 20))
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0


def _image_seeds() -> Iterator[bytes]:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from hostile_files import hostile
        from image_files import readable
    finally:
        sys.path.pop(0)
    yield from (case.data for case in readable() if len(case.data) < 20_000)
    yield from (data for data in hostile().values() if len(data) < 20_000)


def _png() -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", np.zeros((112, 112, 3), np.uint8))[1])


# Galleries.


def _read_gallery(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery import Gallery

    path = _laid(data, folder, "people.gallery")
    with Gallery(path, timeout=0.2) as gallery:
        gallery.check()
        gallery.contents()
        for person in gallery.people(limit=4):
            with contextlib.suppress(PocketNetError):
                gallery.faces(person.id)
        _, embeddings = gallery.embeddings()
        if len(embeddings):
            gallery.search(np.asarray(embeddings[:1]), top=2)


def _gallery_seeds() -> Iterator[bytes]:
    for mode in ("delete", "wal"):
        yield _gallery(mode)


@functools.cache
def _gallery(mode: str = "delete") -> bytes:
    from pocketnet_fast.gallery import Gallery
    from pocketnet_fast.gallery.space import EmbeddingSpace

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.gallery"
        with Gallery.create(path, EmbeddingSpace("small", "00" * 32, True, 4)) as gallery:
            gallery.add(["Ann", "Ann", "Bob"], np.eye(4, dtype=np.float32)[:3])
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute(f"PRAGMA journal_mode={mode}")
        return path.read_bytes()


def _read_vectors(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery import vectors_cache

    gallery = folder / "people.gallery"
    vectors_cache.cache_path(gallery).write_bytes(_with_sum(data))
    uuid = "0" * 36
    damage = vectors_cache.damage_of_cache(gallery, 4, uuid)
    found = vectors_cache.read_cache(gallery, 4, uuid)
    assert (found is not None) or damage is not None
    if damage is not None:
        raise PocketNetError(damage)


def _with_sum(data: bytes) -> bytes:
    """The bytes with the first page's own checksum, which would keep every changed page out."""
    from pocketnet_fast.gallery.vectors_cache import _FACTS

    if len(data) < _FACTS.size + 4:
        return data
    sum_of_facts = struct.pack("<I", zlib.crc32(data[: _FACTS.size]))
    return data[: _FACTS.size] + sum_of_facts + data[_FACTS.size + 4 :]


def _vector_seeds() -> Iterator[bytes]:
    from pocketnet_fast.gallery.vectors_cache import State, cache_path, write_cache

    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "people.gallery"
        for count in (0, 3):
            ids = np.arange(1, count + 1, dtype=np.int64)
            write_cache(gallery, State("0" * 36, 7, 9), ids, ids, [np.eye(4, dtype=np.float32)[:count]], 4)
            yield cache_path(gallery).read_bytes()


def _read_table(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery.transfer import import_table

    kind, _, content = data.partition(b"\n")
    suffixes = (".csv", ".npz", ".parquet")
    suffix = suffixes[kind[0] % len(suffixes)] if kind else suffixes[0]
    import_table(_laid(content, folder, f"people{suffix}"))


def _table_seeds() -> Iterator[bytes]:
    from pocketnet_fast.gallery import Gallery
    from pocketnet_fast.gallery.transfer import export_gallery

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.gallery"
        path.write_bytes(_gallery())
        with Gallery(path) as gallery:
            for number, suffix in enumerate((".csv", ".npz", ".parquet")):
                target = Path(folder) / f"people{suffix}"
                export_gallery(gallery, target)
                yield bytes([number]) + b"\n" + target.read_bytes()


def _read_old_gallery(data: bytes, folder: Path) -> None:
    from pocketnet_fast.gallery.migration import MANIFEST, read_old_gallery

    parts = [*data.split(BETWEEN), b"", b"", b""]
    manifest = parts[0]
    # Their checksums would keep every changed file out.
    for name, content in zip((b"e", b"i", b"n"), parts[1:], strict=False):
        manifest = manifest.replace(b"%" + name, str(zlib.crc32(content)).encode())
        manifest = manifest.replace(b"#" + name, str(len(content)).encode())
        _laid(content, folder, name.decode())
    _laid(manifest, folder, MANIFEST)
    read_old_gallery(folder)


def _old_gallery_seeds() -> Iterator[bytes]:
    from dataclasses import asdict

    from pocketnet_fast.gallery import migration
    from pocketnet_fast.gallery.space import EmbeddingSpace

    entries = b"Ann\na.jpg\n"
    files = dict(zip(migration._PARTS, "ein", strict=True))
    content = {
        "format": migration._FORMAT,
        "space": asdict(EmbeddingSpace("small", "00" * 32, True, 4)),
        "rows": 1,
        "files": files,
        "bytes": {part: f"#{name}" for part, name in files.items()},
        "crc32": {part: f"%{name}" for part, name in files.items()},
        "name_by": "file",
    }
    manifest = json.dumps(content).replace('"#', "#").replace('"%', "%")
    for name in "ein":
        manifest = manifest.replace(f'#{name}"', f"#{name}").replace(f'%{name}"', f"%{name}")
    by_part = {
        "embeddings": np.array([1, 0, 0, 0], "<f4").tobytes(),
        "entries": entries,
        "ends": struct.pack("<Q", len(entries)),
    }
    yield BETWEEN.join([manifest.encode(), *(by_part[part] for part in migration._PARTS)])


# Exported files, and archives.


def _read_metadata(data: bytes, folder: Path) -> None:
    from pocketnet_fast.export.aotinductor import read_package_metadata
    from pocketnet_fast.export.exported import is_exported
    from pocketnet_fast.export.torchscript_file import read_metadata

    path = _laid(data, folder, "network.pt")
    is_exported(path)
    with contextlib.suppress(PocketNetError):
        read_package_metadata(path)
    read_metadata(path)


def _metadata_seeds() -> Iterator[bytes]:
    from pocketnet_fast.export.torchscript import METADATA_FILE

    about = json.dumps({"model": "small", "embedding_dim": 4, "input": "uint8"})
    files = {f"network/extra/{METADATA_FILE}": about, "network/code/a.py": "", "network/version": "3"}
    package = {"p/data/aotinductor/model/a_metadata.json": json.dumps({METADATA_FILE: about})}
    for content in (files, package):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
        yield stream.getvalue()


def _read_cifar(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.cifar import CifarDataset

    dataset = CifarDataset(_laid(data, folder, "cifar.tar"))
    assert len(dataset) == 0 or dataset.image(0).shape == (112, 112, 3)


def _cifar_seeds() -> Iterator[bytes]:
    import tarfile

    # As Python 2 wrote it: an array of numpy's, whose bytes are text.
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntRp1\n"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntRp2\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    state = b"(I1\n(I1\nI3072\nt" + kind + b"I00\nS'" + b"0" * 3072 + b"'\ntb"
    batch = b"(dS'data'\n" + array + state + b"sS'labels'\n(lI3\nas."
    for name, content in (("data_batch_1", batch), ("data_batch_1.bin", bytes(3073))):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        yield stream.getvalue()


_JSON = (b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 30, b"[" * 40, b'{"a":' * 20)
_PICKLE = (
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
    b"R",
    b"b",
    b"\x80\x04",
    b"\x94",
    b"h\x00",
    b"r",
    b"0" * 20,
)

TARGETS = {
    "records": Target(_read_records, _record_seeds, (b"\x0a\x23\xd7\xce", BETWEEN, b"\t", b"9" * 20)),
    "bin_pairs": Target(_read_bin, _bin_seeds, _PICKLE),
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
        (*_JSON, b'"path"', b'"id"', b"..", b"/"),
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
    "recipe": Target(
        _read_recipe,
        _recipe_seeds,
        (BETWEEN, b"[run]", b"nan", b"inf", b"[" * 40, b"0x", b"=none\n", b"9" * 30),
    ),
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
    "genotype": Target(_read_genotype, _genotype_seeds, (b"range(", b"Genotype(", b"normal_concat=", *_JSON)),
    "latencies": Target(_read_latencies, _latency_seeds, (*_JSON, b'"entries"', b'"ms"')),
    "weights": Target(_read_weights, _weight_seeds, (b"PK\x03\x04", b'"__metadata__"', *_PICKLE), 8192),
    "calibration": Target(_read_calibration, _calibration_seeds, (*_JSON, b'"points"', b'"measured"')),
    "training_state": Target(_read_state, _state_seeds, (b'"format"', b'"sha256"', b"F32")),
    "onnx": Target(
        _read_onnx, _onnx_seeds, (b"Constant", b"Reshape", b"Transpose", b"Cast", b"Conv", b"Gemm", b"Clip")
    ),
    "image_header": Target(
        _read_image_header, _image_seeds, (b"RIFF", b"WEBP", b"ftypavif", b"Exif\0\0", b"II*\0", b"meta")
    ),
    "image": Target(
        _read_image, _image_seeds, (b"RIFF", b"WEBP", b"ftypavif", b"Exif\0\0", b"II*\0", b"IHDR"), 20_000
    ),
    "gallery": Target(
        _read_gallery, _gallery_seeds, (b"SQLite format 3\0", b"CREATE TABLE", b"gallery"), 1 << 17
    ),
    "vectors": Target(_read_vectors, _vector_seeds, (), 1 << 14),
    "people_table": Target(_read_table, _table_seeds, (*_JSON, b"PK\x03\x04", b"PAR1", b'"'), 8192),
    "old_gallery": Target(_read_old_gallery, _old_gallery_seeds, (*_JSON, BETWEEN, b'"rows"')),
    "metadata": Target(
        _read_metadata, _metadata_seeds, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"/extra/", b"/code/")
    ),
    "cifar": Target(_read_cifar, _cifar_seeds, (*_PICKLE, b"data_batch_2", b"ustar"), 16_384),
}
