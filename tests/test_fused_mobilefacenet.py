"""MobileFaceNet on the fused kernels: the embeddings of eager PyTorch, in every precision and set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import randomize_
from torch import Tensor

import pocketnet_fast
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering import lower
from pocketnet_fast.lowering.rounding import Moments, expected_capped
from pocketnet_fast.models.counting import count_model
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.ops import native
from pocketnet_fast.ops.run_plan import run_plan
from pocketnet_fast.ops.run_plan.reference import run_plan_reference


@pytest.fixture(scope="module", params=["random", "trained"])
def model(request: pytest.FixtureRequest, shared_dir: Path) -> MobileFaceNet:
    network = pocketnet_fast.create_model("mobilefacenet")
    if request.param == "random":
        return randomize_(network, 3).eval()
    path = shared_dir / "models" / "mobilefacenet_ms1m.safetensors"
    if not path.is_file():
        pytest.skip(f"no trained weights at {path}")
    return pocketnet_fast.load_weights(network, path).eval()


@pytest.fixture(params=native.available_isas("bf16"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.forced_isa(request.param):
        yield request.param


@pytest.fixture(scope="module")
def faces() -> Tensor:
    dataset = open_dataset("synthetic:identities=3,images=2")
    return torch.stack([torch.from_numpy(dataset.image(index)) for index in range(6)])


def eager(model: MobileFaceNet, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    network = pocketnet_fast.create_model("mobilefacenet").eval()
    network.load_state_dict(model.state_dict())
    with torch.no_grad():
        found: Tensor = network.to(dtype)(model.input_spec.normalize(pixels).to(dtype))
    return found.double()


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_instruction_set(model: MobileFaceNet, isa: str, precision: str, faces: Tensor) -> None:
    """fp32 to 1e-5; half precision no further from float64 than eager in bfloat16 is."""
    exact = eager(model, faces, torch.float64)
    found = pocketnet_fast.compile(model, precision=precision, threads=1)(faces)
    assert torch.equal(found, pocketnet_fast.compile(model, precision=precision, threads=3)(faces))
    bound = 1e-5 if precision == "fp32" else error(eager(model, faces, torch.bfloat16), exact)
    assert error(found, exact) <= bound


def test_the_reference_reads_the_same_program(model: MobileFaceNet, faces: Tensor) -> None:
    plan = lower(model, color="bgr")
    program, weights = plan.encode()
    exact = eager(model, faces, torch.float64)
    assert error(run_plan_reference(faces.flip(-1), program, weights), exact) < 1e-5
    assert error(run_plan(faces.flip(-1), program, weights, plan.results), exact) < 1e-5
    assert plan.macs == count_model(model).total.macs


def test_what_is_said_of_the_plan(model: MobileFaceNet) -> None:
    text = str(lower(model))
    assert "capped prelu dw 3x3 /2 prelu pw (features.0.expansion)" in text
    assert "capped prelu dw 3x3 prelu pw (features.1.expansion) + features.0" in text
    assert "capped prelu dw 7x7 valid (conv2)" in text


def test_it_is_not_for_cuda(model: MobileFaceNet, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketnet_fast.ops.run_plan.triton_launch import decode

    program = lower(model, bands=False).encode()[0]
    with pytest.raises(PocketNetError, match="the Triton kernels run PocketNets"):
        decode(tuple(program.tolist()))


def test_means_of_what_is_capped() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([0.3, 5.0, -2.0, 9.0]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    values = mean + deviation * torch.randn(400_000, 4, generator=generator)
    slope, cap = torch.tensor([0.0, 0.0, 0.25, -0.1]), torch.tensor([6.0, 6.0, 1.0, 6.0])
    expected = torch.minimum(torch.where(values < 0, values * slope, values), cap).mean(0)
    moments = Moments(mean.double().numpy(), deviation.double().numpy() ** 2)
    found = expected_capped(moments, slope.double().numpy(), cap.double().numpy())
    assert abs(torch.from_numpy(found) - expected).max() < 0.02
