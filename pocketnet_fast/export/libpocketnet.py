"""The C library that comes with the package (``include/pocketnet.h``), for checking the files it reads."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.ops.native import library_path

Embeddings = npt.NDArray[np.float32]

_FORMATS: Final = {"rgb": 0, "bgr": 1, "grey": 2, "nv12": 3, "nv21": 4}


def _each(kind: Any, *names: str) -> list[tuple[str, Any]]:
    """Fields of one type."""
    return [(name, kind) for name in names]


class _Sized(ctypes.Structure):
    """What begins with its size, by which the library knows the version."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = (("size", ctypes.c_size_t),)


class _OpenOptions(_Sized):
    _fields_ = (
        ("isa", ctypes.c_char_p),
        ("unverified", ctypes.c_int),
        *_each(ctypes.c_size_t, "max_file_bytes", "max_working_bytes"),
        *_each(ctypes.c_uint32, "max_side", "max_steps"),
    )


class _Info(_Sized):
    _fields_ = (
        *_each(
            ctypes.c_uint32, "file_version", "embedding_dim", "crop_side", "takes_photos", "half_precision",
            "thresholds", "default_threshold",
        ),
        ("isa", ctypes.c_char_p),
        ("metadata", ctypes.c_void_p),
        ("metadata_bytes", ctypes.c_size_t),
        ("space", ctypes.c_ubyte * 32),
    )  # fmt: skip


class _ContextOptions(_Sized):
    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("memory_bytes", ctypes.c_size_t),
        *_each(ctypes.c_uint32, "crops_only", "max_photo_side"),
    )


class _Image(ctypes.Structure):
    _fields_ = (
        *_each(ctypes.c_void_p, "pixels", "chroma"),
        *_each(ctypes.c_ssize_t, "stride", "chroma_stride"),
        *_each(ctypes.c_uint32, "width", "height", "format"),
    )


FACE: Final = np.dtype(
    [
        ("box", "<f4", 4),
        ("landmarks", "<f4", (5, 2)),
        ("score", "<f4"),
        ("quality", "<f4"),
        ("turn", "<i4"),
        ("reserved", "<u4"),
    ]
)
"""A ``pocketnet_face``."""


def installed_library() -> Path:
    """The library that was built with the package."""
    return library_path().with_name("libpocketnet.so.1")


class LibraryModel:
    """A .pnf file, opened by the C library. One thread at a time.

    Args:
        file: A path, or the file's content.
        isa: An instruction set by its name; None: the best.
        max_photo_side: The longest side of photos, in pixels; 0: the library's default.
        crops_only: Whether no photos come.
        library: Another build of the library than the package's own.

    Attributes:
        facts: What ``pocketnet_query`` says.
        metadata: What the file says of itself: JSON.
        thresholds: Cosines with their false accept rates.

    Raises:
        PocketNetError: With the library's own words.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | bytes,
        *,
        isa: str | None = None,
        max_photo_side: int = 0,
        crops_only: bool = False,
        library: Path | None = None,
    ) -> None:
        self._library = _loaded(library or installed_library())
        self._model, self._context = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self._open(file, isa, crops_only, max_photo_side)
        except BaseException:
            self.close()
            raise

    def _open(
        self, file: str | os.PathLike[str] | bytes, isa: str | None, crops_only: bool, max_photo_side: int
    ) -> None:
        options = _OpenOptions(size=ctypes.sizeof(_OpenOptions), isa=isa and isa.encode())
        if isinstance(file, bytes):
            self._content = _aligned(file)
            self._call(
                "open_memory",
                ctypes.c_void_p(self._content.ctypes.data),
                ctypes.c_size_t(len(file)),
                ctypes.byref(options),
                ctypes.byref(self._model),
            )
        else:
            self._call("open", os.fsencode(file), ctypes.byref(options), ctypes.byref(self._model))
        self.facts = _Info(size=ctypes.sizeof(_Info))
        self._call("query", self._model, ctypes.byref(self.facts))
        self.metadata = ctypes.string_at(self.facts.metadata or 0, self.facts.metadata_bytes).decode()
        self.thresholds = [self._threshold(index) for index in range(self.facts.thresholds)]
        context = _ContextOptions(
            size=ctypes.sizeof(_ContextOptions), crops_only=crops_only, max_photo_side=max_photo_side
        )
        bytes_ = ctypes.c_size_t()
        self._call("context_bytes", self._model, ctypes.byref(context), ctypes.byref(bytes_))
        self.context_bytes = bytes_.value
        self._call("context_create", self._model, ctypes.byref(context), ctypes.byref(self._context))

    def embed(self, crops: ImageArray, color: str = "rgb") -> Embeddings:
        """Embed crops, N x S x S x 3 uint8: N x D float32 of length 1."""
        images = (_Image * len(crops))(*(_image(crop, color) for crop in crops))
        out = np.empty((len(crops), self.facts.embedding_dim), np.float32)
        self._call("embed", self._context, images, ctypes.c_size_t(len(crops)), _pointer(out))
        return out

    def analyze(
        self, photo: ImageArray, color: str = "rgb", capacity: int = 256
    ) -> tuple[npt.NDArray[np.void], Embeddings, int]:
        """The faces of a photo (``FACE``), their embeddings, and how many there are, given or not.

        Args:
            photo: H x W x 3 uint8, "rgb" or "bgr"; H x W, "grey"; 3H/2 x W, "nv12" or "nv21".
            color: Which.
            capacity: How many at most.
        """
        faces = np.zeros(capacity, FACE)
        embeddings = np.zeros((capacity, self.facts.embedding_dim), np.float32)
        found = ctypes.c_size_t()
        self._call(
            "analyze",
            self._context,
            ctypes.byref(_image(photo, color)),
            _pointer(faces),
            _pointer(embeddings),
            ctypes.c_size_t(capacity),
            ctypes.byref(found),
        )
        written = min(found.value, capacity)
        return faces[:written], embeddings[:written], found.value

    def close(self) -> None:
        """Close the file."""
        self._library.pocketnet_context_destroy(self._context)
        self._library.pocketnet_close(self._model)
        self._context, self._model = ctypes.c_void_p(), ctypes.c_void_p()

    def __enter__(self) -> LibraryModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _threshold(self, index: int) -> tuple[float, float]:
        cosine, rate = ctypes.c_double(), ctypes.c_double()
        self._call("threshold", self._model, ctypes.c_uint32(index), ctypes.byref(cosine), ctypes.byref(rate))
        return cosine.value, rate.value

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"pocketnet_{name}")(*arguments) != 0:
            raise PocketNetError(self._library.pocketnet_message().decode())


@functools.cache
def _loaded(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise PocketNetError(f"{path.name} cannot be loaded: {error}") from error
    library.pocketnet_message.restype = ctypes.c_char_p
    library.pocketnet_close.restype = library.pocketnet_context_destroy.restype = None
    return library


def _aligned(content: bytes) -> npt.NDArray[np.uint8]:
    line = 64
    room = np.empty(len(content) + line, np.uint8)
    start = -room.ctypes.data % line
    room[start : start + len(content)] = np.frombuffer(content, np.uint8)
    return room[start:]


def _pointer(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _image(pixels: ImageArray, color: str) -> _Image:
    """How the library is told of an image, which must live for as long as this."""
    planes = color in ("nv12", "nv21")
    height = len(pixels) * 2 // 3 if planes else len(pixels)
    return _Image(
        pixels=pixels.ctypes.data,
        chroma=pixels[height:].ctypes.data if planes else None,
        stride=pixels.strides[0],
        chroma_stride=pixels.strides[0] if planes else 0,
        width=pixels.shape[1],
        height=height,
        format=_FORMATS[color],
    )
