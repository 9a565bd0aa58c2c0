"""Embedding on Ray: the parts of many images on its workers, each a parquet file.

A task of Ray Data is a part. Its worker writes the part's file to a temporary name and renames it, so that a
part is there whole or not at all; those that are there are not computed again. Ray starts a task anew whose
worker was lost.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.extras import package_of
from pocketnet_fast.faces.embedding_parts import Job, about_part, embed_images, require_same
from pocketnet_fast.faces.several_faces import SeveralFaces

if TYPE_CHECKING:
    from pocketnet_fast.data.stored_images import AnyImage, ImageInputs
    from pocketnet_fast.faces.sources import FaceSource

_LOG: Final = logging.getLogger("pocketnet_fast")

# Images of a part: some seconds of work, which is what a lost worker costs.
_IMAGES: Final = 1000
# Parts of each worker at least, so that none waits long for the last ones.
_PARTS_EACH: Final = 4
# Ray's store holds names of images and summaries of parts.
_STORE_BYTES: Final = 512 << 20
# How often a part is begun whose workers are lost; Ray itself would go on for ever.
_TRIES: Final = 3
_PART: Final = re.compile(r"([0-9]{5,})-of-([0-9]{5,})\.parquet")
# What decides about images on a worker as it does here.
_VARIABLES: Final = ("POCKETNET_MAX_PIXELS", "POCKETNET_MAX_BYTES", "POCKETNET_DETECTOR", "PNF_FORCE_ISA")


@dataclass(frozen=True)
class Summary:
    """What became of all parts.

    Attributes:
        parts: How many there are.
        computed: How many of them were computed now.
        faces: Rows of all.
        left_out: What is wrong with the images that could not be used.
    """

    parts: int
    computed: int
    faces: int
    left_out: list[str]


@dataclass
class _Outcome:
    """What became of the parts that are done.

    Attributes:
        faces: Rows of all.
        left_out: What is wrong with the images that could not be used.
        several: The photos with several faces, of which one was taken.
    """

    faces: int = 0
    left_out: list[str] = field(default_factory=list)
    several: SeveralFaces = field(default_factory=SeveralFaces)

    def add(self, about: dict[str, Any], rows: int) -> None:
        """Take note of a part by what its file says and by its rows."""
        self.faces += rows
        self.left_out += about["left_out"]
        self.several.join(SeveralFaces(**about["several"]))


@dataclass(frozen=True)
class _Task:
    job: Job
    about: dict[str, Any]
    images: list[AnyImage]
    number: int
    parts: int
    file: Path
    folder: Path
    variables: dict[str, str]

    @property
    def begun(self) -> Path:
        """A file with a byte for each time that a worker began with the part."""
        return self.file.with_name(f".pocketnet-{self.file.stem}.begun")


def embed_on_ray(
    job: Job,
    source: FaceSource,
    inputs: ImageInputs,
    folder: Path,
    *,
    workers: int | None,
    parts: int | None,
    progress: Callable[[int, str], AbstractContextManager[Callable[[int], None]]],
) -> Summary:
    """Embed images on Ray's workers, in parts that are not there yet.

    What is left out is logged.

    Args:
        job: How; the threads of its settings are those of a worker.
        source: What its settings built here.
        inputs: Which images.
        folder: Where the parts' files are, made if it is missing; every worker has to reach it by this path,
            and the images by theirs.
        workers: How many; None for as many as the cluster's processors allow.
        parts: How many; None for as many as the folder's files say, or else one for some 1,000 images.
        progress: Given how many images there are and what is done with them; gives what to call with the
            numbers of those that are done.

    Raises:
        PocketNetError: Ray is not installed or cannot be reached, the folder holds parts of something else,
            or an image cannot be used and ``job.skip`` is not set.
    """
    from pocketnet_fast.data.parquet_file import require_pyarrow

    require_pyarrow()
    ray = _ray()
    if folder.exists() and not folder.is_dir():
        raise PocketNetError(f"{folder} is no folder; the parts of --ray are files in one")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PocketNetError(f"cannot write {folder}: {error.strerror}") from None
    threads = job.settings.threads or 1
    outcome = _Outcome()
    # Ray prints what happens to its workers where results are printed.
    with redirect_stdout(sys.stderr), _running(ray, workers, threads) as count:
        by_size = min(max(-(-len(inputs) // _IMAGES), _PARTS_EACH * count), len(inputs))
        parts = _parts_of(folder, parts) or by_size
        tasks = _tasks(job, source, inputs, folder, parts, outcome)
        if len(tasks) < parts:
            _LOG.info("%s of %s parts are finished", f"{parts - len(tasks):,}", f"{parts:,}")
        with progress(sum(len(task.images) for task in tasks), "embedding") as advance:
            for about, rows in _results(ray, tasks, count, threads):
                outcome.add(about, rows)
                for reason in about["left_out"]:
                    _LOG.info("left out: %s", reason)
                advance(about["images"])
    for remark in outcome.several.remarks():
        _LOG.info("%s", remark)
    return Summary(parts, len(tasks), outcome.faces, outcome.left_out)


def _tasks(
    job: Job, source: FaceSource, inputs: ImageInputs, folder: Path, parts: int, finished: _Outcome
) -> list[_Task]:
    """The parts that are not there; ``finished`` takes what the others' files say."""
    from pocketnet_fast.faces.parquet_part import count_rows, part_name, read_about

    about = job.about(source)
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    tasks = []
    for number in range(1, parts + 1):
        images = inputs.part(number, parts)
        file = folder.absolute() / part_name(number, parts)
        if not file.exists():
            tasks.append(_Task(job, about, images, number, parts, file, Path.cwd(), variables))
            tasks[-1].begun.unlink(missing_ok=True)
            continue
        found = read_about(file)
        require_same(file, found, about, images, number, parts)
        finished.add(found, count_rows(file))
    return tasks


def _parts_of(folder: Path, given: int | None) -> int | None:
    """The number of parts that the folder's belong to; None if it holds none and nothing is given.

    Raises:
        PocketNetError: They are of several numbers, or not of the given one.
    """
    names = filter(None, (_PART.fullmatch(path.name) for path in folder.iterdir()))
    counts = {int(name[2]) for name in names} | ({given} if given is not None else set())
    if len(counts) > 1:
        listed = ", ".join(map(str, sorted(counts)))
        raise PocketNetError(f"{folder}: there, and asked for, are parts of {listed}; expected one number")
    return counts.pop() if counts else None


def _results(
    ray: Any, tasks: Sequence[_Task], workers: int, threads: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield what each part's file says and its rows, as parts are done."""
    if not tasks:
        return
    items = [{"task": pickle.dumps(task)} for task in tasks]
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _embed_part,
        batch_size=1,
        num_cpus=threads,
        compute=ray.data.TaskPoolStrategy(size=min(workers, len(tasks))),
    )
    try:
        for row in done.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, PocketNetError):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PocketNetError(f"a worker of Ray failed: {lines[0]}") from error


def _embed_part(batch: dict[str, Any]) -> dict[str, Any]:
    task: _Task = pickle.loads(batch["task"][0])
    # As where the command was given: paths are relative to that folder, and images as large.
    os.chdir(task.folder)
    os.environ.update(task.variables)
    try:
        result: Any = _written(task)
    except PocketNetError as error:
        result = PocketNetError(str(error))
    except Exception as error:
        # Ray would tell that a task failed, but not why.
        result = PocketNetError(f"a worker of Ray failed: {type(error).__name__}: {error}")
    return {"result": [pickle.dumps(result)]}


def _written(task: _Task) -> tuple[dict[str, Any], int]:
    from pocketnet_fast.faces.parquet_part import count_rows, read_about, write_faces
    from pocketnet_fast.files import atomic_write

    if task.file.exists():
        # Another worker wrote it, whose answer was lost.
        return read_about(task.file), count_rows(task.file)
    with task.begun.open("ab") as begun:
        begun.write(b".")
    if task.begun.stat().st_size > _TRIES:
        raise PocketNetError(
            f"{task.file}: {_TRIES} workers were lost that embedded this part; one of its "
            f"{len(task.images):,} images may be what ends them, or memory is short"
        )
    with atomic_write(task.file) as stream:
        found = embed_images(task.job, _source(task.job), task.images)
        about = about_part(task.about, task.images, task.number, task.parts, found)
        write_faces(stream, found.faces, about)
    task.begun.unlink(missing_ok=True)
    return about, len(found.faces)


@functools.lru_cache(maxsize=1)
def _source(job: Job) -> FaceSource:
    return job.settings.source()


def _ray() -> Any:
    # Ray reads it when it is imported or started. Nobody is told of what runs here, unless the user says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    data = package_of("ray", "ray.data", "--ray needs", name="Ray Data")
    import ray

    for handler in logging.getLogger("ray.data").handlers:
        if type(handler) is not logging.FileHandler:
            handler.setLevel(logging.CRITICAL)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    return ray


@contextmanager
def _running(ray: Any, workers: int | None, threads: int) -> Iterator[int]:
    """Have Ray running, and yield how many workers there are to be."""
    if ray.is_initialized():
        yield workers or _workers_of(ray, threads)
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        from pocketnet_fast.ops.native import usable_threads

        workers = workers or max(usable_threads(None) // threads, 1)
        options |= {"num_cpus": workers * threads, "object_store_memory": _STORE_BYTES}
        options |= {"include_dashboard": False}
    try:
        with _elsewhere():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address is not None else "here"
        reason = str(error).strip().splitlines()[0]
        raise PocketNetError(f"no Ray cluster can be had {where}: {reason}") from None
    try:
        yield workers or _workers_of(ray, threads)
    finally:
        ray.shutdown()


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Be in a folder without modules: workers import from where Ray was started, before what is installed."""
    here = Path.cwd()
    os.chdir(here.anchor)
    try:
        yield
    finally:
        os.chdir(here)


def _workers_of(ray: Any, threads: int) -> int:
    return max(int(ray.cluster_resources().get("CPU", 1)) // threads, 1)
