"""A connection to Milvus: its calls with their limits, and its errors in words."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.extras import package_of
from pocketnet_fast.gallery.milvus.address import TOKEN, Address

Row = dict[str, Any]
Field = tuple[str, str, dict[str, Any]]
"""Name, type of ``pymilvus.DataType`` and options of a field."""

MOST: Final = 16_384
"""What Milvus answers at most: entities of a query, hits of one vector."""

_LATEST: Final = {"consistency_level": "Strong"}
_NO_COLLECTION: Final = 100
# Bytes of a request or of a batch that is read; Milvus takes 64 MiB by default.
_BYTES: Final = 8 << 20
_ROWS: Final = 8192
# Ids of one filter.
_IDS: Final = 1000
_SHOWN: Final = 300


class Connection:
    """A client, and for Milvus Lite the server within this process.

    Args:
        address: Where.
        timeout: Seconds that a request may take.

    Attributes:
        address: As given.
        turn: Held by who writes: Milvus Lite takes one writer at a time, and of one process two writers never
            make the same new person.

    Raises:
        PocketNetError: pymilvus is not installed, or Milvus cannot be reached.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self.turn = _turns[address.uri]
        self._timeout = timeout
        self._pymilvus = _pymilvus()
        if address.file is not None and not address.file.parent.is_dir():
            raise PocketNetError(f"{address.text}: {address.file.parent} is no folder")
        # The token is an argument of its own, so that no address that is shown or logged holds it.
        token = "" if address.file is not None else os.environ.get(TOKEN, "")
        with _silence():
            try:
                self._client: Any = self._pymilvus.MilvusClient(
                    uri=address.uri, token=token, db_name=address.database, timeout=timeout
                )
            except self._pymilvus.MilvusException as error:
                raise PocketNetError(_unreachable(address, error)) from None
        self._closed = False
        _open[address.uri] += 1

    def __del__(self) -> None:
        # At the end of the process, Milvus Lite lets go of its files by itself.
        if hasattr(self, "_closed") and not sys.is_finalizing():
            self.close()

    def close(self) -> None:
        """Let go of the server; the last one to do so of a process releases Milvus Lite's file."""
        if self._closed:
            return
        self._closed = True
        _open[self.address.uri] -= 1
        with contextlib.suppress(self._pymilvus.MilvusException), _silence():
            self._client.close()
            if self.address.file is not None and not _open[self.address.uri]:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(self.address.uri)

    def make_schema(self, fields: Sequence[Field], *, auto_id: bool) -> Any:
        """A schema of these fields alone."""
        schema = self._pymilvus.MilvusClient.create_schema(auto_id=auto_id, enable_dynamic_field=False)
        for name, kind, options in fields:
            schema.add_field(name, getattr(self._pymilvus.DataType, kind), **options)
        return schema

    def create(self, collection: str, schema: Any, vectors: str, scalars: Sequence[str] = ()) -> None:
        """Make a collection with an index that searches ``vectors`` exactly, and indexes of scalars."""
        with self._translated():
            indexes = self._client.prepare_index_params()
            indexes.add_index(vectors, index_type="FLAT", metric_type="IP")
            for scalar in scalars:
                indexes.add_index(scalar, index_type="INVERTED")
            self._client.create_collection(
                collection, schema=schema, index_params=indexes, timeout=self._timeout, **_LATEST
            )

    def has(self, collection: str) -> bool:
        """Whether there is such a collection."""
        with self._translated():
            return bool(self._client.has_collection(collection, timeout=self._timeout))

    def collections(self) -> list[str]:
        """The names of all collections."""
        with self._translated():
            return [str(name) for name in self._client.list_collections(timeout=self._timeout)]

    def fields(self, collection: str) -> dict[str, Row]:
        """The fields of a collection by their names."""
        with self._translated():
            found = self._client.describe_collection(collection, timeout=self._timeout)
        return {field["name"]: field for field in found["fields"]}

    def load(self, collection: str) -> None:
        """Make a collection answer, if it does not."""
        with self._translated():
            self._client.load_collection(collection, timeout=self._timeout)

    def drop(self, collection: str) -> None:
        """Remove a collection, if there is one."""
        with self._translated():
            self._client.drop_collection(collection, timeout=self._timeout)

    def insert(self, collection: str, rows: Sequence[Row]) -> list[int]:
        """Add entities, in several requests if need be; returns their ids."""
        ids: list[int] = []
        with self._translated():
            for part in _in_requests(rows):
                ids += self._client.insert(collection, part, timeout=self._timeout)["ids"]
        return ids

    def upsert(self, collection: str, rows: Sequence[Row]) -> None:
        """Replace entities, each at once."""
        with self._translated():
            for part in _in_requests(rows):
                self._client.upsert(collection, part, timeout=self._timeout)

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Delete entities; those that are not there are none to be deleted."""
        with self._translated():
            for start in range(0, len(ids), _ROWS):
                self._client.delete(collection, ids=list(ids[start : start + _ROWS]), timeout=self._timeout)

    def count(self, collection: str, condition: str = "") -> int:
        """How many entities meet a condition."""
        return int(self._queried(collection, ["count(*)"], filter=condition)[0]["count(*)"])

    def get(self, collection: str, keys: Sequence[int | str], fields: Sequence[str]) -> list[Row]:
        """Entities by their keys; those that are not there are missing."""
        rows: list[Row] = []
        for start in range(0, len(keys), _IDS):
            rows += self._queried(collection, fields, ids=list(keys[start : start + _IDS]))
        return rows

    def query(
        self,
        collection: str,
        condition: str,
        fields: Sequence[str],
        *,
        limit: int | None = None,
        dimensions: int = 0,
    ) -> list[Row]:
        """All entities that meet a condition, or the first of them, in the order of their ids.

        Args:
            collection: Which.
            condition: Which of its entities; empty for all.
            fields: What of them.
            limit: How many at most.
            dimensions: The dimensions of the embeddings among the fields.
        """
        if limit is None:
            most = _rows_of(dimensions)
            rows = self._queried(collection, fields, filter=condition, limit=most)
            if len(rows) < most:
                return sorted(rows, key=lambda row: int(row["id"]))
        parts = self._parts(collection, condition, fields, limit, dimensions)
        return [row for part in parts for row in part]

    def _queried(self, collection: str, fields: Sequence[str], **which: Any) -> list[Row]:
        """What one request gives of the entities that it says."""
        with self._translated():
            return list(
                self._client.query(
                    collection, output_fields=list(fields), timeout=self._timeout, **_LATEST, **which
                )
            )

    def query_any(
        self, collection: str, field: str, values: Sequence[int | str], fields: Sequence[str]
    ) -> list[Row]:
        """All entities of which a field has one of some values."""
        rows: list[Row] = []
        for start in range(0, len(values), _IDS):
            listed = ", ".join(
                f'"{v}"' if isinstance(v, str) else str(v) for v in values[start : start + _IDS]
            )
            rows += self.query(collection, f"{field} in [{listed}]", fields)
        return rows

    def walk(self, collection: str, fields: Sequence[str], dimensions: int = 0) -> Iterator[list[Row]]:
        """Yield all entities in the order of their ids, part by part; arguments as in ``query``."""
        return self._parts(collection, "", fields, None, dimensions)

    def _parts(
        self, collection: str, condition: str, fields: Sequence[str], limit: int | None, dimensions: int
    ) -> Iterator[list[Row]]:
        with self._translated():
            parts = self._client.query_iterator(
                collection,
                batch_size=_rows_of(dimensions),
                limit=-1 if limit is None else limit,
                filter=condition,
                output_fields=list(fields),
                timeout=self._timeout,
                **_LATEST,
            )
        try:
            while True:
                with self._translated():
                    part = parts.next()
                if not part:
                    return
                yield sorted(part, key=lambda row: int(row["id"]))
        finally:
            with self._translated():
                parts.close()

    def search(
        self, collection: str, field: str, queries: Any, limit: int, condition: str, fields: Sequence[str]
    ) -> list[list[Row]]:
        """The most similar entities of each query: rows with ``id``, ``distance`` and ``entity``."""
        with self._translated():
            found = self._client.search(
                collection,
                data=list(queries),
                anns_field=field,
                limit=limit,
                filter=condition,
                output_fields=list(fields),
                timeout=self._timeout,
                **_LATEST,
            )
            return [list(hits) for hits in found]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise PocketNetError(f"{self.address.text}: this gallery was closed")
        try:
            with _silence():
                yield
        except self._pymilvus.MilvusException as error:
            if error.code == _NO_COLLECTION:
                raise PocketNetError(
                    f"{self.address.text} was replaced or dropped since it was opened; open it again"
                ) from None
            raise PocketNetError(f"{self.address.text}: Milvus: {_in_words(error)}") from None


# By address, of all galleries that this process has open.
_turns: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
_open: Counter[str] = Counter()


def _pymilvus() -> Any:
    pymilvus = package_of("milvus", "pymilvus", "galleries on Milvus need")
    for handler in logging.getLogger("pymilvus").handlers:
        if _unsaid not in handler.filters:
            handler.addFilter(_unsaid)
    logging.getLogger("milvus_lite.server_manager").addFilter(_unsaid)
    return pymilvus


class _Unsaid(logging.Filter):
    """Leaves out what pymilvus logs of errors that are raised here, and told once, in one line."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.here, "silent", False)


_unsaid: Final = _Unsaid()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    before = getattr(_unsaid.here, "silent", False)
    _unsaid.here.silent = True
    try:
        yield
    finally:
        _unsaid.here.silent = before


def _unreachable(address: Address, error: Exception) -> str:
    if address.file is None:
        return f"{address.text}: no Milvus server can be reached there: {_in_words(error)}"
    from importlib.util import find_spec

    if find_spec("milvus_lite") is None:
        return (
            f"{address.text}: milvus-lite is not installed, which files of Milvus Lite need: pip install "
            "milvus-lite"
        )
    return (
        f"{address.text}: Milvus Lite cannot open its file: another process has it open, or it is of another "
        "program or version"
    )


def _in_words(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", error)).split())
    token = os.environ.get(TOKEN)
    if token:
        text = text.replace(token, "...")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _rows_of(dimensions: int) -> int:
    """Entities that are read at a time."""
    return min(_ROWS, max(_BYTES // (4 * dimensions + 256), 1))


def _in_requests(rows: Sequence[Row]) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for row in rows:
        bytes_of_row = sum(map(_size, row.values()))
        if part and (size + bytes_of_row > _BYTES or len(part) == _ROWS):
            yield part
            part, size = [], 0
        part.append(row)
        size += bytes_of_row
    if part:
        yield part


def _size(value: Any) -> int:
    # A character has at most four bytes in UTF-8, and a number of an embedding has four.
    return 4 * len(value) if isinstance(value, Iterable) else 8  # type: ignore[arg-type]
