"""Bodies of multipart/form-data."""

from __future__ import annotations

from uuid import uuid4


def multipart(parts: dict[str, bytes]) -> tuple[bytes, str]:
    """The body, and its Content-Type."""
    mark = uuid4().hex
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in parts.items()
    )
    return body + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"
