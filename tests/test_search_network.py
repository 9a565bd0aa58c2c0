import pytest
import torch
from helpers import relative_error
from search_cases import GOLDEN, recorded_case
from torch.nn.functional import cross_entropy

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.search.cells import SEARCH_OPERATIONS, MixedOperation
from pocketnet_fast.search.network import SearchNetwork


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_recorded_logits_are_reproduced(golden, dtype, limit):
    record = golden(GOLDEN)
    case = recorded_case(record, dtype)
    case.network.fused = False
    logits = case.network(case.train_batch[0])
    assert relative_error(logits.detach(), record.tensors["train_logits"]) < limit


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_recorded_gradients_of_the_validation_loss_are_reproduced(golden, dtype, limit):
    record = golden(GOLDEN)
    case = recorded_case(record, dtype)
    case.network.fused = False
    images, label = case.val_batch
    cross_entropy(case.network(images), label).backward()
    alphas = case.network.alphas()
    assert sorted(alphas) == sorted(k for k in record.weights if k.startswith("alpha"))
    for name, alpha in alphas.items():
        expected = record.tensors[f"alpha_grad_first_order.{name}"]
        assert relative_error(alpha.grad, expected) < limit, name


def test_parameters_are_weights_or_alphas():
    network = SearchNetwork(2, 4, 5, nodes=3)
    weights, alphas = network.weights(), network.alphas()
    assert {**alphas, **weights} == dict(network.named_parameters())
    assert [tuple(a.shape) for a in alphas.values()] == 2 * [(2, 8), (3, 8), (4, 8)]


def test_cells_normalise_without_weight_and_bias():
    names = SearchNetwork(2, 4, 5).state_dict()
    assert not [name for name in names if "cells" in name and name.endswith("bias")]
    assert {"net.stem.1.bias", "net.tail.7.bias", "net.linear.bias"} <= set(names)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_edge_is_the_weighted_sum_of_its_operations(stride):
    edge = MixedOperation(4, stride).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    alone = []
    for k in range(len(SEARCH_OPERATIONS)):
        one = torch.zeros(len(SEARCH_OPERATIONS), dtype=torch.float64)
        one[k] = 1
        alone.append(edge(x, one))
    assert not alone[-1].any()
    if stride == 1:
        torch.testing.assert_close(alone[2], x)
    weights = torch.randn(len(SEARCH_OPERATIONS), dtype=torch.float64)
    torch.testing.assert_close(edge(x, weights), torch.einsum("k,knchw->nchw", weights, torch.stack(alone)))


def test_softmax_is_over_the_operations_of_an_edge():
    network = SearchNetwork(2, 4, 5, nodes=2)
    for reduction in (False, True):
        for weights in network.operation_weights(reduction=reduction):
            torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"layers": 3}, "layers is 3"),
        ({"classes": 0}, "classes is 0"),
        ({"nodes": 0}, "nodes is 0"),
        ({"stem_multiplier": 0}, "stem_multiplier is 0"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(PocketNetError, match=message):
        SearchNetwork(**{"channels": 2, "layers": 4, "classes": 5, **arguments})


def test_other_values_of_fused_are_refused():
    network = SearchNetwork(2, 4, 5)
    network.fused = "yes"
    with pytest.raises(PocketNetError, match="fused is 'yes'"):
        network(torch.zeros(2, 3, 112, 112))
