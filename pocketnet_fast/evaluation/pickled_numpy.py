"""Stand-ins for the numpy values of pickled verification files: bytes and flags, without numpy's own code.

``cv2.imencode`` returns a uint8 array, and a comparison of arrays numpy's bools; who pickles these writes
calls of numpy's constructors. Each is answered here by an object that keeps checked bytes and does nothing
else.
"""

from __future__ import annotations

import math
from typing import Any, Final

from pocketnet_fast.data.plain_pickle import Names, RefusedPickle

_MAX_DIMENSIONS: Final = 8
_SIZES: Final = {"u1": 1, "b1": 1, "i1": 1, "i2": 2, "u2": 2, "i4": 4, "u4": 4, "i8": 8, "u8": 8}
_CODES: Final = {"B": "u1", "?": "b1", "b": "i1", "bool": "b1", "uint8": "u1", "int64": "i8", "int32": "i4"}


class DType:
    """A numpy type of whole numbers or bools, little-endian."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("|", "<", "=", b"|", b"<", b"="):
            raise RefusedPickle("it holds numpy numbers of another byte order")


class Values:
    """Elements of a numpy array or scalar, as bytes.

    Attributes:
        code: The code of the type, such as "u1".
        shape: The shape of the array; () for a scalar.
        raw: The elements.
    """

    __slots__ = ("code", "raw", "shape")

    def __init__(self) -> None:
        self.code, self.shape, self.raw = "u1", (0,), b""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedPickle("it holds a numpy array in an unknown form")
        _, shape, dtype, fortran, raw = state
        # Elements of a table in columns would come in another order.
        if fortran and isinstance(shape, tuple) and sum(n != 1 for n in shape) > 1:
            raise RefusedPickle("it holds a numpy array that is stored by columns")
        self.fill(dtype, shape, raw)

    def fill(self, dtype: Any, shape: Any, raw: Any) -> None:
        """Take the elements, whose number must be the shape's."""
        if isinstance(raw, str):
            # Python 2's text of bytes, as Python 3 rewrites it.
            raw = raw.encode("latin1")
        sound = (
            isinstance(dtype, DType)
            and isinstance(shape, tuple)
            and len(shape) <= _MAX_DIMENSIONS
            and all(type(n) is int and 0 <= n < 1 << 31 for n in shape)
            and isinstance(raw, (bytes, bytearray))
        )
        if not sound:
            raise RefusedPickle("it holds a numpy array that is none of whole numbers or bools")
        if len(raw) != math.prod(shape) * _SIZES[dtype.code]:
            raise RefusedPickle(f"it holds a numpy array of {len(raw)} bytes that should have another number")
        self.code, self.shape, self.raw = dtype.code, shape, bytes(raw)

    def numbers(self) -> list[int]:
        """The elements as Python's whole numbers."""
        size, signed = _SIZES[self.code], self.code.startswith("i")
        parts = (self.raw[start : start + size] for start in range(0, len(self.raw), size))
        return [int.from_bytes(part, "little", signed=signed) for part in parts]


class _ArrayClass:
    __slots__ = ()


class _MakeDType:
    __slots__ = ()

    def __call__(self, code: Any, *_options: Any) -> DType:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        text = _CODES.get(text, text) if isinstance(text, str) else None
        if text not in _SIZES:
            raise RefusedPickle("it holds numpy values that are neither whole numbers nor bools")
        return DType(text)


class _Reconstruct:
    __slots__ = ()

    def __call__(self, kind: Any, *_shape_and_code: Any) -> Values:
        if not isinstance(kind, _ArrayClass):
            raise RefusedPickle("it holds a numpy array of an unknown class")
        return Values()


class _Scalar:
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any = b"") -> Values:
        values = Values()
        values.fill(dtype, (), raw)
        return values


class _FromBuffer:
    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Values:
        values = Values()
        if order not in ("C", b"C") and isinstance(shape, tuple) and sum(n != 1 for n in shape) > 1:
            raise RefusedPickle("it holds a numpy array that is stored by columns")
        values.fill(dtype, shape, raw)
        return values


class _ByteArray:
    __slots__ = ()

    def __call__(self, content: Any = b"", encoding: Any = None) -> bytes:
        if isinstance(content, bytes) and encoding is None:
            return content
        if isinstance(content, str) and encoding in ("latin-1", "latin1", b"latin-1", b"latin1"):
            return content.encode("latin1")
        raise RefusedPickle("it calls bytearray with something else than bytes")


NAMES: Final[Names] = {
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _MakeDType,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Reconstruct),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _FromBuffer),
        )
    },
    ("builtins", "bytearray"): _ByteArray,
    ("__builtin__", "bytearray"): _ByteArray,
}
"""For ``data.plain_pickle.load_plain``, the names of numpy 1 and 2."""
