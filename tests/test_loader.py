"""Batches: the same from any number of workers and processes, from any step on; errors and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from faces import crop, write_folder, write_records
from torch import Tensor

from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.folder import FolderDataset
from pocketnet_fast.data.loader import FaceLoader, make_loader
from pocketnet_fast.data.recordio import CorruptRecordError
from pocketnet_fast.data.records import RecordDataset
from pocketnet_fast.data.sampler import EpochSampler
from pocketnet_fast.errors import PocketNetError

EVERY = Augmentation(flip=0.5, crop=0.5, color=0.5, blur=0.5, cutout=0.5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> RecordDataset:
    labels = [[float(number % 5)] for number in range(26)]
    return RecordDataset(write_records(tmp_path_factory.mktemp("loader") / "a.rec", labels))


def loader(dataset: RecordDataset | FolderDataset, **options: object) -> FaceLoader:
    settings: dict[str, object] = {"batch_size": 4, "augmentation": EVERY, "seed": 7}
    return make_loader(dataset, **(settings | options))  # type: ignore[arg-type]


def take(loader: FaceLoader, epoch: int, step: int = 0) -> list[tuple[Tensor, Tensor]]:
    loader.sampler.set_position(epoch, step)
    assert len(loader) == loader.sampler.steps_per_epoch - step
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_batches(dataset: RecordDataset) -> None:
    made = take(loader(dataset, augmentation=Augmentation(flip=0.0)), 0)
    assert len(made) == 6
    for pixels, label in made:
        assert (pixels.shape, pixels.dtype) == ((4, 112, 112, 3), torch.uint8)
        assert (label.shape, label.dtype) == ((4,), torch.int64)
        for image, identity in zip(pixels, label, strict=True):
            number = next(n for n in range(26) if np.array_equal(image.numpy(), crop(n)))
            assert number % 5 == identity


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset: RecordDataset, workers: int) -> None:
    alone, with_workers = loader(dataset), loader(dataset, workers=workers)
    for epoch in (0, 3):
        assert equal(take(with_workers, epoch), take(alone, epoch))
    assert not equal(take(alone, 0), take(alone, 3))


def test_entering_in_the_middle_of_an_epoch(dataset: RecordDataset) -> None:
    whole = take(loader(dataset), 2)
    for step in (1, 5, 6):
        assert equal(take(loader(dataset), 2, step), whole[step:])
    assert equal(take(loader(dataset, workers=2), 2, 4), whole[4:])


def test_ranks_together_are_one_process(dataset: RecordDataset) -> None:
    alone = take(loader(dataset, batch_size=6), 1)
    parts = [take(loader(dataset, batch_size=3, rank=rank, ranks=2), 1) for rank in (0, 1)]
    together = [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in zip(*parts, strict=True)]
    assert equal(together, alone)


def test_augmentation_differs_from_epoch_to_epoch(dataset: RecordDataset) -> None:
    shown: dict[int, set[bytes]] = {}
    made = loader(dataset, batch_size=1, augmentation=Augmentation(flip=0.0, color=1.0))
    for epoch in range(3):
        made.sampler.set_position(epoch)
        for samples, (pixels, _) in zip(made.sampler, made, strict=True):
            shown.setdefault(samples[0][1], set()).add(pixels.numpy().tobytes())
    assert [len(images) for images in shown.values()] == [3] * 26


def test_global_random_state_is_left_alone(dataset: RecordDataset) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    take(loader(dataset, workers=1), 0)
    take(loader(dataset), 0)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_a_sampler_of_ones_own(dataset: RecordDataset) -> None:
    sampler = EpochSampler(26, 4, 7)
    assert loader(dataset, sampler=sampler).sampler is sampler
    for other in (EpochSampler(25, 4, 7), EpochSampler(26, 5, 7), EpochSampler(26, 4, 8)):
        with pytest.raises(
            PocketNetError, match="the sampler's images, batch size, seed, rank and ranks are"
        ):
            loader(dataset, sampler=other)


def test_refusals(dataset: RecordDataset) -> None:
    with pytest.raises(PocketNetError, match="26 images do not fill one batch of 27"):
        loader(dataset, batch_size=27)
    with pytest.raises(PocketNetError, match="-1 workers: expected a number from 0"):
        loader(dataset, workers=-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_arrives_as_one_line_with_the_file(tmp_path: Path, workers: int) -> None:
    folder = write_folder(tmp_path / "faces", {"a": 6, "b": 6})
    (folder / "b" / "3.png").write_bytes(b"no image at all")
    with pytest.raises(PocketNetError) as caught:
        take(loader(FolderDataset(folder), workers=workers), 0)
    message = str(caught.value)
    assert message.startswith(f"{folder}/b/3.png is a text, not an image; expected JPEG, ")
    assert "\n" not in message


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_keeps_its_kind(tmp_path: Path, workers: int) -> None:
    path = write_records(tmp_path / "a.rec", [[0]] * 4)
    dataset = RecordDataset(path)
    offset = int(dataset.offsets[2])
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptRecordError) as caught:
        take(loader(dataset, workers=workers), 0)
    message = str(caught.value)
    assert f"a.rec: offset {offset}: no record starts here" in message
    assert "\n" not in message


SCRIPT = """
import sys
from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.loader import make_loader
from pocketnet_fast.data.records import RecordDataset

dataset = RecordDataset(sys.argv[1])
loader = make_loader(dataset, batch_size=2, augmentation=Augmentation(), seed=0, workers=2)
epoch = 0
try:
    while True:
        loader.sampler.set_position(epoch)
        for step, _ in enumerate(loader):
            if epoch == 0 and step == 0:
                print("started", flush=True)
        epoch += 1
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def group_members(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_main_one(dataset: RecordDataset, how: signal.Signals) -> None:
    command = [sys.executable, "-c", SCRIPT, str(dataset.file.path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.kill()
        out, err = process.communicate(timeout=60)
        if how == signal.SIGINT:
            assert "Traceback" not in err
            assert process.returncode == 0
            assert out == "interrupted\n"
        deadline = time.monotonic() + 30
        while group_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert group_members(process.pid) == []
    finally:
        if process.poll() is None or group_members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
