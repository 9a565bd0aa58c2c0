import json

import pytest
import torch
from helpers import random_genotype

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.networks import lower
from pocketnet_fast.models.genotypes import OPERATIONS
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.search.cells import SEARCH_OPERATIONS
from pocketnet_fast.search.derivation import derive_genotype
from pocketnet_fast.search.latency import (
    ExpectedLatency,
    LatencyTable,
    cell_shapes,
    genotype_latency,
    read_latency_table,
)
from pocketnet_fast.search.network import SearchNetwork

CHANNELS, LAYERS = 4, 5


def made_up_table():
    """Times that differ for every operation and shape."""
    times = {}
    for reduction in (False, True):
        for channels, size in cell_shapes(CHANNELS, LAYERS, reduction=reduction):
            reads = {(1, size // 2), (2, size)} if reduction else {(1, size)}
            for k, operation in enumerate(OPERATIONS):
                for stride, read in reads:
                    times[operation, channels, stride, read, read] = (k + 1) * channels * read * 1e-3 / stride
    return LatencyTable("made up", "none", times)


def network(seed=0):
    torch.manual_seed(seed)
    made = SearchNetwork(CHANNELS, LAYERS, 3, nodes=3).double()
    for alpha in made.alphas().values():
        torch.nn.init.normal_(alpha)
    return made


def test_shapes_are_those_of_the_lowered_network():
    plan = lower(PocketNet(random_genotype(0), CHANNELS, LAYERS).eval())
    found = {
        (plan.buffers[step.output].channels, plan.buffers[step.output].height)
        for step in plan.steps()
        if ".dag." in step.name
    }
    shapes = {False: cell_shapes(CHANNELS, LAYERS, reduction=False)}
    shapes[True] = [(c, size // 2) for c, size in cell_shapes(CHANNELS, LAYERS, reduction=True)]
    assert found == set(shapes[False]) | set(shapes[True])
    assert len(shapes[False]) + len(shapes[True]) == LAYERS


def test_the_gradient_in_the_alphas_is_that_of_differences():
    made = network()
    latency = ExpectedLatency(made, made_up_table())
    alphas = list(made.alphas().values())
    gradients = torch.autograd.grad(latency(made), alphas)
    for alpha, gradient in zip(alphas, gradients, strict=True):
        shift = torch.randn_like(alpha)
        ends = []
        for length in (1e-6, -1e-6):
            alpha.data.add_(shift, alpha=length)
            ends.append(float(latency(made).detach()))
            alpha.data.sub_(shift, alpha=length)
        assert float((gradient * shift).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_alphas_that_have_decided_expect_what_the_genotype_takes():
    """A node whose edges all do the same expects the time of two of them."""
    table = made_up_table()
    made = network()
    for k, operation in enumerate(SEARCH_OPERATIONS[:-1]):
        with torch.no_grad():
            for alpha in made.alphas().values():
                alpha.fill_(-40.0)
                alpha[:, k] = 0.0
        expected = ExpectedLatency(made, table)(made)
        genotype = derive_genotype([*made.alpha_normal], [*made.alpha_reduce])
        assert {edge.operation for node in genotype.normal for edge in node} == {operation}
        # Normal cells: exact. Reduction cells: the mean over the choices of two edges.
        normal = genotype_latency(table, genotype, CHANNELS, LAYERS)
        reduce_nodes = sum(
            table.time(operation, c, 2 if e.input < 2 else 1, s if e.input < 2 else s // 2)
            for c, s in cell_shapes(CHANNELS, LAYERS, reduction=True)
            for node in genotype.reduce
            for e in node
        )
        mean = sum(
            2
            / (n + 2)
            * sum(table.time(operation, c, 2 if e < 2 else 1, s if e < 2 else s // 2) for e in range(n + 2))
            for c, s in cell_shapes(CHANNELS, LAYERS, reduction=True)
            for n in range(3)
        )
        assert float(expected.detach()) == pytest.approx(normal - reduce_nodes + mean, rel=1e-9)


def test_none_costs_nothing():
    made = network()
    with torch.no_grad():
        for alpha in made.alphas().values():
            alpha.fill_(-60.0)
            alpha[:, -1] = 0.0
    assert float(ExpectedLatency(made, made_up_table())(made).detach()) < 1e-12


def test_files_are_read_back(tmp_path):
    table = made_up_table()
    fields = ("operation", "channels", "stride", "height", "width")
    entries = [{**dict(zip(fields, k, strict=True)), "ms": v} for k, v in table.milliseconds.items()]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"machine": "mine", "threads": 1, "entries": entries}))
    read = read_latency_table(path)
    assert (read.machine, read.milliseconds) == ("mine", table.milliseconds)


ENTRY = {"operation": "dw_conv_3x3", "channels": 16, "stride": 1, "height": 56, "width": 56, "ms": 0.03}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", 'expected an object with a list "entries"'),
        (json.dumps({"entries": [ENTRY, ENTRY]}), "entry 1 repeats"),
        (json.dumps({"entries": [{**ENTRY, "operation": "conv"}]}), "entry 0 is for 'conv'; expected one of"),
        (json.dumps({"entries": [{**ENTRY, "stride": 0}]}), "entry 0 has sizes"),
        (json.dumps({"entries": [{**ENTRY, "ms": -1}]}), "entry 0 takes -1; expected milliseconds"),
        (json.dumps({"entries": [{**ENTRY, "ms": float("nan")}]}), "entry 0 takes nan"),
        (json.dumps({"entries": [{"operation": "dw_conv_3x3"}]}), "entry 0 has no channels, stride"),
        (json.dumps({"entries": [3]}), "entry 0 has no operation"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(PocketNetError, match=message):
        read_latency_table(path)


def test_a_table_of_another_network_is_refused():
    made = SearchNetwork(CHANNELS + 1, LAYERS, 3)
    with pytest.raises(
        PocketNetError, match=r"made up has no max_pool_3x3 of 5 channels, stride 1, at 56x56"
    ):
        ExpectedLatency(made, made_up_table())
    with pytest.raises(PocketNetError, match="cannot be read"):
        read_latency_table("absent.json")
