"""Tiles of the Triton kernels, measured on a device on demand and kept on disk.

A kernel is launched with the tiles that were measured for its shape on this device, or else with those of its
rule; nothing is measured but in a ``tuning`` block. What was measured lies in a file of the user's cache
folder, one per device, which counts as long as Triton and the kernels' sources are those that it names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

CACHE_VARIABLE: Final = "POCKETNET_CACHE"
"""Environment variable with the folder of the files; by default the user's cache folder."""

_SOURCES: Final = (
    "triton_numerics.py", "triton_places.py", "run_plan/triton_kernels.py", "cell/triton_kernels/*.py",
)  # fmt: skip
_MOST_PIXELS: Final = 512
_MOST_VALUES: Final = 16384


@dataclass(frozen=True)
class Tiles:
    """Shape of a program's tile, powers of two of at least 16, and its threads.

    Attributes:
        pixels: Rows.
        inner: Channels of the sources that one product takes; 0 for a kernel without products.
        outer: Columns: channels of the output.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    pixels: int
    inner: int
    outer: int
    warps: int
    stages: int


def candidates(rule: Tiles) -> list[Tiles]:
    """What is measured: the rule's tiles first, and those that differ from them by a factor of two."""
    others = [
        replace(rule, pixels=rule.pixels * 2),
        replace(rule, pixels=rule.pixels // 2),
        replace(rule, warps=rule.warps * 2),
        replace(rule, warps=rule.warps // 2),
        replace(rule, outer=rule.outer // 2, pixels=rule.pixels * 2),
        replace(rule, stages=rule.stages + 1),
    ]

    def sound(tiles: Tiles) -> bool:
        return (
            16 <= tiles.pixels <= _MOST_PIXELS
            and tiles.outer >= 16
            and tiles.pixels * max(tiles.inner, tiles.outer) <= _MOST_VALUES
            and 1 <= tiles.warps <= 8
            and (tiles.inner > 0 or tiles.stages == rule.stages)
        )

    return [rule, *filter(sound, others)]


def cache_file(device: str) -> Path:
    """The file of a device's tiles."""
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder:
        folder = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketnet_fast")
    return Path(folder) / f"tiles-{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-').lower()}.json"


@functools.cache
def version() -> dict[str, str]:
    """What the measurements depend on, beside the device: Triton, and the kernels' sources."""
    import triton

    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(Path(__file__).parent.glob(pattern)):
            digest.update(path.read_bytes())
    return {"triton": triton.__version__, "kernels": digest.hexdigest()}


def read_tiles(path: Path, device: str) -> dict[str, Tiles]:
    """The tiles in a file; none if there is none, or if it was measured with other kernels.

    A file that is damaged, or of another device, is ignored with a warning that names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["device"] != device:
            raise ValueError(f"it is of {content['device']!r}")
        found = {str(key): Tiles(*map(_whole, values)) for key, values in content["tiles"].items()}
        current = content["version"] == version()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"the measured tiles in {path} are ignored ({reason}); pocketnet bench --device cuda --tune "
            "measures them anew",
            stacklevel=2,
        )
        return {}
    return found if current else {}


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_VALUES:
        raise ValueError(f"{value!r} is no size of a tile")
    return value


def device_name(device: torch.device) -> str | None:
    """What the device is called in the cache; None where there is none, as in a trace."""
    if device.type == "cpu":
        return "interpreter"
    return _cuda_name(device.index) if torch.cuda.is_available() else None


@functools.cache
def _cuda_name(index: int | None) -> str:
    return torch.cuda.get_device_name(index)


class _Tables:
    """The tiles known to this process, by device; read from the disk once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[str, dict[str, Tiles]] = {}

    def of(self, device: str) -> dict[str, Tiles]:
        with self._lock:
            if device not in self._tables:
                self._tables[device] = read_tiles(cache_file(device), device)
            return self._tables[device]

    def keep(self, device: str, measured: dict[str, Tiles]) -> Path:
        """Add to the file, as it is by now, and to the table."""
        path = cache_file(device)
        with self._lock:
            merged = {**read_tiles(path, device), **measured}
            content = {
                "device": device,
                "version": version(),
                "tiles": {key: list(astuple(tiles)) for key, tiles in sorted(merged.items())},
            }
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PocketNetError(f"cannot create {path.parent}: {error.strerror}") from error
            with atomic_write(path) as file:
                file.write((json.dumps(content, indent=1) + "\n").encode())
            self._tables[device] = merged
        return path

    def forget(self) -> None:
        with self._lock:
            self._tables.clear()


tables: Final = _Tables()


Timer = Callable[[Callable[[], object]], float]
"""Milliseconds of a launch."""


def event_timer(launch: Callable[[], object]) -> float:
    """The least of five launches by CUDA events, after one that compiles."""
    launch()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        launch()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times)


class Session:
    """A ``tuning`` block's: what it has measured, and until when it goes on."""

    def __init__(self, timer: Timer, seconds: float | None) -> None:
        self.timer = timer
        self.end = None if seconds is None else time.monotonic() + seconds
        self.measured: dict[str, dict[str, Tiles]] = {}
        self.skipped = 0

    def choose(self, device: str, key: str, rule: Tiles, launch: Callable[[Tiles], object]) -> Tiles:
        """The quickest of the candidates that the device takes."""
        own = self.measured.setdefault(device, {})
        if key in own:
            return own[key]
        if self.end is not None and time.monotonic() > self.end:
            self.skipped += 1
            return tables.of(device).get(key, rule)
        from triton.runtime.errors import OutOfResources, PTXASError

        times: dict[Tiles, float] = {}
        for tiles in candidates(rule):
            # What a smaller device, or its assembler, cannot take is no candidate.
            with contextlib.suppress(OutOfResources, PTXASError):
                times[tiles] = self.timer(functools.partial(launch, tiles))
        own[key] = min(times, key=times.__getitem__) if times else rule
        return own[key]


_active: Final = threading.local()


@contextlib.contextmanager
def tuning(timer: Timer = event_timer, seconds: float | None = None) -> Iterator[Session]:
    """Measure the tiles of every kernel that this thread launches in the block, once a shape.

    A launch is repeated with every candidate: results of the block are to be thrown away. Backward passes
    run on threads of their own; launch them in this one (``torch.autograd.set_multithreading_enabled``).
    What was measured is written at the end, if there was no exception.

    Args:
        timer: A timer of a launch.
        seconds: After these, shapes that are new keep the tiles they have; None measures all.

    Yields:
        The session.

    Raises:
        PocketNetError: The cache cannot be written.
    """
    session = Session(timer, seconds)
    _active.session = session
    try:
        yield session
    finally:
        _active.session = None
    for device, measured in session.measured.items():
        if measured:
            tables.keep(device, measured)


def tiles_of(
    kernel: str, shape: tuple[Any, ...], rule: Tiles, device: torch.device, launch: Callable[[Tiles], object]
) -> Tiles:
    """The tiles to launch a kernel with.

    Args:
        kernel: Its name.
        shape: Whatever decides its speed: channels, sizes of maps, the bucket of the batch, types.
        rule: The tiles where nothing was measured.
        device: Where it runs.
        launch: Launches it with the tiles given; called in a ``tuning`` block only.
    """
    name = device_name(device)
    if name is None:
        return rule
    key = "/".join(map(str, (kernel, *shape)))
    session: Session | None = getattr(_active, "session", None)
    if session is not None:
        return session.choose(name, key, rule, launch)
    return tables.of(name).get(key, rule)
