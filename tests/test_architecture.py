import copy

import pytest
import torch
from helpers import relative_error
from search_cases import GOLDEN, SearchCase, recorded_case
from torch.nn.functional import cross_entropy

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.search.architecture import architecture_gradient
from pocketnet_fast.search.network import SearchNetwork

XI = 0.1


def small_case(seed: int = 0, dtype: torch.dtype = torch.float64) -> SearchCase:
    """Two nodes, two images a batch: a step takes a fraction of a second."""
    torch.manual_seed(seed)
    network = SearchNetwork(2, 4, 3, nodes=2).to(dtype)
    with torch.no_grad():
        for alpha in network.alphas().values():
            alpha.normal_(0, 0.3)
    images = torch.randn(8, 3, 112, 112, dtype=dtype)
    label = torch.arange(8) % 3
    optimizer = torch.optim.SGD(network.weights().values(), lr=XI, momentum=0.9, weight_decay=3e-4)
    return SearchCase(network, (images[:4], label[:4]), (images[4:], label[4:]), optimizer)


def gradient(case, **options):
    network, train_batch, val_batch, optimizer = case
    return architecture_gradient(network, train_batch, val_batch, xi=XI, optimizer=optimizer, **options)


def error(actual, expected):
    assert actual.keys() == expected.keys()
    return relative_error(*(torch.cat([d[k].double().flatten() for k in d]) for d in (actual, expected)))


def state_of(case):
    network, _, _, optimizer = case
    return copy.deepcopy(
        (network.state_dict(), {n: p.grad for n, p in network.named_parameters()}, optimizer.state_dict())
    )


def assert_same(before, after):
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        for name, value in old.items():
            assert (value is None and new[name] is None) or torch.equal(value, new[name]), name
    assert str(before[2]) == str(after[2])


def recorded(record, kind):
    return {k.removeprefix(f"{kind}."): v for k, v in record.tensors.items() if k.startswith(f"{kind}.")}


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_the_recorded_first_order_is_reproduced(golden, dtype, limit):
    record = golden(GOLDEN)
    found = gradient(recorded_case(record, dtype), order=1)
    assert all(value.dtype == dtype for value in found.values())
    assert error(found, recorded(record, "alpha_grad_first_order")) < limit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "options", "limit"),
    [
        (torch.float64, {}, 1e-9),
        (torch.float64, {"hessian": "published"}, 1e-9),
        (torch.float32, {}, 1e-3),
    ],
)
def test_the_recorded_second_order_is_reproduced(golden, dtype, options, limit):
    record = golden(GOLDEN)
    case = recorded_case(record, dtype)
    before = state_of(case)
    found = gradient(case, **options)
    assert all(value.dtype == dtype for value in found.values())
    assert error(found, recorded(record, "alpha_grad")) < limit
    assert_same(before, state_of(case))


@pytest.mark.slow
def test_images_rounded_to_float32_are_taken_as_their_bytes(golden):
    """However they were normalised: their rounding alone would be worth up to 2 % of the result."""
    record = golden(GOLDEN)
    case = recorded_case(record, torch.float32)
    pixels = record.tensors["input_rgb_u8"]
    spec = case.network.input_spec
    half = len(pixels) // 2
    images = spec.normalize(pixels)
    otherwise = (pixels.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    assert not torch.equal(images, otherwise)
    for given in (images, otherwise):
        batches = ((given[:half], case.train_batch[1]), (given[half:], case.val_batch[1]))
        found = gradient(case._replace(train_batch=batches[0], val_batch=batches[1]))
        assert error(found, recorded(record, "alpha_grad")) < 1e-3


def unrolled_loss(case, alphas):
    """The validation loss after a step with these alphas, written out, momentum included."""
    network = copy.deepcopy(case.network)
    network.load_state_dict(alphas, strict=False)
    cross_entropy(network(case.train_batch[0]), case.train_batch[1]).backward()
    with torch.no_grad():
        for own, w in zip(case.network.weights().values(), network.weights().values(), strict=True):
            buffer = case.optimizer.state[own]["momentum_buffer"]
            w.sub_(XI * (0.9 * buffer + w.grad + 3e-4 * w))
    return float(cross_entropy(network(case.val_batch[0]), case.val_batch[1]).detach())


def test_exact_is_the_derivative_of_the_loss_one_step_ahead():
    """Along a random direction, by differences small enough that few activations change their side."""
    case = small_case(3)
    case.network.fused = False
    for p in case.network.weights().values():
        case.optimizer.state[p]["momentum_buffer"] = 0.3 * torch.randn_like(p)
    found = gradient(case, hessian="exact")
    first = gradient(case, order=1)
    torch.manual_seed(1)
    directions = {name: torch.randn_like(alpha) for name, alpha in case.network.alphas().items()}
    slope = sum(float((found[name] * d).sum()) for name, d in directions.items())
    step = 1e-7
    ends = [
        unrolled_loss(case, {n: a.detach() + s * directions[n] for n, a in case.network.alphas().items()})
        for s in (step, -step)
    ]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)
    assert error(found, first) > 0.1


def test_momentum_and_decay_are_the_optimisers():
    case = small_case(4)
    plain = gradient(case)
    for p in case.network.weights().values():
        case.optimizer.state[p]["momentum_buffer"] = torch.ones_like(p)
    with_momentum = gradient(case)
    assert error(with_momentum, plain) > 1e-3
    case.optimizer.param_groups[0]["momentum"] = 0.0
    assert error(gradient(case), plain) < 1e-12
    case.optimizer.param_groups[0]["weight_decay"] = 1.0
    assert error(gradient(case), plain) > 1e-3


@pytest.mark.parametrize("hessian", ["double", "published", "exact"])
def test_a_vanishing_gradient_leaves_the_first_term(hessian):
    """With equal logits whatever the weights, the difference has no direction."""
    case = small_case(5)
    linear = case.network.net.linear
    plain = linear.forward
    linear.forward = lambda x: 0.0 * plain(x)
    found = gradient(case, hessian=hessian)
    assert all(not value.any() for value in found.values())


def test_a_tiny_gradient_is_scaled():
    case = small_case(6, torch.float32)
    linear = case.network.net.linear
    plain = linear.forward
    linear.forward = lambda x: 1e-25 * plain(x)
    # The square of such a gradient's norm is no float32.
    found = gradient(case, hessian="published")
    assert all(bool(value.isfinite().all()) and bool(value.any()) for value in found.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "passes", "failure"),
    [
        ({"order": 1}, 1, RuntimeError("no memory")),
        ({}, 4, KeyboardInterrupt()),
        ({"hessian": "published"}, 4, RuntimeError("no memory")),
        ({"hessian": "exact"}, 3, KeyboardInterrupt()),
    ],
)
def test_nothing_is_changed_by_a_failure_at_any_pass(options, passes, failure, monkeypatch):
    case = small_case(7, torch.float32)
    cross_entropy(case.network(case.train_batch[0]), case.train_batch[1]).backward()
    case.optimizer.step()
    before = state_of(case)
    plain = SearchNetwork.plain_forward
    calls = [0]

    def fail_at(number):
        def forward(self, x):
            logits = plain(self, x)
            calls[0] += 1
            if calls[0] == number:
                raise failure
            return logits

        return forward

    case.network.fused = False
    for number in range(1, passes + 1):
        calls[0] = 0
        monkeypatch.setattr(SearchNetwork, "plain_forward", fail_at(number))
        with pytest.raises(type(failure)):
            gradient(case, **options)
        assert_same(before, state_of(case))
    calls[0] = 0
    monkeypatch.setattr(SearchNetwork, "plain_forward", fail_at(0))
    gradient(case, **options)
    assert calls[0] == passes
    assert_same(before, state_of(case))


def test_parts_of_processes_are_averaged():
    """What is handed to ``average`` at each stage replaces the gradients."""
    case = small_case(8)
    seen = []

    def double(tensors):
        seen.append(len(tensors))
        for tensor in tensors:
            tensor.mul_(2)

    once = gradient(case, order=1)
    twice = gradient(case, order=1, average=double)
    assert error(twice, {name: 2 * value for name, value in once.items()}) < 1e-12
    seen.clear()
    gradient(case, average=double)
    weights, alphas = len(case.network.weights()), len(case.network.alphas())
    assert seen == [weights, weights + alphas, alphas]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"order": 3}, "order is 3; expected 1 or 2"), ({"hessian": "scaled"}, "hessian is 'scaled'; expected")],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(PocketNetError, match=message):
        gradient(small_case(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: torch.optim.Adam(n.weights().values()), "is Adam; expected SGD"),
        (lambda n: torch.optim.SGD(n.net.cells.parameters(), lr=0.1), "has no net.stem.0.weight"),
        (
            lambda n: torch.optim.SGD(n.weights().values(), lr=0.1, momentum=0.9, nesterov=True),
            "has nesterov",
        ),
    ],
)
def test_optimisers_with_another_step_are_refused(make, message):
    case = small_case()
    with pytest.raises(PocketNetError, match=message):
        gradient(case._replace(optimizer=make(case.network)))
