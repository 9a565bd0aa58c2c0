"""MobileFaceNets that others publish in ONNX: read by their structure, embedding as onnxruntime does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, runner
from helpers import randomize_, relative_error
from onnx_mobilefacenets import (
    WIDTHS,
    by_onnxruntime,
    exported,
    halved,
    insightface,
    onnx,
    relu6_variant,
    shuffled,
    written,
)
from torch import Tensor

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.aotinductor import read_package_metadata
from pocketnet_fast.export.onnx import export_onnx
from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.rounding import Moments
from pocketnet_fast.models.chain import ChainModel
from pocketnet_fast.models.counting import count_model
from pocketnet_fast.models.loading import load_model
from pocketnet_fast.models.mobilefacenet_mbf import (
    BlockSize,
    MbfSizes,
    MobileFaceNetMbf,
    mbf_sizes,
    sizes_of_checkpoint,
)
from pocketnet_fast.models.onnx_graph import Constants, Norm
from pocketnet_fast.models.weights import load_weights, save_weights, weights_sha256
from pocketnet_fast.ops import native
from pocketnet_fast.ops.run_plan.reference import run_plan_reference

SMALL = (16, ((8, 24, 1), (24, 24, 1), (40, 48, 1), (32, 48, 2), (64, 40, 1), (24, 40, 1)), 48)
WIDE = (128, (*WIDTHS[1][:3], (512, 256, 6), (1024, 256, 1), (512, 256, 2)), 512)
LARGE = mbf_sizes((2, 8, 12, 4), 4)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small() -> Any:
    """A file's content; who changes it takes a copy."""
    return exported(insightface(3, groups=8, widths=SMALL, dim=20))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def copy_of(proto: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def agrees(path: Path, images: Tensor, limit: float = 1e-4) -> ChainModel:
    """The network of a file, which embeds as onnxruntime does by the file, eager and fused."""
    model = pocketnet_fast.create_model("mobilefacenet", weights=path).eval()
    assert isinstance(model, ChainModel)
    expected = by_onnxruntime(path, images)
    with torch.no_grad():
        assert relative_error(model(images), expected) < limit
    fast = pocketnet_fast.compile(model, threads=1)
    assert relative_error(fast(images), expected) < limit
    assert relative_error(fast(images[:1]), expected[:1]) < limit
    assert model.weights_source == str(path)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("folded", [True, False], ids=["folded", "norms"])
@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch", "one image"])
@pytest.mark.parametrize(
    ("make", "name", "dim"), [(insightface, "mobilefacenet_mbf", 512), (relu6_variant, "mobilefacenet", 128)]
)
def test_both_variants(
    tmp_path: Path,
    images: Tensor,
    make: Callable[[], torch.nn.Module],
    name: str,
    dim: int,
    dynamic: bool,
    folded: bool,
) -> None:
    proto = exported(make(), folded=folded, dynamic=dynamic)
    assert any(node.op_type == "BatchNormalization" for node in proto.graph.node[:-1]) != folded
    model = agrees(written(shuffled(proto), tmp_path / "a.onnx"), images)
    assert (model.model_name, model.embedding_dim) == (name, dim)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"widths": WIDE, "groups": 16},
        {"widths": SMALL, "groups": 16, "dim": 20},
        {"widths": SMALL, "groups": 4, "dim": 512},
        {"widths": SMALL, "groups": 0, "dim": 20},
        {"widths": SMALL, "groups": 8, "dim": 20, "bias": True},
    ],
    ids=["wide", "depthwise", "four a group", "none", "bias"],
)
def test_widths_are_the_file_s(tmp_path: Path, images: Tensor, options: dict[str, Any]) -> None:
    """And load again from what they are saved to, whatever they are."""
    model = agrees(written(exported(insightface(1, **options)), tmp_path / "a.onnx"), images)
    assert model.embedding_dim == options.get("dim", 512)
    save_weights(model, tmp_path / "a.safetensors")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        again = load_model(tmp_path / name)
        assert again.model_name == "mobilefacenet_mbf"
        assert weights_sha256(again) == weights_sha256(model)
        named = pocketnet_fast.create_model("mobilefacenet", weights=tmp_path / name)
        assert weights_sha256(named) == weights_sha256(model)
    assert "of other widths" in str(load_error(tmp_path / "a.onnx", "iresnet18"))


def load_error(path: Path, name: str | None = None) -> PocketNetError:
    with pytest.raises(PocketNetError) as error:
        load_model(path, name)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.slow
@pytest.mark.parametrize("make", [insightface, relu6_variant])
@pytest.mark.parametrize("dynamic", [True, False])
def test_torch_s_other_exporter(
    tmp_path: Path, images: Tensor, make: Callable[[], torch.nn.Module], dynamic: bool
) -> None:
    agrees(written(exported(make(), dynamo=True, dynamic=dynamic), tmp_path / "a.onnx"), images)


@pytest.mark.parametrize("opset", [11, 17])
def test_other_operator_sets(tmp_path: Path, images: Tensor, opset: int) -> None:
    network = insightface(2, groups=8, widths=SMALL, dim=20)
    agrees(written(exported(network, opset=opset, folded=opset == 11), tmp_path / "a.onnx"), images)


def test_a_bias_of_the_matrix_and_slopes_of_one_dimension(tmp_path: Path, images: Tensor, small: Any) -> None:
    from onnx import helper, numpy_helper

    proto = copy_of(small)
    graph = proto.graph
    product = next(node for node in graph.node if node.op_type == "MatMul")
    weight = next(tensor for tensor in graph.initializer if tensor.name == product.input[1])
    transposed = np.ascontiguousarray(numpy_helper.to_array(weight).T)
    prelu = next(node for node in graph.node if node.op_type == "PRelu")
    for name, value in (
        (weight.name, transposed),
        ("bias", np.linspace(-1, 1, 20, dtype=np.float32)),
        ("flat", np.linspace(0, 0.4, 16, dtype=np.float32)),
        ("axes", np.array([1, 2])),
    ):
        for old in [tensor for tensor in graph.initializer if tensor.name == name]:
            graph.initializer.remove(old)
        graph.initializer.append(numpy_helper.from_array(value, name))
    product.CopyFrom(helper.make_node("Gemm", [*product.input, "bias"], product.output, transB=1))
    prelu.input[1] = "slopes"
    graph.node.insert(0, helper.make_node("Unsqueeze", ["flat", "axes"], ["slopes"]))
    agrees(written(proto, tmp_path / "a.onnx"), images)


def test_limits_that_are_attributes(tmp_path: Path, images: Tensor) -> None:
    proto = exported(relu6_variant(), opset=9)
    assert any(node.op_type == "Clip" and node.attribute for node in proto.graph.node)
    agrees(written(proto, tmp_path / "a.onnx"), images)


def test_weights_of_half_precision(tmp_path: Path, images: Tensor, small: Any) -> None:
    from onnx import TensorProto

    agrees(written(halved(copy_of(small)), tmp_path / "a.onnx"), images)
    # And a graph that computes in it, which onnxruntime does with other roundings than ours.
    proto = copy_of(small)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    model = load_model(written(proto, tmp_path / "b.onnx")).eval()
    expected = by_onnxruntime(tmp_path / "b.onnx", images.half())
    with torch.no_grad():
        assert relative_error(model(images), expected) < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet_mbf"])
def test_files_of_this_package_come_back(tmp_path: Path, images: Tensor, name: str) -> None:
    model = randomize_(pocketnet_fast.create_model(name), 4)
    path = export_onnx(model, tmp_path / "m.onnx").path
    agrees(path, images)
    export_onnx(model, path, input="uint8")
    message = "m.onnx takes uint8 [N, 112, 112, 3]; a MobileFaceNet is read from a graph of one input"
    assert message in str(load_error(path))


class TestRefused:
    @pytest.mark.parametrize("name", ["yunet.onnx", "edgeface_xs.onnx"])
    def test_other_families(self, shared_dir: Path, name: str) -> None:
        path = shared_dir / "models" / name
        if not path.is_file():
            pytest.skip(f"no file {path}")
        assert f"{name} is no MobileFaceNet, which is what is read from ONNX files: operation " in str(
            load_error(path)
        )

    def test_a_residual_network(self, tmp_path: Path) -> None:
        path = written(exported(pocketnet_fast.create_model("iresnet18").eval()), tmp_path / "r18.onnx")
        message = str(load_error(path))
        assert "r18.onnx is no MobileFaceNet" in message
        assert "operation 1 is Conv[64, 3, 3, 1, 1, 1] of [-1]" in message

    def test_damaged_files(self, tmp_path: Path, small: Any) -> None:
        content = small.SerializeToString()
        for name, part in (("cut.onnx", content[: len(content) // 2]), ("text.onnx", b"no graph at all")):
            (tmp_path / name).write_bytes(part)
            assert f"{name} cannot be read as an ONNX file: " in str(load_error(tmp_path / name))
        (tmp_path / "empty.onnx").touch()
        assert "empty.onnx" in str(load_error(tmp_path / "empty.onnx"))
        assert "none.onnx: no such weight file" in str(load_error(tmp_path / "none.onnx"))

    def test_weights_in_another_file(self, tmp_path: Path, small: Any, images: Tensor) -> None:
        path = tmp_path / "a.onnx"
        onnx.save_model(
            copy_of(small), str(path), save_as_external_data=True, location="a.data", size_threshold=0
        )
        agrees(path, images)
        (tmp_path / "a.data").unlink()
        message = str(load_error(path))
        assert "a.onnx cannot be read as an ONNX file: " in message
        assert "a.data" in message

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("activation", r"is Sigmoid of \[0\], a mobilefacenet_mbf's PRelu\[16\] of \[0\]"),
            ("padding", r"operation 1 is Conv\[16, 3, 3, 3, 2, 2, 1, 1, 0, 0, 1, 1, 1\]"),
            ("dilation", r"operation 3 is Conv\[16, 2, 3, 3, 1, 1, 8, 1, 1, 1, 1, 2, 2\]"),
            ("slopes along the width", r"operation 2 is PRelu\[16, 1\]"),
            ("scaled matrix", "is scaled Gemm"),
            ("normalised pixels", r"operation 1 is Sub of \[-1\]"),
            ("weights computed", "the Conv .* has no constant weights"),
            ("one block less", "a mobilefacenet_mbf's"),
            ("unit length", "it has 48 operations, a mobilefacenet_mbf 47"),
            ("two results", "whose only result is not the embedding"),
            ("another size", r"takes float \[N, 3, 128, 112\]; a MobileFaceNet is read from"),
            ("not finite", "NaN or infinite"),
        ],
    )
    def test_graphs_that_are_not_quite_it(
        self, tmp_path: Path, small: Any, change: str, message: str
    ) -> None:
        proto = copy_of(small)
        _CHANGES[change](proto.graph)
        with pytest.raises(PocketNetError, match=message):
            load_model(written(proto, tmp_path / "a.onnx"))

    def test_another_network_than_was_asked_for(self, tmp_path: Path, small: Any) -> None:
        path = written(small, tmp_path / "a.onnx")
        message = "a.onnx: holds mobilefacenet_mbf of other widths, embedding 20, not iresnet50"
        assert message in str(load_error(path, "iresnet50"))
        with pytest.raises(PocketNetError, match="embedding has 20 dimensions, not 128"):
            pocketnet_fast.create_model("mobilefacenet", weights=path, embedding_dim=128)
        with pytest.raises(PocketNetError, match="mobilefacenet has channels fixed"):
            pocketnet_fast.create_model("mobilefacenet", weights=path, channels=16)
        with pytest.raises(PocketNetError, match=r"does not fit the model mobilefacenet \(it holds"):
            load_weights(pocketnet_fast.create_model("mobilefacenet"), path)

    def test_without_the_package(self, tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        path = written(small, tmp_path / "a.onnx")
        assert r"needs the package onnx: pip install 'pocketnet_fast[onnx]'" in str(load_error(path))


def _first(graph: Any, operation: str) -> Any:
    return next(node for node in graph.node if node.op_type == operation)


def _attribute(node: Any, name: str) -> Any:
    return next(attribute for attribute in node.attribute if attribute.name == name)


def _other_activation(graph: Any) -> None:
    node = _first(graph, "PRelu")
    node.op_type = "Sigmoid"
    del node.input[1]


def _other_padding(graph: Any) -> None:
    _attribute(_first(graph, "Conv"), "pads").ints[:] = [1, 0, 0, 1]


def _dilated(graph: Any) -> None:
    grouped = next(node for node in graph.node if node.op_type == "Conv" and _attribute(node, "group").i == 8)
    _attribute(grouped, "dilations").ints[:] = [2, 2]


def _flat_slopes(graph: Any) -> None:
    name = _first(graph, "PRelu").input[1]
    next(tensor for tensor in graph.initializer if tensor.name == name).dims[:] = [16, 1]


def _scaled(graph: Any) -> None:
    node = _first(graph, "MatMul")
    node.op_type = "Gemm"
    node.attribute.append(onnx.helper.make_attribute("alpha", 2.0))


def _normalised(graph: Any) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(127.5), "mean"))
    image = graph.input[0].name
    for node in graph.node:
        node.input[:] = ["pixels" if name == image else name for name in node.input]
    graph.node.insert(0, onnx.helper.make_node("Sub", [image, "mean"], ["pixels"]))


def _computed(graph: Any) -> None:
    conv = _first(graph, "Conv")
    graph.node.insert(0, onnx.helper.make_node("Exp", [conv.input[1]], ["computed"]))
    conv.input[1] = "computed"


def _without_a_block(graph: Any) -> None:
    add = [node for node in graph.node if node.op_type == "Add"][-1]
    block_input, result = add.input[0], add.output[0]
    for node in graph.node:
        node.input[:] = [block_input if name == result else name for name in node.input]


def _unit_length(graph: Any) -> None:
    result = graph.output[0].name
    graph.node.append(onnx.helper.make_node("LpNormalization", [result], ["unit"], axis=1))
    graph.output[0].name = "unit"


def _two_results(graph: Any) -> None:
    other = onnx.helper.make_tensor_value_info(_first(graph, "Conv").output[0], onnx.TensorProto.FLOAT, None)
    graph.output.append(other)


def _other_size(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128


def _not_finite(graph: Any) -> None:
    tensor = next(tensor for tensor in graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[3] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


_CHANGES: dict[str, Callable[[Any], None]] = {
    "activation": _other_activation,
    "padding": _other_padding,
    "dilation": _dilated,
    "slopes along the width": _flat_slopes,
    "scaled matrix": _scaled,
    "normalised pixels": _normalised,
    "weights computed": _computed,
    "one block less": _without_a_block,
    "unit length": _unit_length,
    "two results": _two_results,
    "another size": _other_size,
    "not finite": _not_finite,
}


class TestTheNetwork:
    def test_its_keys_are_those_of_arcface_torch(self) -> None:
        with torch.device("meta"):
            model = pocketnet_fast.create_model("mobilefacenet_mbf")
        assert count_model(model).total.parameters == 2_059_520
        keys = model.state_dict().keys()
        assert {
            "layers.0.layers.0.weight",
            "layers.1.layers.2.weight",
            "layers.2.layers.1.layers.0.weight",
            "layers.3.layers.3.layers.2.layers.1.running_var",
            "conv_sep.layers.2.weight",
            "features.layers.0.layers.0.weight",
            "features.layers.2.weight",
            "features.layers.3.bias",
        } <= keys
        assert model.state_dict()["layers.1.layers.0.weight"].shape == (128, 2, 3, 3)

    @pytest.mark.parametrize("sizes", [mbf_sizes(), LARGE, mbf_sizes((1, 2, 2, 1), 1)])
    def test_its_keys_and_shapes_say_its_sizes(self, sizes: MbfSizes) -> None:
        with torch.device("meta"):
            state = MobileFaceNetMbf(64, sizes).state_dict()
        names = sorted(state)
        assert sizes_of_checkpoint({name: tuple(state[name].shape) for name in names}) == sizes

    def test_shapes_of_no_network(self, tmp_path: Path) -> None:
        sizes = MbfSizes(16, 8, (BlockSize(8, 24, 2), BlockSize(24, 24, 1)), 48)
        state = MobileFaceNetMbf(20, sizes).state_dict()
        for name, shape in (
            ("layers.1.layers.0.weight", (16, 3, 3, 3)),
            ("layers.0.layers.0.weight", (0, 3, 3, 3)),
            ("layers.2.layers.2.layers.0.weight", (24, 0, 1, 1)),
            ("conv_sep.layers.0.weight", (48,)),
        ):
            torch.save(state | {name: torch.zeros(shape)}, tmp_path / "a.pth")
            assert "a.pth: does not say which network it belongs to" in str(load_error(tmp_path / "a.pth"))

    def test_maps_and_tail(self, images: Tensor) -> None:
        sizes = MbfSizes(
            16, 8, (BlockSize(8, 24, 2), BlockSize(24, 24, 1), BlockSize(40, 48, 2), BlockSize(64, 40, 2)), 48
        )
        model = randomize_(MobileFaceNetMbf(20, sizes), 1)
        with torch.no_grad():
            embedding, maps = model.forward_maps(images, ("56", "28", "14", "7", "tail"))
            assert relative_error(model(images), embedding) < 1e-6
            assert [tuple(found.shape[1:]) for found in maps.values()] == [
                (16, 56, 56),
                (24, 28, 28),
                (48, 14, 14),
                (40, 7, 7),
                (48, 7, 7),
            ]
            depthwise, norm, product, last = model.tail_layers()
            rest = last(product(norm(depthwise(maps["tail"])).flatten(1)))
            assert relative_error(rest, embedding) < 1e-5
        with pytest.raises(PocketNetError, match="has no feature map 13"):
            model.forward_maps(images, ("13",))


@pytest.fixture(params=native.available_isas("bf16"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.forced_isa(request.param):
        yield request.param


@pytest.fixture(scope="module", params=["mbf", "residual of an activated state"])
def network(request: pytest.FixtureRequest) -> MobileFaceNetMbf:
    """As it is published, and one whose first residual block reads the first convolution."""
    sizes = mbf_sizes((2, 2, 1, 1), 1) if request.param != "mbf" else mbf_sizes()
    return randomize_(MobileFaceNetMbf(512, sizes), 5)


class TestFused:
    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_every_instruction_set(
        self, network: MobileFaceNetMbf, isa: str, precision: str, images: Tensor
    ) -> None:
        """fp32 to 1e-5; half precision no further from float64 than eager in bfloat16 is."""
        exact = self.eager(network, images, torch.float64)
        found = pocketnet_fast.compile(network, precision=precision, threads=1)(images)
        assert torch.equal(found, pocketnet_fast.compile(network, precision=precision, threads=3)(images))
        rounded = self.error(self.eager(network, images, torch.bfloat16), exact)
        assert self.error(found, exact) <= (1e-5 if precision == "fp32" else rounded)

    @pytest.mark.parametrize("bands", [True, False])
    def test_the_reference_reads_the_same_program(
        self, network: MobileFaceNetMbf, images: Tensor, bands: bool
    ) -> None:
        plan = lower(network, bands=bands)
        exact = self.eager(network, images, torch.float64)
        assert self.error(run_plan_reference(images, *plan.encode()), exact) < 1e-5
        assert plan.macs == count_model(network).total.macs

    def test_a_grouped_convolution_is_a_sum_of_depthwise_ones(self) -> None:
        text = str(lower(randomize_(MobileFaceNetMbf(), 1)))
        assert "layers.1.1            prelu dw 3x3 prelu (layers.0.0, 1)" in text
        assert "prelu pw (layers.1.0, 1)" in text

    def test_too_many_channels_a_group(self) -> None:
        sizes = mbf_sizes((1, 1, 1, 1), 1)._replace(groups=2)
        with pytest.raises(
            PocketNetError,
            match=r"no fused form: layers\.1 has 32 channels a group, and the kernels take .* 16",
        ):
            pocketnet_fast.compile(randomize_(MobileFaceNetMbf(32, sizes), 1))

    def test_half_precision_of_a_file_that_tells_no_moments(self, tmp_path: Path, images: Tensor) -> None:
        path = written(exported(insightface(6)), tmp_path / "a.onnx")
        model = load_model(path).eval()
        assert isinstance(model, ChainModel)
        assert not any(Moments.after(unit.norm).mean.any() for unit in model.units()[:-1])
        exact = self.eager(model, images, torch.float64)
        found = pocketnet_fast.compile(model, precision="bf16", threads=1)(images)
        assert self.error(found, exact) <= self.error(self.eager(model, images, torch.bfloat16), exact)

    @staticmethod
    def eager(model: Any, images: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.no_grad():
            found: Tensor = model.to(dtype)(images.to(dtype)).double()
        model.float()
        return found

    @staticmethod
    def error(found: Tensor, exact: Tensor) -> float:
        return float((found.double() - exact).norm() / exact.norm())


def test_a_normalisation_in_its_product() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    bias, *vectors = (rng.uniform(0.5, 2, 4).astype(np.float32) for _ in range(5))
    norm = Norm(*vectors, epsilon=1e-3)
    x = torch.from_numpy(rng.standard_normal((2, 3, 5, 5)).astype(np.float32))
    expected = torch.nn.functional.batch_norm(
        torch.nn.functional.conv2d(x, torch.from_numpy(weight), torch.from_numpy(bias)),
        *(torch.from_numpy(vectors[place]) for place in (2, 3, 0, 1)),
        eps=1e-3,
    )
    folded = [torch.from_numpy(part) for part in Constants(weight, bias, norm).folded()]
    torch.testing.assert_close(torch.nn.functional.conv2d(x, *folded), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(exported(insightface(7)), tmp_path_factory.mktemp("mbf") / "w600k_mbf.onnx")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    import cv2

    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(1)
    paths = [folder / f"{number}.png" for number in range(2)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (112, 112, 3), dtype=np.uint8))
    return paths


class TestCommandLine:
    def test_info(self, file: Path, run: Run) -> None:
        found = run("info", "--weights", file, "--plan", "--json").json
        assert (found["model"], found["embedding_dim"], found["parameters"]) == (
            "mobilefacenet_mbf",
            512,
            2_059_520,
        )
        assert found["input"]["mean"] == [0.5] * 3
        assert found["plan"][-1]["step"] == "features.linear"
        assert run("info", "mobilefacenet", "--weights", file, "--json").json["model"] == "mobilefacenet_mbf"
        assert run("info", "mobilefacenet_mbf", "--json").json["macs"] == found["macs"]

    def test_embedding_and_verifying(self, file: Path, crops: list[Path], tmp_path: Path, run: Run) -> None:
        result = run("embed", *crops, "--aligned", "--weights", file, "-o", tmp_path / "e.npz")
        assert result.code == 0, result.err
        found = torch.from_numpy(np.load(tmp_path / "e.npz")["embeddings"])
        model = load_model(file).eval()
        import cv2

        pixels = torch.stack([torch.from_numpy(cv2.imread(str(path))) for path in crops])
        x = model.input_spec.normalize(pixels, color="bgr")
        expected = by_onnxruntime(file, x) + by_onnxruntime(file, x.flip(3))
        unit = torch.nn.functional.normalize
        assert relative_error(unit(found), unit(expected)) < 1e-4
        similarity = float(unit(expected).prod(0).sum())
        verified = run("verify", *crops, "--aligned", "--weights", file, "--json").json
        assert verified["cosine"] == pytest.approx(similarity, abs=1e-4)

    @pytest.mark.parametrize("options", [("--kernels", "fused"), ("--kernels", "aten")])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_torchscript(
        self, file: Path, images: Tensor, tmp_path: Path, run: Run, options: tuple[str, str]
    ) -> None:
        target = tmp_path / "m.pt"
        result = run("export", "--weights", file, *options, "-o", target)
        assert result.code == 0, result.err
        found = torch.jit.load(target)(images)
        assert relative_error(found, by_onnxruntime(file, images)) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["m.pt2", "m.onnx"])
    def test_other_formats(self, file: Path, images: Tensor, tmp_path: Path, run: Run, name: str) -> None:
        stated = run("export", "--weights", file, "-o", tmp_path / name, "--json").json
        if name == "m.onnx":
            found = by_onnxruntime(tmp_path / name, images)
        else:
            assert stated["metadata"] == read_package_metadata(tmp_path / name)
            found = torch._inductor.aoti_load_package(str(tmp_path / name))(images)
        assert relative_error(found, by_onnxruntime(file, images)) < 1e-4

    def test_refusals_are_one_line(self, tmp_path: Path, run: Run) -> None:
        (tmp_path / "a.onnx").write_bytes(b"no graph")
        for command in (("info",), ("embed", tmp_path / "a.png", "-o", tmp_path / "e.npz")):
            result = run(*command, "--weights", tmp_path / "a.onnx")
            assert result.code == 2
            assert result.err.count("\n") == 1
            assert "a.onnx cannot be read as an ONNX file" in result.err
