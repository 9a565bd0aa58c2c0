import pytest
import torch

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.resumable.state_file import read_state, write_state

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "b.c": torch.tensor(3), "empty": torch.empty(0, 2)}
TEXT = {"format": "mine.1", "progress": "{}"}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "s.safetensors"
    write_state(path, TENSORS, TEXT)
    tensors, text = read_state(path, "mine.1")
    assert {name: text[name] for name in TEXT} == TEXT
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_every_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "s.safetensors"
    write_state(path, TENSORS, TEXT)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(PocketNetError, match=r"s\.safetensors is (damaged|no state file)"):
            read_state(path, "mine.1")
    path.write_bytes(whole[:-1])
    with pytest.raises(PocketNetError, match="is damaged"):
        read_state(path, "mine.1")


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    write_state(path, TENSORS, TEXT)
    with pytest.raises(PocketNetError, match=r"is no state file of this version \(mine.1\)"):
        read_state(path, "mine.2")
    with pytest.raises(PocketNetError, match="is damaged"):
        read_state(tmp_path / "absent.safetensors", "mine.1")
