import copy

import pytest
import torch
from helpers import random_genotype, randomize_, relative_error
from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.cells import Cell, FactorizedReduce, Pool, make_operation
from pocketnet_fast.models.genotypes import OPERATIONS, SOFTMAX_CASIA, parse_genotype
from pocketnet_fast.models.pocketnet import PocketNet

GOLDEN = ["pocketnet_s128", "pocketnet_m256", "cifar_genotype_c16_l18_e128"]


def golden_network(record):
    meta = record.metadata
    genotype = parse_genotype(meta["genotype"])
    network = PocketNet(genotype, int(meta["channels"]), int(meta["layers"]), int(meta["embedding"]))
    network.load_state_dict(record.weights, strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def small():
    """A network with every kind of operation, small enough to run many times."""
    text = (
        "Genotype(normal=[[('dw_conv_7x7', 0), ('avg_pool_3x3', 1)], "
        "[('dw_conv_1x1', 2), ('skip_connect', 1)], [('dw_conv_5x5', 3), ('max_pool_3x3', 0)]], "
        "normal_concat=[2, 3, 4], "
        "reduce=[[('avg_pool_3x3', 1), ('skip_connect', 0)], [('dw_conv_3x3', 2), ('max_pool_3x3', 1)]], "
        "reduce_concat=[3, 2])"
    )
    return randomize_(PocketNet(parse_genotype(text), channels=3, layers=6, embedding_dim=16), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_embeddings_are_reproduced(golden, name):
    record = golden(name)
    network = golden_network(record)
    x = network.input_spec.normalize(record.tensors["input_rgb_u8"])
    expected = record.tensors["embedding"]
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(x[:2].double())
        # The recording is float32 itself: on another CPU, sums in another order lie as far on the other side.
        recorded_error = relative_error(expected[:2], exact)
        assert recorded_error < 5e-5
        assert relative_error(network(x), expected) < max(1e-5, 2 * recorded_error)


@pytest.mark.parametrize(
    ("channels", "layers", "embedding_dim", "parameters"),
    [
        (16, 18, 128, 925_632),
        (16, 18, 256, 991_424),
        (32, 9, 128, 1_686_656),
        (32, 9, 256, 1_752_448),
    ],
)
def test_parameters_are_the_published_number(channels, layers, embedding_dim, parameters):
    network = PocketNet(SOFTMAX_CASIA, channels, layers, embedding_dim)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_an_embedding_of_512_widens_the_tail():
    tail = PocketNet(SOFTMAX_CASIA, 16, 18, 512).tail
    assert [tuple(tail[i].weight.shape) for i in (1, 4, 6)] == [
        (1024, 512, 1, 1),
        (1024, 1, 7, 7),
        (512, 1024, 1, 1),
    ]


@pytest.mark.parametrize(
    ("layers", "reductions"), [(18, [6, 12, 17]), (9, [3, 6, 8]), (4, [1, 2, 3]), (5, [1, 3, 4])]
)
def test_three_cells_reduce(layers, reductions):
    network = PocketNet(SOFTMAX_CASIA, 4, layers).eval()
    assert [i for i, cell in enumerate(network.cells) if cell.reduction] == reductions
    factorized = [i for i, cell in enumerate(network.cells) if isinstance(cell.preproc0, FactorizedReduce)]
    assert factorized == [i + 1 for i in reductions if i + 1 < layers]
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 112, 112)).shape == (1, 128)


def test_a_cell_describes_its_graph():
    cell = PocketNet(SOFTMAX_CASIA, 16, 18).cells[6]
    assert isinstance(cell, Cell)
    assert cell.inputs == [[1, 0], [2, 1], [0, 2], [0, 1]]
    assert cell.concat == [2, 3, 4, 5]
    assert [len(node) for node in cell.dag] == [2, 2, 2, 2]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_keep_or_halve_the_map(name, stride):
    operation = make_operation(name, 6, stride).eval()
    with torch.no_grad():
        assert operation(torch.randn(2, 6, 14, 14)).shape == (2, 6, 14 // stride, 14 // stride)


def test_average_pooling_ignores_the_padding():
    pool = Pool(1, "avg", 1).eval()
    with torch.no_grad():
        out = pool(torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(out, torch.full_like(out, (1 + pool.bn.eps) ** -0.5))


def test_factorized_reduction_reads_both_pixel_parities():
    operation = FactorizedReduce(2, 2).eval()
    for convolution in (operation.conv11, operation.conv21):
        nn.init.ones_(convolution.weight)
    for convolution in (operation.conv12, operation.conv22):
        convolution.weight.data = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 2, 4, 4)
    with torch.no_grad():
        out = operation(x) * (1 + operation.bn.eps) ** 0.5
    expected = torch.tensor([[[0.0, 2.0], [8.0, 10.0]], [[5.0, 7.0], [13.0, 15.0]]])
    torch.testing.assert_close(out[0], expected)


def test_the_batch_may_have_any_size(small):
    x = torch.randn(5, 3, 112, 112)
    with torch.no_grad():
        whole = small(x)
        assert small(x[:0]).shape == (0, 16)
        for i in range(5):
            torch.testing.assert_close(small(x[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)


def test_the_order_of_the_concatenation_is_kept(small):
    cell = small.cells[2]
    assert cell.reduction
    assert cell.concat == [3, 2]
    x = torch.randn(1, 9, 28, 28)
    with torch.no_grad():
        out = cell(x, x)
        cell.concat = [2, 3]
        swapped = cell(x, x)
        cell.concat = [3, 2]
    half = out.shape[1] // 2
    assert torch.equal(out, torch.cat([swapped[:, half:], swapped[:, :half]], 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_and_tracing_give_the_same_embeddings(small):
    x = torch.randn(3, 3, 112, 112)
    with torch.no_grad():
        expected = small(x)
        scripted = torch.jit.script(small)
        traced = torch.jit.trace(small, x[:1])
        for module in (scripted, traced):
            torch.testing.assert_close(module(x), expected)
            assert module(x[:0]).shape == (0, 16)


def test_export_finds_no_branch(small):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(small, (torch.randn(2, 3, 112, 112),), dynamic_shapes=({0: batch},))
    x = torch.randn(3, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), small(x))


@pytest.mark.parametrize("seed", range(3))
def test_random_genotypes_train(seed):
    network = PocketNet(random_genotype(seed), channels=4, layers=5, embedding_dim=8)
    network(torch.randn(2, 3, 112, 112)).square().sum().backward()
    used = [p for p in network.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(used) > len(list(network.parameters())) // 2


def test_randomized_networks_stay_conditioned():
    network = randomize_(PocketNet(random_genotype(7), 16, 9), seed=7)
    with torch.no_grad():
        out = network(torch.randn(4, 3, 112, 112))
    assert 0.1 < out.std() < 10
    assert (out[0] - out[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 18, 128), "channels is 0"), ((16, 3, 128), "layers is 3"), ((16, 18, 0), "embedding_dim is 0")],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(PocketNetError, match=message):
        PocketNet(SOFTMAX_CASIA, *arguments)
