"""The margin softmax: recorded results, the reference's derivative, the kernels against the reference."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import margin_problems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from margin_problems import MARGINS, assert_agree, distance, evaluate, exact, problem
from recordings import Golden
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import distillation_loss, margin_cross_entropy
from pocketnet_fast.ops.margin_cross_entropy import MarginOptions, cpu
from pocketnet_fast.ops.margin_cross_entropy.reference import margin, margin_cross_entropy_reference
from pocketnet_fast.ops.native import available_isas, forced_isa


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_recorded(golden: Callable[[str], Golden], implementation: str) -> None:
    tensors = golden("arcface_kd_n32_d128_c1000").tensors
    inputs = tensors["embedding"], tensors["kernel"], tensors["label"]
    options = {"implementation": implementation, "teacher": tensors["teacher"], "kd_weight": 100.0}
    total, by_embedding, by_kernel = evaluate(*inputs, **options)
    assert float((total - tensors["total"]).abs()) < 1e-5
    assert distance(by_embedding, tensors["grad_embedding"]) < 1e-4
    assert distance(by_kernel, tensors["grad_kernel"]) < 1e-4
    alone = margin_cross_entropy(*inputs, implementation=implementation)
    assert float((alone - tensors["arcface_loss"]).abs()) < 1e-5
    distilled = distillation_loss(tensors["embedding"], tensors["teacher"])
    assert float((distilled - tensors["kd_mse"]).abs()) < 1e-7


def test_recorded_on_every_isa(isa: str, golden: Callable[[str], Golden]) -> None:
    test_recorded(golden, "fused")


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margins", MARGINS)
def test_gradcheck(margins: tuple[float, float, float], easy_margin: bool) -> None:
    embedding, kernel, label = problem(5, 4, 7)
    teacher = torch.randn(5, 4, dtype=torch.float64)

    def loss(e: Tensor, k: Tensor) -> Tensor:
        return margin_cross_entropy(
            e, k, label, scale=8.0, margins=margins, easy_margin=easy_margin, teacher=teacher, kd_weight=3.0
        )

    inputs = embedding.double().requires_grad_(), (kernel * 100).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_margins_are_the_equations() -> None:
    theta = torch.linspace(0.0, math.pi, 500, dtype=torch.float64)
    cosine = theta.cos()
    for m1, m2, m3 in MARGINS:
        psi = margin(cosine, MarginOptions(1.0, m1, m2, m3))
        angle = m1 * theta + m2
        within = angle < math.pi
        assert torch.allclose(psi[within], angle[within].cos() - m3, atol=1e-7)
        if m1 == 1.0:
            beyond = ~within & (cosine < math.cos(math.pi - m2) - 1e-9)
            assert torch.allclose(psi[beyond], cosine[beyond] - m2 * math.sin(m2) - m3, atol=1e-7)
        assert (psi.diff() < 1e-7).all(), "psi falls with the angle"
        easy = margin(cosine, MarginOptions(1.0, m1, m2, m3, easy_margin=True))
        assert torch.equal(easy, torch.where(cosine > 0, psi, cosine))


def test_exponential(isa: str) -> None:
    from pocketnet_fast.ops.native import extension

    x = torch.cat([torch.linspace(-87.0, 88.0, 400_001), torch.linspace(-1.0, 1.0, 100_000)])
    x = x[: x.numel() // 16 * 16]
    found = torch.from_numpy(extension().exponential(x.numpy())).double()
    assert float((found / x.double().exp() - 1.0).abs().max()) < 2.0**-22
    special = torch.tensor([0.0, -0.0, -87.0, -88.0, -1e30, -math.inf, math.nan] + [0.0] * 9)
    found = torch.from_numpy(extension().exponential(special.numpy()))
    assert found[:2].tolist() == [1.0, 1.0]
    assert float(found[3:6].max()) < 2.0**-125
    assert found[6].isnan()


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 31, 32, 33, 252, 507, 1000])
@pytest.mark.parametrize("dims", [1, 3, 17, 100, 128, 512])
def test_sizes(isa: str, dims: int, classes: int) -> None:
    assert_agree(*problem(13, dims, classes, seed=dims + classes))


@pytest.mark.parametrize("samples", [1, 2, 14, 15, 29, 255, 256, 257, 530])
def test_batches(isa: str, samples: int) -> None:
    assert_agree(*problem(samples, 20, 300, seed=samples))


@pytest.mark.parametrize("classes", [255, 256, 257, 511, 512, 513])
def test_labels_on_every_border(isa: str, classes: int) -> None:
    borders = [b + step for b in range(0, classes + 1, 16) for step in (-1, 0)]
    label = torch.tensor([b for b in borders if 0 <= b < classes])
    embedding, kernel, _ = problem(len(label), 24, classes)
    assert_agree(embedding, kernel, label)
    assert_agree(embedding[:9], kernel, torch.full((9,), classes - 1))


@pytest.mark.parametrize("margins", MARGINS)
def test_margins(isa: str, margins: tuple[float, float, float]) -> None:
    for easy_margin in (False, True):
        assert_agree(*problem(33, 3, 100), margins=margins, easy_margin=easy_margin, scale=30.0)


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 40),
    dims=st.sampled_from([1, 2, 3, 16, 17, 31, 33, 100, 128]),
    classes=st.integers(1, 700),
    seed=st.integers(0, 1000),
    margins=st.sampled_from(MARGINS),
    scale=st.sampled_from([1.0, 16.0, 64.0, 128.0]),
    kd_weight=st.sampled_from([0.0, 100.0]),
    threads=st.integers(1, 4),
    isa=st.sampled_from(available_isas()),
)
def test_random_problems(
    samples: int,
    dims: int,
    classes: int,
    seed: int,
    margins: tuple[float, float, float],
    scale: float,
    kd_weight: float,
    threads: int,
    isa: str,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        inputs = problem(samples, dims, classes, seed)
        teacher = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(seed))
        with forced_isa(isa):
            assert_agree(*inputs, margins=margins, scale=scale, teacher=teacher, kd_weight=kd_weight)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cosine_of_one(margins: tuple[float, float, float], implementation: str, sign: float) -> None:
    margin_problems.assert_bounded_at_a_cosine_of_one(
        *problem(6, 8, 20), sign, margins=margins, implementation=implementation
    )


def test_gradient_close_to_a_cosine_of_one(isa: str) -> None:
    _, kernel, label = problem(4, 16, 50)
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    margin_problems.assert_right_close_to_a_cosine_of_one(kernel, label, noise, "fused")


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_zero_vectors(implementation: str) -> None:
    embedding, kernel, label = problem(6, 8, 20)
    embedding[0] = 0.0
    embedding[1] = 1e-14
    kernel[:, 3] = 0.0
    label[2] = 3
    loss, by_embedding, by_kernel = evaluate(embedding, kernel, label, implementation=implementation)
    assert torch.isfinite(loss)
    assert torch.isfinite(by_kernel).all()
    assert torch.isfinite(by_embedding).all()
    assert not by_embedding[:2].any()
    assert not by_kernel[:, 3].any()


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_empty_batch(implementation: str) -> None:
    embedding, kernel, label = problem(0, 8, 20)
    loss, by_embedding, by_kernel = evaluate(
        embedding, kernel, label, implementation=implementation, teacher=embedding, kd_weight=1.0
    )
    assert loss == 0.0
    assert by_embedding.shape == (0, 8)
    assert not by_kernel.any()


def test_strides(isa: str) -> None:
    margin_problems.assert_strides_change_nothing(*problem(12, 20, 70), "fused")


def test_results_depend_on_the_number_of_threads_only(isa: str) -> None:
    inputs = problem(40, 32, 3000)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            first = evaluate(*inputs, implementation="fused")
            again = evaluate(*inputs, implementation="fused")
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            assert_agree(*inputs)
    finally:
        torch.set_num_threads(before)


def test_bfloat16_is_as_good_as_eager(isa: str) -> None:
    found, expected = margin_problems.judged_by_eager_bfloat16(*problem(48, 128, 1000), "fused", times=1.0)
    # A gradient that is right up to its one rounding, to 8 bits.
    assert distance(found[2], expected[2]) < 2.0**-8


@pytest.mark.parametrize(
    ("samples", "dims", "classes"), [(48, 128, 1000), (1, 17, 33), (257, 31, 300), (5, 1, 1)]
)
def test_products_of_bfloat16(bf16_isa: str, samples: int, dims: int, classes: int) -> None:
    embedding, kernel, label = problem(samples, dims, classes)
    found = evaluate(embedding, kernel, label, implementation="fused", precision="bf16")
    floats = evaluate(embedding, kernel, label, implementation="fused")
    assert [part.dtype for part in found] == [torch.float32] * 3
    # Training has no tiles, and where a processor has them, floats are faster than pairs.
    if bf16_isa != "avx512_bf16":
        assert all(torch.equal(a, b) for a, b in zip(found, floats, strict=True))
        return
    if dims > 1:
        assert not torch.equal(found[2], floats[2])
    expected = exact(embedding, kernel, label)
    autocast = margin_problems.eager_autocast(embedding, kernel, label)
    for ours, theirs, true in zip(found, autocast, expected, strict=True):
        assert torch.isfinite(ours).all()
        assert distance(ours, true, floor=1e-3) <= 2 * distance(theirs, true, floor=1e-3)


@pytest.mark.parametrize("classes", [255, 256, 257, 513])
def test_labels_of_products_of_bfloat16(bf16_isa: str, classes: int) -> None:
    label = torch.tensor([0, 15, 16, 31, 32, 254, classes - 1, classes - 1])
    embedding, kernel, _ = problem(len(label), 24, classes)
    # Faces so close to their class that a label left among the others would be most of their sum.
    embedding = kernel[:, label].T * 100 + torch.randn(8, 24, generator=torch.Generator().manual_seed(1)) / 10
    found = evaluate(embedding, kernel, label, implementation="fused", precision="bf16")
    expected = exact(embedding, kernel, label)
    autocast = margin_problems.eager_autocast(embedding, kernel, label)
    for ours, theirs, true in zip(found, autocast, expected, strict=True):
        assert distance(ours, true, floor=1e-3) <= 2 * distance(theirs, true, floor=1e-3)


def test_every_output_of_products_of_bfloat16_is_written(bf16_isa: str) -> None:
    inputs = problem(7, 19, 45)
    expected = evaluate(*inputs, implementation="fused", precision="bf16")
    assert torch.empty(3).isnan().all()
    found = evaluate(*inputs, implementation="fused", precision="bf16")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bfloat16_is_of_the_fused_products() -> None:
    inputs = problem(4, 8, 20)
    with pytest.raises(
        PocketNetError, match="precision 'bf16' is of the fused margin softmax; it is 'reference'"
    ):
        margin_cross_entropy(*inputs, implementation="reference", precision="bf16")
    with pytest.raises(PocketNetError, match="precision must be 'fp32' or 'bf16', got 'half'"):
        margin_cross_entropy(*inputs, precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtypes", margin_problems.TWO_TYPES)
def test_mixed_precision(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    margin_problems.assert_mixed_precision(*problem(9, 40, 77), "fused", dtypes)


def test_autocast_changes_nothing() -> None:
    embedding, kernel, label = problem(9, 40, 77)
    for implementation in ("fused", "reference"):
        expected = evaluate(embedding, kernel, label, implementation=implementation)
        centres = kernel.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = margin_cross_entropy(embedding, centres, label, implementation=implementation)  # type: ignore[arg-type]
        assert torch.equal(loss, expected[0])
        assert torch.equal(torch.autograd.grad(loss, centres)[0], expected[2])


def test_absent_labels(isa: str) -> None:
    embedding, kernel, label = problem(10, 16, 50)
    label[::3] = -1
    found = cpu.margin_cross_entropy(embedding, kernel, label, 64.0)
    expected = margin_cross_entropy_reference(embedding.double(), kernel.double(), label, 64.0)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected, strict=True))
    assert not found[1][::3].any()


def test_every_output_is_written(isa: str) -> None:
    inputs = problem(7, 19, 45)
    expected = evaluate(*inputs, implementation="fused")
    assert torch.empty(3).isnan().all()
    found = evaluate(*inputs, implementation="fused")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("bf16_products", [False, True])
def test_opcheck(bf16_products: bool) -> None:
    embedding, kernel, label = problem(5, 8, 40)
    torch.library.opcheck(
        torch.ops.pocketnet_fast.margin_cross_entropy.default,
        (embedding.requires_grad_(), kernel.requires_grad_(), label, 64.0, bf16_products),
    )
    vector = torch.zeros(5, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.pocketnet_fast.margin_cross_entropy_backward.default,
        (embedding.detach(), kernel.detach(), label, 64.0, vector, vector, vector, bf16_products),
    )


def test_compiled() -> None:
    embedding, kernel, label = problem(5, 8, 40)
    expected = evaluate(embedding, kernel, label)
    e, k = embedding.clone().requires_grad_(), kernel.clone().requires_grad_()
    loss = torch.compile(margin_cross_entropy, fullgraph=True, backend="aot_eager")(e, k, label)
    loss.backward()
    assert torch.allclose(loss, expected[0])
    assert torch.allclose(e.grad, expected[1])  # type: ignore[arg-type]
    assert torch.allclose(k.grad, expected[2])  # type: ignore[arg-type]


def test_double_backward_is_refused() -> None:
    margin_problems.assert_not_differentiated_twice("fused")


def test_frozen_sides() -> None:
    embedding, kernel, label = problem(5, 8, 40)
    _, by_embedding, by_kernel = evaluate(embedding, kernel, label)
    kernel.requires_grad_()
    margin_cross_entropy(embedding, kernel, label).backward()
    assert kernel.grad is not None
    assert torch.equal(kernel.grad, by_kernel)
    embedding.requires_grad_()
    margin_cross_entropy(embedding, kernel.detach(), label).backward()
    assert embedding.grad is not None
    assert torch.equal(embedding.grad, by_embedding)


def test_automatic_choice() -> None:
    inputs = problem(5, 8, 40)
    fused = margin_cross_entropy(*inputs, implementation="fused")
    assert torch.equal(margin_cross_entropy(*inputs), fused)
    double = margin_cross_entropy(inputs[0].double(), *inputs[1:])
    assert double.dtype == torch.float64
    assert abs(float(double - fused)) < 1e-4
    with pytest.raises(PocketNetError, match=r"fused margin softmax cannot run: embedding is torch\.float64"):
        margin_cross_entropy(inputs[0].double(), *inputs[1:], implementation="fused")
    with pytest.raises(PocketNetError, match="implementation must be"):
        margin_cross_entropy(*inputs, implementation="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_errors(implementation: str) -> None:
    embedding, kernel, label = problem(4, 8, 20)
    nan = embedding.clone()
    nan[2, 5] = math.nan

    def wrong(message: str, e: Any = embedding, k: Any = kernel, y: Any = label, **options: Any) -> None:
        with pytest.raises(PocketNetError, match=message):
            margin_cross_entropy(e, k, y, **options | {"implementation": implementation})

    wrong(r"labels must lie in 0\.\.19; sample 1 has 20", y=torch.tensor([0, 20, 1, 2]))
    wrong(r"labels must lie in 0\.\.19; sample 3 has -1", y=torch.tensor([0, 2, 1, -1]))
    wrong("embedding must be finite; row 2 is not", e=nan)
    wrong("embedding must be finite", e=embedding / 0.0)
    wrong(r"embedding must be float32.*float16", e=embedding.half())
    wrong(r"kernel must be float32.*int64", k=kernel.long())
    wrong("label must be int64", y=label.int())
    wrong("label must be int64 of shape 4", y=label[:3])
    wrong("4x8 and 7x20", k=kernel[:7])
    wrong("dimensions and classes", k=kernel[:, :0])
    wrong("scale must be positive", scale=0.0)
    wrong("margins must be", margins=(0.5, 0.0, 0.0))
    wrong("margins must be", margins=(1.0, math.nan, 0.0))
    wrong("needs a teacher", kd_weight=1.0)
    wrong("teacher must be floating point of shape 4x8", teacher=embedding[:3], kd_weight=1.0)
    wrong("teacher must be finite; row 2", teacher=nan, kd_weight=1.0)
    wrong("kd_weight must be", kd_weight=-1.0)
    # Nothing of a refused call stays behind.
    assert torch.isfinite(margin_cross_entropy(embedding, kernel, label, implementation=implementation))  # type: ignore[arg-type]


def test_operator_errors(isa: str) -> None:
    embedding, kernel, label = problem(4, 8, 500)
    expected = cpu.margin_cross_entropy(embedding, kernel, label, 64.0)
    for value in (math.nan, math.inf):
        bad = kernel.clone()
        bad[3, 417] = value
        with pytest.raises(RuntimeError, match="kernel must be finite; column 417 is not"):
            cpu.margin_cross_entropy(embedding, bad, label, 64.0)
        bad = embedding.clone()
        bad[3, 4] = value
        with pytest.raises(RuntimeError, match="embedding must be finite; row 3 is not"):
            cpu.margin_cross_entropy(bad, kernel, label, 64.0)
    with pytest.raises(RuntimeError, match="sample 0 has 500"):
        cpu.margin_cross_entropy(embedding, kernel, torch.full((4,), 500), 64.0)
    with pytest.raises(RuntimeError, match="embedding must be float32"):
        cpu.margin_cross_entropy(embedding.double(), kernel, label, 64.0)
    with pytest.raises(RuntimeError, match="scale must be positive"):
        cpu.margin_cross_entropy(embedding, kernel, label, math.nan)
    assert all(
        torch.equal(a, b)
        for a, b in zip(cpu.margin_cross_entropy(embedding, kernel, label, 64.0), expected, strict=True)
    )


_PEAK = """
import pathlib, torch
from pocketnet_fast.losses import margin_cross_entropy
torch.set_num_threads(1)
samples, dims, classes = {samples}, 8, 200_000
e, k = torch.randn(samples, dims).requires_grad_(), torch.randn(dims, classes).requires_grad_()
y = torch.randint(0, classes, (samples,))
margin_cross_entropy(e[:2], k[:, :100], y[:2] % 100).backward()
e.grad = k.grad = None
def status(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
before = status("VmRSS")
margin_cross_entropy(e, k, y).backward()
print(status("VmHWM") - before)
"""


def test_memory_does_not_grow_with_samples_times_classes() -> None:
    def peak(samples: int) -> int:
        code = _PEAK.format(samples=samples)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024

    # The logits of 256 samples are 205 MB, the kernel's gradient is 6.4 MB.
    gradient = 8 * 200_000 * 4
    assert gradient / 2 < peak(256) < 3 * gradient


def test_meta_beside_real_tensors() -> None:
    embedding, kernel, label = torch.zeros(2, 4), torch.zeros(4, 3, device="meta"), torch.zeros(2).long()
    with pytest.raises(RuntimeError, match="every tensor must be on one device, got cpu and meta"):
        cpu.margin_cross_entropy(embedding, kernel, label, 64.0)


def test_messages_name_the_dtype() -> None:
    embedding, kernel, label = torch.zeros(2, 4), torch.zeros(4, 3), torch.zeros(2).long()
    with pytest.raises(RuntimeError, match=r"^margin_cross_entropy: embedding must be float32, got float16"):
        cpu.margin_cross_entropy(embedding.half(), kernel, label, 64.0)
    with pytest.raises(RuntimeError, match="label must be int64, got int32"):
        cpu.margin_cross_entropy(embedding, kernel, label.int(), 64.0)
