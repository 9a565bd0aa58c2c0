"""Files of weights as people have them: wrappers, prefixes, and everything that is no file of weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_genotype, randomize_
from safetensors.torch import save_file
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.checkpoint_file import TORCH_SUFFIXES
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA, SOFTMAX_CIFAR10, format_genotype
from pocketnet_fast.models.loading import load_model
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.registry import create_model
from pocketnet_fast.models.weights import load_weights, save_weights, weights_sha256


def network() -> PocketNet:
    return PocketNet(SOFTMAX_CASIA, channels=2, layers=4, embedding_dim=8)


@pytest.fixture(scope="module")
def source() -> PocketNet:
    return randomize_(network(), seed=11)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def loads(path: Path, source: PocketNet) -> bool:
    return weights_sha256(load_weights(network(), path)) == weights_sha256(source)


PREFIXES = [
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.",
    "backbone.",
    "model.",
    "module.backbone.",
    "model._orig_mod.backbone.",
]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(tmp_path: Path, source: PocketNet, prefix: str, suffix: str) -> None:
    state = prefixed(source.state_dict(), prefix)
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert loads(path, source)


@pytest.mark.parametrize("place", ["backbone.", "model."])
def test_the_other_parts_of_a_training_module_are_left_out(
    tmp_path: Path, source: PocketNet, place: str
) -> None:
    state = prefixed(source.state_dict(), place) | {
        "head.kernel": torch.zeros(8, 3),
        "loss.scale": torch.ones(1),
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")
    assert loads(tmp_path / "a.ckpt", source)


WRAPPERS = ["state_dict", "model", "net", "net_state_dict", "backbone", "model_state_dict"]


@pytest.mark.parametrize("suffix", TORCH_SUFFIXES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(tmp_path: Path, source: PocketNet, wrapper: str, suffix: str) -> None:
    path = tmp_path / f"model_best{suffix}"
    content = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}, wrapper: source.state_dict()}
    torch.save(content, path)
    assert loads(path, source)


def test_a_wrapper_in_a_wrapper(tmp_path: Path, source: PocketNet) -> None:
    state = prefixed(source.state_dict(), "module.")
    torch.save({"net": {"state_dict": state, "acc": 0.9}}, tmp_path / "a.pth.tar")
    assert loads(tmp_path / "a.pth.tar", source)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("model.", "backbone."), "tensors under backbone. and model., and which are the network's is not"),
        (("", "backbone."), "stem.0.weight with and without the prefix 'backbone.'"),
        (("", "module."), "stem.0.weight with and without the prefix 'module.'"),
        (("module.", ""), "stem.0.weight with and without the prefix 'module.'"),
        (("", "_orig_mod."), "stem.0.weight with and without the prefix '_orig_mod.'"),
    ],
)
def test_what_is_ambiguous_is_refused(
    tmp_path: Path, source: PocketNet, names: tuple[str, str], message: str
) -> None:
    first, second = (prefixed(source.state_dict(), name) for name in names)
    torch.save({**first, **second}, tmp_path / "a.pth")
    with pytest.raises(PocketNetError, match=message):
        load_weights(network(), tmp_path / "a.pth")


def test_two_state_dicts_are_ambiguous(tmp_path: Path, source: PocketNet) -> None:
    state = source.state_dict()
    torch.save({"net": state, "backbone": state}, tmp_path / "a.pth")
    with pytest.raises(PocketNetError, match=r"several state dicts \(backbone, net\)"):
        load_weights(network(), tmp_path / "a.pth")


def numpy_values(state: dict[str, Tensor]) -> Any:
    return {"state_dict": state, "best": np.float64(0.97)}


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3700000\n"
HTML = b"\n<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning</title></head></html>"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".pth.tar"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "a Git LFS pointer instead of the file; fetch the file with: git lfs pull"),
        (HTML, "a web page instead of weights"),
        (b"\xef\xbb\xbf<html>", "a web page instead of weights"),
        (b"", "damaged: the file is empty"),
        (b"PK\x03\x04" + bytes(99), "damaged or not a"),
        (b"\x80\x02" + bytes(99), "damaged or not a"),
    ],
)
def test_what_is_no_weight_file(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(PocketNetError) as error:
        load_weights(network(), path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert plain(str(error.value))


def plain(text: str) -> bool:
    """One line without terminal codes and without torch's advice."""
    return text.isprintable() and not any(
        word in text for word in ("weights_only", "trust", "allowlist", "docs")
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda model: model,
            r"refused: it holds a whole pickled object \([\w.]+\), not weights alone; save its",
        ),
        (lambda model: {"model": model}, "refused: it holds a whole pickled object"),
        (lambda model: numpy_values(model.state_dict()), r"refused: it holds numpy values \(numpy"),
        (lambda model: {"weight": np.ones(3)}, r"refused: it holds numpy values \(numpy"),
    ],
)
def test_pickled_objects_are_refused_in_our_words(
    tmp_path: Path, make: Any, message: str, legacy: bool
) -> None:
    path = tmp_path / "a.pth"
    torch.save(make(nn.Linear(2, 2)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PocketNetError, match=message) as error:
        load_weights(network(), path)
    assert plain(str(error.value))


def test_exported_files_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"x")
    with pytest.raises(PocketNetError, match="which other programs run; expected the weights"):
        load_weights(network(), tmp_path / "a.pt2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite(
    tmp_path: Path, source: PocketNet, value: float, suffix: str, dtype: torch.dtype
) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v.clone() for k, v in source.state_dict().items()}
    state["tail.5.running_var"][3] = value
    path = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    model = randomize_(network(), 12)
    before = weights_sha256(model)
    with pytest.raises(
        PocketNetError, match=r"a\.\w+: tail\.5\.running_var holds 1 of 512 values that are NaN"
    ):
        load_weights(model, path)
    assert weights_sha256(model) == before


UNUSUAL = {
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor, tensor], layout=torch.jagged),
    "float8_e8m0fnu": lambda tensor: tensor.to(torch.float8_e8m0fnu),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_that_no_network_has(tmp_path: Path, source: PocketNet, kind: str) -> None:
    state = source.state_dict()
    name = "tail.5.running_mean"
    torch.save({**state, name: UNUSUAL[kind](state[name])}, tmp_path / "a.pth")
    model = randomize_(network(), 12)
    before = weights_sha256(model)
    for load in (lambda path: load_weights(model, path), load_model):
        with pytest.raises(PocketNetError, match=rf"a\.pth: {name} is .*{kind}.*; expected strided tensors"):
            load(tmp_path / "a.pth")
    assert weights_sha256(model) == before


class TestIdentification:
    """Which network a file belongs to."""

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_what_a_file_says(self, tmp_path: Path, prefix: str) -> None:
        genotype = random_genotype(3, nodes=3)
        model = PocketNet(genotype, channels=2, layers=5, embedding_dim=16)
        save_weights(model, tmp_path / "a.safetensors")
        found = load_model(tmp_path / "a.safetensors")
        assert isinstance(found, PocketNet)
        assert (found.genotype, found.channels, found.layers) == (genotype, 2, 5)
        assert (found.embedding_dim, found.model_name) == (16, "pocketnet")
        assert weights_sha256(found) == weights_sha256(model)

    @pytest.mark.parametrize(
        ("name", "dim"),
        [("pocketnet_m256", None), ("pocketnet_s128", None), ("mobilefacenet", 64), ("iresnet18", None)],
    )
    def test_what_keys_and_shapes_say(self, tmp_path: Path, name: str, dim: int | None) -> None:
        model = create_model(name, embedding_dim=dim)
        torch.save({"state_dict": prefixed(model.state_dict(), "module.")}, tmp_path / "a.pth.tar")
        found = load_model(tmp_path / "a.pth.tar")
        assert (found.model_name, found.embedding_dim) == (name, model.embedding_dim)
        assert weights_sha256(found) == weights_sha256(model)

    def test_a_published_genotype_of_any_size(self, tmp_path: Path) -> None:
        model = PocketNet(SOFTMAX_CIFAR10, channels=3, layers=6, embedding_dim=8)
        torch.save(model.state_dict(), tmp_path / "a.pth")
        found = load_model(tmp_path / "a.pth")
        assert isinstance(found, PocketNet)
        assert (found.genotype, found.channels, found.layers) == (SOFTMAX_CIFAR10, 3, 6)

    def test_the_name_may_be_given(self, tmp_path: Path) -> None:
        torch.save(MobileFaceNet(64).state_dict(), tmp_path / "a.pth")
        assert load_model(tmp_path / "a.pth", "mobilefacenet").embedding_dim == 64
        model = PocketNet(SOFTMAX_CASIA, 16, 18, 128)
        save_weights(model, tmp_path / "b.safetensors")
        assert load_model(tmp_path / "b.safetensors").model_name == "pocketnet"
        assert load_model(tmp_path / "b.safetensors", "pocketnet_s128").model_name == "pocketnet_s128"
        save_weights(network(), tmp_path / "c.safetensors")
        assert load_model(tmp_path / "c.safetensors", "pocketnet").embedding_dim == 8

    def test_another_network_is_said_to_be_one(self, tmp_path: Path) -> None:
        torch.save(MobileFaceNet().state_dict(), tmp_path / "a.pth")
        with pytest.raises(
            PocketNetError, match=r"a\.pth: looks like mobilefacenet, not like pocketnet_s128"
        ):
            load_model(tmp_path / "a.pth", "pocketnet_s128")
        with pytest.raises(
            PocketNetError, match=r"not fit the model pocketnet \(it holds mobilefacenet\); missing"
        ):
            load_weights(network(), tmp_path / "a.pth")
        save_weights(network(), tmp_path / "b.safetensors")
        message = (
            r"b\.safetensors: holds a PocketNet of the genotype softmax_casia, 2 channels, 4 cells, "
            "embedding 8, not iresnet50; it names its network, so leave --model out"
        )
        with pytest.raises(PocketNetError, match=message):
            load_model(tmp_path / "b.safetensors", "iresnet50")

    def test_a_genotype_that_no_key_tells(self, tmp_path: Path) -> None:
        model = PocketNet(random_genotype(3), channels=2, layers=4, embedding_dim=8)
        torch.save(model.state_dict(), tmp_path / "a.pth")
        with pytest.raises(
            PocketNetError, match=r"a PocketNet, 2 channels, 4 cells, embedding 8, whose genotype it"
        ):
            load_model(tmp_path / "a.pth")

    def test_a_network_of_others(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
        with pytest.raises(
            PocketNetError, match=r"does not say which network it belongs to, .*none of pocketnet, "
        ):
            load_model(tmp_path / "a.pth")
        with pytest.raises(PocketNetError, match="unknown model 'pocketnet_s12'; did you mean"):
            load_model(tmp_path / "a.pth", "pocketnet_s12")

    @pytest.mark.parametrize(
        ("stated", "message"),
        [
            (
                {"model_name": "iresnet18", "embedding_dim": "1" * 30},
                "damaged: it states iresnet18, embedding 1",
            ),
            (
                {"model_name": "mobilefacenet_mbf", "embedding_dim": "16384"},
                r"does not fit .*; missing \(\d+\)",
            ),
            ({"channels": "16385"}, "damaged: it states a PocketNet .* 16385 channels"),
            ({"channels": "16384"}, r"does not fit the model pocketnet .*; missing \(\d+\)"),
            ({"layers": "257"}, "damaged: it states a PocketNet .* 257 cells"),
            ({"layers": "9" * 5000}, "damaged: it does not describe its network"),
            ({"layers": "0"}, "layers is 0; expected at least 4"),
        ],
    )
    def test_a_file_that_states_more_than_it_holds(
        self, tmp_path: Path, stated: dict[str, str], message: str
    ) -> None:
        """A network of any size is described in a few bytes; no memory is asked for by them."""
        about = {"model_name": "pocketnet", "embedding_dim": "8", "channels": "2", "layers": "4"}
        about["genotype"] = format_genotype(SOFTMAX_CASIA)
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", about | stated)
        with pytest.raises(PocketNetError, match=rf"a\.safetensors: {message}"):
            load_model(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("size", [1 << 40, 1 << 62])
    @pytest.mark.parametrize("name", ["stem.0.weight", "tail.7.running_mean"])
    def test_shapes_beyond_memory(self, tmp_path: Path, source: PocketNet, name: str, size: int) -> None:
        """A single number is stored, which strides of zero repeat."""
        state = source.state_dict()
        tensor = torch.zeros([1] * state[name].dim())
        torch.save({**state, name: tensor.expand(size, *tensor.shape[1:])}, tmp_path / "a.pth")
        with pytest.raises(PocketNetError, match=r"a\.pth: does not say which network it belongs to"):
            load_model(tmp_path / "a.pth")

    @pytest.mark.parametrize("number", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "", "-1"])
    def test_a_cell_of_no_number(self, tmp_path: Path, source: PocketNet, number: str) -> None:
        torch.save({**source.state_dict(), f"cells.{number}.x": torch.zeros(1)}, tmp_path / "a.pth")
        with pytest.raises(PocketNetError, match=r"a\.pth: it holds a PocketNet, 2 channels, 4 cells"):
            load_model(tmp_path / "a.pth")
