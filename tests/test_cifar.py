import io
import pickle
import pickletools
import tarfile

import cv2
import numpy as np
import pytest

from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError

COUNT = 6


def images(batch):
    rng = np.random.default_rng(batch)
    return rng.integers(0, 256, (COUNT, 3072), np.uint8), rng.integers(0, 10, COUNT).tolist()


def binary(pixels, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


def pickled(pixels, labels):
    return pickle.dumps({b"batch_label": b"x", b"labels": labels, b"data": pixels}, 3)


def python2(pixels, labels):
    """As Python 2 wrote it, where all text is a byte string and arrays come from numpy.core."""
    written = {"SHORT_BINBYTES": b"U", "BINBYTES": b"T", "BINUNICODE": b"T", "PROTO": b"\x80"}
    data = bytearray(pickled(pixels, labels))
    for opcode, _, position in pickletools.genops(bytes(data)):
        code = written.get(opcode.name, opcode.code.encode("latin1"))
        data[position : position + 1] = code
    data[1] = 2
    return bytes(data).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def archive(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("write", "suffix", "name"),
    [
        (binary, ".bin", "cifar-10-binary.tar.gz"),
        (pickled, "", "cifar-10-python.tar.gz"),
        (python2, "", "cifar-10-python.tar.gz"),
    ],
)
def test_both_archives_give_the_same_images(tmp_path, write, suffix, name):
    # Out of order, and beside what does not belong to the training images.
    members = {f"c/data_batch_{b}{suffix}": write(*images(b)) for b in (2, 1)}
    members |= {f"c/test_batch{suffix}": write(*images(9)), "c/readme.html": b"hello"}
    dataset = open_dataset(archive(tmp_path / name, members))
    assert (len(dataset), dataset.classes) == (2 * COUNT, 10)
    assert dataset.labels.tolist() == images(1)[1] + images(2)[1]
    planes = images(1)[0][3].reshape(3, 32, 32)
    expected = cv2.resize(planes.transpose(1, 2, 0).copy(), (112, 112), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(dataset.image(3), expected)


def test_nothing_that_a_pickle_names_is_called(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    data = pickle.dumps({b"labels": [0], b"data": Evil()}, 3)
    path = archive(tmp_path / "a.tar.gz", {"data_batch_1": data})
    with pytest.raises(PocketNetError, match=r"data_batch_1: refused, it names (io|_io|builtins)\.open"):
        open_dataset(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme": b"x"}, "holds no data_batch_1"),
        ({"data_batch_1.bin": b"x" * 3074}, "has 3074 bytes; expected records of 3073"),
        (
            {"data_batch_1.bin": binary(*images(1))[: 2 * 3073] + b"\x0b" + bytes(3072)},
            "offset 6146: label 11; expected 0 to 9",
        ),
        ({"data_batch_1": b"no pickle"}, "damaged or no batch of CIFAR-10"),
        ({"data_batch_1": pickle.dumps([1])}, "holds a list; expected a dictionary"),
        ({"data_batch_1": pickle.dumps({b"labels": [1]})}, 'lacks the array "data"'),
        ({"data_batch_1": pickled(images(1)[0], [10] * COUNT)}, "labels other than 0 to 9"),
        ({"data_batch_1": pickled(images(1)[0], [1])}, "not uint8 of 1 x 3072"),
        ({"data_batch_1": pickled(images(1)[0].astype(np.int16), [1] * COUNT)}, "not uint8"),
    ],
)
def test_other_archives_are_refused(tmp_path, members, message):
    with pytest.raises(PocketNetError, match=message):
        open_dataset(archive(tmp_path / "a.tar.gz", members))


def test_no_archive(tmp_path):
    with pytest.raises(PocketNetError, match="no such archive"):
        open_dataset(tmp_path / "absent.tar.gz")
    (tmp_path / "a.tar.gz").write_bytes(b"nothing")
    with pytest.raises(PocketNetError, match="damaged or no archive"):
        open_dataset(tmp_path / "a.tar.gz")
    whole = archive(tmp_path / "b.tar.gz", {"data_batch_1.bin": binary(*images(1))}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PocketNetError, match="damaged or no archive"):
        open_dataset(tmp_path / "a.tar.gz")
