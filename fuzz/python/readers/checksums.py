"""Files with the checksums and lengths that they ought to have: wrong ones keep every changed input out."""

from __future__ import annotations

import struct
import zlib

_ENTRY = b"PK\x01\x02"
_ENTRY_SIZE = 46
_FILE = b"PK\x03\x04"
_FILE_SIZE = 30
_DEFLATED = 8
_LONGEST = 1 << 20  # bytes that an entry is unpacked to
_BLOCK = 512
_PNG = b"\x89PNG\r\n\x1a\n"


def zip_with_checksums(data: bytes) -> bytes:
    """A zip archive whose directory's entries, as far as they can be followed, name their files' CRC-32."""
    mended = bytearray(data)
    at = data.find(_ENTRY)
    while at >= 0 and at + _ENTRY_SIZE <= len(data):
        method, size, file = _entry(data, at)
        content = _content(data, file, size, method)
        if content is not None:
            crc = struct.pack("<I", zlib.crc32(content))
            mended[at + 16 : at + 20] = crc
            mended[file + 14 : file + 18] = crc
        at = data.find(_ENTRY, at + _ENTRY_SIZE)
    return bytes(mended)


def _entry(data: bytes, at: int) -> tuple[int, int, int]:
    """How a file is packed, in how many bytes, and where it lies."""
    (method,) = struct.unpack_from("<H", data, at + 10)
    (size,) = struct.unpack_from("<I", data, at + 20)
    (file,) = struct.unpack_from("<I", data, at + 42)
    return method, size, file


def _content(data: bytes, at: int, size: int, method: int) -> bytes | None:
    if data[at : at + 4] != _FILE or at + _FILE_SIZE > len(data):
        return None
    name, extra = struct.unpack_from("<HH", data, at + 26)
    first = at + _FILE_SIZE + name + extra
    packed = data[first : first + size]
    if method != _DEFLATED:
        return packed
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _LONGEST)
    except zlib.error:
        return None


def tar_with_checksums(data: bytes) -> bytes:
    """A tar archive, not compressed, whose headers have the sum of their bytes."""
    mended = bytearray(data)
    at = 0
    while at + _BLOCK <= len(mended) and any(mended[at : at + _BLOCK]):
        mended[at + 148 : at + 156] = b" " * 8
        mended[at + 148 : at + 156] = b"%06o\0 " % sum(mended[at : at + _BLOCK])
        try:
            size = int(bytes(mended[at + 124 : at + 136]).strip(b" \0") or b"0", 8)
        except ValueError:
            break
        at += _BLOCK * (1 + -(-max(size, 0) // _BLOCK))
    return bytes(mended)


def png_with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks, as far as their lengths can be followed, end with their CRC-32."""
    mended = bytearray(data)
    at = len(_PNG)
    while data.startswith(_PNG) and at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def safetensors_with_length(data: bytes) -> bytes:
    """A ``.safetensors`` file that states where its header's last brace stands."""
    return struct.pack("<Q", max(data.rfind(b"}") + 1 - 8, 0)) + data[8:]
