"""The Triton kernels against the float64 reference: on the CPU under TRITON_INTERPRET=1, on CUDA without it.

``test_margin_cross_entropy_triton.py`` runs these tests in processes of their own, because Triton decides
between its interpreter and its compiler once, when it is imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import margin_problems
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from margin_problems import MARGINS, assert_agree, distance, evaluate, exact
from margin_problems import problem as cpu_problem
from recordings import Golden
from torch import Tensor

from pocketnet_fast.losses import ShardedMargin, margin_cross_entropy
from pocketnet_fast.ops.margin_cross_entropy import triton_launch
from pocketnet_fast.ops.margin_cross_entropy.reference import margin_cross_entropy_reference

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
on_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA tensors")


def problem(samples: int, dims: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    embedding, kernel, label = cpu_problem(samples, dims, classes, seed)
    return embedding.to(DEVICE), kernel.to(DEVICE), label.to(DEVICE)


def agree(embedding: Tensor, kernel: Tensor, label: Tensor, **options: Any) -> None:
    assert_agree(embedding, kernel, label, implementation="triton", **options)


def test_recorded(golden: Callable[[str], Golden]) -> None:
    tensors = {k: v.to(DEVICE) for k, v in golden("arcface_kd_n32_d128_c1000").tensors.items()}
    inputs = tensors["embedding"], tensors["kernel"], tensors["label"]
    total, by_embedding, by_kernel = evaluate(
        *inputs, implementation="triton", teacher=tensors["teacher"], kd_weight=100.0
    )
    assert float((total - tensors["total"]).abs()) < 1e-5
    assert distance(by_embedding, tensors["grad_embedding"]) < 1e-4
    assert distance(by_kernel, tensors["grad_kernel"]) < 1e-4
    alone = margin_cross_entropy(*inputs, implementation="triton")
    assert float((alone - tensors["arcface_loss"]).abs()) < 1e-5


@pytest.mark.parametrize(
    ("samples", "dims", "classes"),
    [
        (1, 1, 1),
        (1, 1, 2),
        (2, 3, 63),
        (13, 17, 64),
        (13, 31, 65),
        (63, 32, 252),
        (64, 33, 129),
        (65, 123, 507),
        (9, 128, 507),
        (130, 20, 127),
        (5, 129, 300),
        (7, 300, 123),
        (33, 512, 66),
    ],
)
def test_sizes(samples: int, dims: int, classes: int) -> None:
    agree(*problem(samples, dims, classes, seed=dims + classes))


@pytest.mark.parametrize("classes", [191, 192, 193, 450])
def test_labels_on_every_border(classes: int) -> None:
    label = torch.tensor([b + step for b in range(0, classes + 1, 32) for step in (-1, 0)])
    label = label[(label >= 0) & (label < classes)].to(DEVICE)
    embedding, kernel, _ = problem(len(label), 24, classes)
    agree(embedding, kernel, label)
    agree(embedding[:9], kernel, torch.full((9,), classes - 1, device=DEVICE))


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    samples=st.integers(1, 70),
    dims=st.sampled_from([1, 2, 16, 17, 33, 100]),
    classes=st.integers(1, 300),
    seed=st.integers(0, 1000),
    margins=st.sampled_from(MARGINS),
    easy_margin=st.booleans(),
    scale=st.sampled_from([1.0, 16.0, 64.0, 128.0]),
    kd_weight=st.sampled_from([0.0, 100.0]),
)
def test_random_problems(
    samples: int, dims: int, classes: int, seed: int, kd_weight: float, **options: Any
) -> None:
    inputs = problem(samples, dims, classes, seed)
    teacher = torch.randn(samples, dims, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    agree(*inputs, teacher=teacher, kd_weight=kd_weight, **options)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("margins", MARGINS)
def test_cosine_of_one(margins: tuple[float, float, float], sign: float) -> None:
    margin_problems.assert_bounded_at_a_cosine_of_one(
        *problem(6, 8, 20), sign, margins=margins, implementation="triton"
    )


def test_gradient_close_to_a_cosine_of_one() -> None:
    _, kernel, label = problem(4, 16, 50)
    noise = problem(4, 16, 1, seed=1)[0]
    margin_problems.assert_right_close_to_a_cosine_of_one(kernel, label, noise, "triton")


def test_every_cosine_is_minus_one() -> None:
    """Classes beside the kernel would count with exp(128), which overflows."""
    _, kernel, label = problem(5, 8, 70)
    kernel = kernel[:, :1] * torch.linspace(0.5, 2.0, 70, device=DEVICE)
    embedding = -kernel[:, :1].T.repeat(5, 1) + 1e-3 * problem(5, 8, 1)[0]
    agree(embedding, kernel + 1e-4 * problem(1, 8, 70)[1], label, scale=128.0)


def test_zero_vectors() -> None:
    embedding, kernel, label = problem(6, 8, 20)
    embedding[0] = 0.0
    embedding[1] = 1e-14
    kernel[:, 3] = 0.0
    kernel[:, 4] = 1e-14
    label[2] = 3
    loss, by_embedding, by_kernel = evaluate(embedding, kernel, label, implementation="triton")
    expected = exact(embedding, kernel, label)
    assert float((loss - expected[0]).abs()) < 1e-5
    assert distance(by_embedding, expected[1]) < 1e-5
    assert distance(by_kernel, expected[2]) < 1e-5
    assert not by_embedding[:2].any()
    assert not by_kernel[:, 3:5].any()


@pytest.mark.parametrize("rows", [1e-11, 1.0, 1e30])
@pytest.mark.parametrize("columns", [1e-8, 1.0, 1e19])
def test_lengths_cancel(rows: float, columns: float) -> None:
    embedding, kernel, label = problem(9, 8, 70)
    expected = exact(embedding, kernel, label)
    loss, by_embedding, by_kernel = evaluate(
        embedding * rows, kernel * columns, label, implementation="triton"
    )
    assert float((loss - expected[0]).abs()) < 1e-4
    assert distance(by_embedding.double() * rows, expected[1]) < 1e-5
    assert distance(by_kernel.double() * columns, expected[2]) < 1e-5


def test_empty_batch() -> None:
    embedding, kernel, label = problem(0, 8, 20)
    loss, by_embedding, by_kernel = evaluate(
        embedding, kernel, label, implementation="triton", teacher=embedding, kd_weight=1.0
    )
    assert loss == 0.0
    assert by_embedding.shape == (0, 8)
    assert by_kernel.shape == (8, 20)
    assert not by_kernel.any()


def test_strides() -> None:
    embedding, kernel, label = problem(70, 20, 70)
    margin_problems.assert_strides_change_nothing(embedding, kernel, label, "triton")
    repeated = embedding[:1].expand(70, 20)
    agree(repeated, kernel, label)


def test_equal_inputs_give_equal_bits() -> None:
    embedding, kernel, label = problem(70, 32, 400)
    label[::3] = 7  # many samples add to one column
    first = evaluate(embedding, kernel, label, implementation="triton")
    again = evaluate(embedding, kernel, label, implementation="triton")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    agree(embedding, kernel, label)


def test_every_output_is_written() -> None:
    inputs = problem(7, 19, 145)
    expected = evaluate(*inputs, implementation="triton")
    assert torch.empty(3, device=DEVICE).isnan().all()
    found = evaluate(*inputs, implementation="triton")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("samples", "dims", "classes"), [(48, 128, 1000), (33, 123, 252)])
def test_bfloat16_is_as_good_as_eager(samples: int, dims: int, classes: int) -> None:
    found, expected = margin_problems.judged_by_eager_bfloat16(
        *problem(samples, dims, classes), "triton", times=1.5, floor=1e-6
    )
    # Of inputs that are taken as they are, the loss is right to float32.
    assert float((found[0] - expected[0]).abs()) < 1e-5 * float(expected[0])
    # Two roundings to 8 bits, of the logits' gradient and of the result, neither of them biased.
    assert distance(found[1], expected[1]) < 2.0**-8
    assert distance(found[2], expected[2]) < 2.0**-8


@pytest.mark.parametrize("dtypes", margin_problems.TWO_TYPES)
def test_mixed_precision(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    margin_problems.assert_mixed_precision(*problem(9, 40, 77), "triton", dtypes)


def test_absent_labels() -> None:
    embedding, kernel, label = problem(70, 16, 150)
    label[::3] = -1
    weights = torch.randn(2, 70, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(DEVICE)

    def results(function: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
        e, k = embedding.to(dtype).requires_grad_(), kernel.to(dtype).requires_grad_()
        others, cosine = function(e, k, label, 64.0)
        gradients = torch.autograd.grad((weights[0] * others + weights[1] * cosine).sum(), (e, k))
        return others, cosine, *gradients

    found = results(triton_launch.margin_cross_entropy, torch.float32)
    expected = results(margin_cross_entropy_reference, torch.float64)
    assert found[0].dtype == found[1].dtype == torch.float64
    assert torch.allclose(found[0], expected[0], atol=1e-4)
    assert torch.allclose(found[1], expected[1], atol=1e-6)
    assert not found[1][::3].any()
    for actual, true in zip(found[2:], expected[2:], strict=True):
        assert distance(actual, true) < 1e-5


def test_without_other_classes() -> None:
    embedding, kernel, _ = problem(3, 5, 1)
    label = torch.tensor([0, -1, 0], device=DEVICE)
    others, cosine = triton_launch.margin_cross_entropy(embedding, kernel, label, 64.0)
    assert others.isinf().tolist() == [True, False, True]
    assert cosine.ne(0).tolist() == [True, False, True]


def test_sampled_head() -> None:
    embedding, _, label = problem(12, 16, 100)
    heads = [
        ShardedMargin(16, 100, sample_rate=0.3, seed=1, implementation=name)
        for name in ("triton", "reference")
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    losses = [head.to(DEVICE)(embedding, label) for head in heads]
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    gradients = [torch.autograd.grad(loss, head.kernel)[0] for loss, head in zip(losses, heads, strict=True)]
    assert distance(gradients[0], gradients[1].double()) < 1e-4


def test_double_backward_is_refused() -> None:
    margin_problems.assert_not_differentiated_twice("triton")


def test_operator_errors() -> None:
    embedding, kernel, label = problem(4, 8, 500)
    call = triton_launch.margin_cross_entropy
    expected = call(embedding, kernel, label, 64.0)
    for value in (math.nan, math.inf, -math.inf):
        bad = kernel.clone()
        bad[3, 417] = value
        with pytest.raises(RuntimeError, match="kernel must be finite; column 417 is not"):
            call(embedding, bad, label, 64.0)
        bad = embedding.clone()
        bad[3, 4] = value
        with pytest.raises(RuntimeError, match="embedding must be finite; row 3 is not"):
            call(bad, kernel, label, 64.0)
    with pytest.raises(RuntimeError, match="column 2 is not"):
        call(embedding, torch.where(torch.arange(500, device=DEVICE) == 2, 1e30, kernel), label, 64.0)
    with pytest.raises(RuntimeError, match=r"labels must lie in 0\.\.499; sample 0 has 500"):
        call(embedding, kernel, torch.full((4,), 500, device=DEVICE), 64.0)
    with pytest.raises(RuntimeError, match="sample 1 has -2"):
        call(embedding, kernel, torch.tensor([0, -2, 1, 1], device=DEVICE), 64.0)
    with pytest.raises(RuntimeError, match=r"embedding must be float32 or bfloat16, got torch\.float64"):
        call(embedding.double(), kernel, label, 64.0)
    with pytest.raises(RuntimeError, match=r"label must be int64, got torch\.int32"):
        call(embedding, kernel, label.int(), 64.0)
    with pytest.raises(RuntimeError, match="embedding must be N, D and kernel D, classes"):
        call(embedding, kernel[:7], label, 64.0)
    with pytest.raises(RuntimeError, match="label must have one entry a sample"):
        call(embedding, kernel, label[:3], 64.0)
    with pytest.raises(RuntimeError, match="kernel must have dimensions and classes"):
        call(embedding, kernel[:, :0], label, 64.0)
    with pytest.raises(RuntimeError, match="scale must be positive"):
        call(embedding, kernel, label, math.nan)
    # Nothing of a refused call stays behind.
    assert all(torch.equal(a, b) for a, b in zip(call(embedding, kernel, label, 64.0), expected, strict=True))


def test_backward_reads_by_no_bad_label() -> None:
    embedding, kernel, _ = problem(4, 8, 100)
    vector = torch.ones(4, dtype=torch.float64, device=DEVICE)
    label = torch.tensor([2**62, -(2**62), 100, -2], device=DEVICE)
    by_embedding, by_kernel = triton_launch.backward(embedding, kernel, label, 8.0, vector, vector, vector)
    assert by_embedding.isfinite().all()
    assert by_kernel.isfinite().all()


@on_cuda
def test_opcheck() -> None:
    embedding, kernel, label = problem(5, 8, 40)
    torch.library.opcheck(
        torch.ops.pocketnet_fast.margin_cross_entropy.default,
        (embedding.requires_grad_(), kernel.requires_grad_(), label, 64.0),
    )
    vector = torch.zeros(5, dtype=torch.float64, device=DEVICE)
    torch.library.opcheck(
        torch.ops.pocketnet_fast.margin_cross_entropy_backward.default,
        (embedding.detach(), kernel.detach(), label, 64.0, vector, vector, vector),
    )


@on_cuda
def test_chosen_and_compiled_on_cuda() -> None:
    inputs = problem(5, 8, 40)
    expected = evaluate(*inputs, implementation="triton")
    assert all(torch.equal(a, b) for a, b in zip(evaluate(*inputs), expected, strict=True))
    e, k = (x.clone().requires_grad_() for x in inputs[:2])
    loss = torch.compile(margin_cross_entropy, fullgraph=True, backend="aot_eager")(e, k, inputs[2])
    found = (loss, *torch.autograd.grad(loss, (e, k)))
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


@on_cuda
def test_memory_does_not_grow_with_the_logits() -> None:
    inputs = problem(512, 128, 200_000)
    evaluate(*inputs)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    evaluate(*inputs)
    logits = 4 * 512 * 200_000
    assert torch.cuda.max_memory_allocated() - before < 4 * inputs[1].numel() + logits / 4
