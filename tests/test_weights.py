import json
import os

import pytest
import torch
from calibrations import calibration_of
from helpers import randomize_
from safetensors import safe_open
from safetensors.torch import save_file

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import (
    current_calibration,
    load_weights,
    save_calibrated,
    save_weights,
    weights_sha256,
)


def network():
    return PocketNet(SOFTMAX_CASIA, channels=2, layers=4, embedding_dim=8)


@pytest.fixture(scope="module")
def source():
    return randomize_(network(), seed=11)


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("container", [None, "state_dict", "model", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_load(tmp_path, source, container, prefix):
    state = {prefix + key: value for key, value in source.state_dict().items()}
    path = tmp_path / "295672backbone.pth"
    torch.save(state if container is None else {"epoch": 3, container: state}, path)
    model = network()
    assert load_weights(model, path) is model
    assert same(model, source)
    assert model.weights_source == str(path)


def test_saved_weights_load_again(tmp_path, source):
    path = tmp_path / "a.safetensors"
    save_weights(source, path)
    assert same(load_weights(network(), str(path)), source)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["weights_sha256"] == weights_sha256(source)
    assert metadata["genotype"] == str(SOFTMAX_CASIA)
    assert (metadata["channels"], metadata["layers"], metadata["embedding_dim"]) == ("2", "4", "8")


def test_recorded_state_dict_loads_from_both_kinds(tmp_path, golden):
    weights = golden("pocketnet_s128").weights
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "a.pth")
    models = [
        load_weights(PocketNet(SOFTMAX_CASIA, 16, 18), tmp_path / n) for n in ("a.safetensors", "a.pth")
    ]
    assert same(*models)


def test_half_precision_is_converted(tmp_path, source):
    state = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    model = load_weights(network(), tmp_path / "half.pth")
    assert model.stem[0].weight.dtype == torch.float32
    torch.testing.assert_close(model.stem[0].weight, source.stem[0].weight, rtol=1e-3, atol=1e-3)


def test_batch_norm_counters_may_be_absent(tmp_path, source):
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert weights_sha256(load_weights(network(), tmp_path / "old.pth")) == weights_sha256(source)


def broken(source):
    state = source.state_dict()
    del state["tail.7.weight"]
    state["tail.8.weight"] = torch.zeros(8)
    state["stem.0.weight"] = torch.zeros(4, 3, 3, 3)
    state["stem.1.bias"] = torch.zeros(8, dtype=torch.int64)
    return state


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_every_mismatch_is_named_and_nothing_is_loaded(tmp_path, source, suffix):
    path = tmp_path / f"broken.{suffix}"
    (torch.save if suffix == "pth" else save_file)(broken(source), path)
    model = randomize_(network(), seed=12)
    before = weights_sha256(model)
    with pytest.raises(PocketNetError) as error:
        load_weights(model, path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "missing (1): tail.7.weight;" in message
    assert "unexpected (1): tail.8.weight;" in message
    assert "wrong shape (1): stem.0.weight is (4, 3, 3, 3), expected (8, 3, 3, 3);" in message
    assert "wrong type (1): stem.1.bias is torch.int64, expected torch.float32" in message
    assert weights_sha256(model) == before
    assert model.weights_source is None


def test_long_lists_are_counted(tmp_path, source):
    path = tmp_path / "head.pth"
    torch.save({"kernel": torch.zeros(8, 10)}, path)
    missing = sum(not key.endswith("num_batches_tracked") for key in source.state_dict())
    with pytest.raises(
        PocketNetError, match=rf"missing \({missing}\): stem.0.weight.* and {missing - 5} more;"
    ):
        load_weights(network(), path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_damaged_files_are_named(tmp_path, source, suffix, content):
    path = tmp_path / f"bad.{suffix}"
    (torch.save if suffix == "pth" else save_file)(source.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"not weights" * 50, "truncated": whole[: len(whole) // 2]}[content]
    )
    with pytest.raises(PocketNetError, match=f"bad.{suffix}: damaged"):
        load_weights(network(), path)


def test_a_changed_byte_is_noticed(tmp_path, source):
    path = tmp_path / "a.safetensors"
    save_weights(source, path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(PocketNetError, match="do not match the SHA-256"):
        load_weights(network(), path)


def test_torchscript_is_no_weight_file(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(PocketNetError, match=r"a\.pt: a TorchScript file, which runs as it is"):
        load_weights(network(), tmp_path / "a.pt")


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_pickled_code_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"stem.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(PocketNetError, match=r"evil\.pth: refused: .* pickled object \(posix\.mkdir\)"):
        load_weights(network(), tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list"),
        ({}, "holds a dict"),
        ({"a": 1}, "entry 'a' is a int"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "a with and without the prefix"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(PocketNetError, match=message):
        load_weights(network(), tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "message"), [("a.pth", "no such"), (".", "no such"), ("a.npz", "unknown kind")]
)
def test_other_paths_are_refused(tmp_path, name, message):
    (tmp_path / "a.npz").touch()
    with pytest.raises(PocketNetError, match=message):
        load_weights(network(), tmp_path / name)


def test_the_hash_depends_on_every_weight_and_on_nothing_else(source):
    reference = weights_sha256(source)
    copy = network()
    copy.load_state_dict(source.state_dict())
    assert weights_sha256(copy.train()) == reference
    assert weights_sha256(copy.to(memory_format=torch.channels_last)) == reference
    assert weights_sha256(copy.double()) != reference
    copy.float().tail[7].running_mean[0] += 1
    assert weights_sha256(copy) != reference


def test_an_interrupted_write_leaves_the_old_file(tmp_path, source, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_weights(source, path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PocketNetError, match="No space left on device"):
        save_weights(network(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", ["a.pth", "absent/a.safetensors"])
def test_unwritable_paths_are_refused(tmp_path, source, name):
    with pytest.raises(PocketNetError, match=r"a\.pth: weights are written|cannot write .*: No such file"):
        save_weights(source, tmp_path / name)


def calibrated(model, path):
    calibration = calibration_of(weights_sha256(model), {1e-3: 0.31, 1e-4: 0.4})
    model.calibration = calibration
    save_weights(model, path)
    return calibration


def test_the_calibration_travels_with_the_weights(tmp_path):
    model = randomize_(network(), seed=3)
    expected = calibrated(model, tmp_path / "a.safetensors")
    loaded = load_weights(network(), tmp_path / "a.safetensors")
    assert loaded.calibration == expected
    assert current_calibration(loaded) == expected
    save_weights(loaded, tmp_path / "b.safetensors")
    assert load_weights(network(), tmp_path / "b.safetensors").calibration == expected
    # Weights without one take the model's away.
    torch.save(model.state_dict(), tmp_path / "c.pth")
    assert load_weights(loaded, tmp_path / "c.pth").calibration is None


def test_changed_weights_lose_their_calibration(tmp_path):
    model = randomize_(network(), seed=3)
    calibrated(model, tmp_path / "a.safetensors")
    with torch.no_grad():
        model.stem[0].weight[0, 0, 0, 0] += 1
    assert current_calibration(model) is None
    save_weights(model, tmp_path / "b.safetensors")
    assert load_weights(network(), tmp_path / "b.safetensors").calibration is None


def rewrite(path, **changes):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    save_file(state, path, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": None}, "two default thresholds"),
        ({"default_far": 2}, "values that none has"),
        ({"more": 1}, "other fields"),
        ({"weights_sha256": "0" * 64}, "belongs to other weights"),
    ],
)
def test_a_calibration_that_is_none_is_refused(tmp_path, change, message):
    model = randomize_(network(), seed=3)
    path = tmp_path / "a.safetensors"
    calibration = calibrated(model, path)
    rewrite(path, calibration=json.dumps(calibration.as_dict() | change))
    target = network()
    before = weights_sha256(target)
    with pytest.raises(PocketNetError, match=rf"a\.safetensors: .*{message}"):
        load_weights(target, path)
    assert weights_sha256(target) == before
    for text in ("[1]", "no JSON", "[" * 100_000):
        rewrite(path, calibration=text)
        with pytest.raises(
            PocketNetError, match=r"a\.safetensors: damaged: its calibration has other fields"
        ):
            load_weights(target, path)


def test_half_precision_files(tmp_path, source):
    path = tmp_path / "half.safetensors"
    save_weights(source, path, half=True)
    with safe_open(path, framework="pt") as file:
        kernel, slope = file.get_tensor("stem.0.weight"), file.get_tensor("stem.1.running_var")
        assert file.metadata()["weights_sha256"] != weights_sha256(source)
    assert (kernel.dtype, slope.dtype) == (torch.float16, torch.float32)
    model = load_weights(network(), path)
    assert model.stem[0].weight.dtype == torch.float32
    assert torch.equal(model.stem[0].weight, kernel.float())
    assert torch.equal(model.stem[1].running_var, source.stem[1].running_var)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(PocketNetError, match="do not match the SHA-256"):
        load_weights(network(), path)


def test_half_precision_files_are_calibrated_as_they_are_stored(tmp_path, source):
    half, whole = tmp_path / "half.safetensors", tmp_path / "calibrated.safetensors"
    save_weights(source, half, half=True)
    model = load_weights(network(), half)
    calibration = calibrated(model, tmp_path / "whole.safetensors")
    save_calibrated(half, whole, model, calibration)
    loaded = load_weights(network(), whole)
    assert loaded.calibration == calibration
    assert same(loaded, model)
    with safe_open(whole, framework="pt") as file, safe_open(half, framework="pt") as before:
        assert file.get_tensor("stem.0.weight").dtype == torch.float16
        assert file.metadata() == before.metadata() | {"calibration": json.dumps(calibration.as_dict())}
    # Rounded, they are other weights than those that were calibrated.
    save_weights(loaded, half, half=True)
    assert load_weights(network(), half).calibration is None


def test_calibrated_in_place_and_from_a_torch_file(tmp_path, source):
    path = tmp_path / "a.safetensors"
    save_weights(source, path)
    model = load_weights(network(), path)
    calibration = calibrated(model, tmp_path / "other.safetensors")
    torch.save(source.state_dict(), tmp_path / "a.pth")
    for given in (path, tmp_path / "a.pth"):
        save_calibrated(given, path, model, calibration)
        assert load_weights(network(), path).calibration == calibration
        assert same(load_weights(network(), path), source)


def test_half_precision_refuses_what_it_cannot_express(tmp_path):
    model = network()
    with torch.no_grad():
        model.stem[0].weight[0, 0, 0, 0] = 1e5
    with pytest.raises(PocketNetError, match=r"stem\.0\.weight holds values beyond 65504"):
        save_weights(model, tmp_path / "a.safetensors", half=True)
    assert not list(tmp_path.iterdir())
