import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.search.failure_signs import dominant_eigenvalue, skip_shares
from pocketnet_fast.search.network import SearchNetwork


def test_skip_connections_are_counted_by_cell():
    assert skip_shares(SOFTMAX_CASIA) == {"normal": 1 / 8, "reduce": 2 / 8}


@pytest.fixture
def case():
    torch.manual_seed(2)
    network = SearchNetwork(2, 4, 3, nodes=1).double()
    for alpha in network.alphas().values():
        torch.nn.init.normal_(alpha)
    network.fused = False
    optimizer = torch.optim.SGD(network.weights().values(), lr=0.1)
    return network, (torch.randn(4, 3, 112, 112, dtype=torch.float64), torch.arange(4) % 3), optimizer


def hessian(network, batch):
    alphas = list(network.alphas().values())
    loss = cross_entropy(network(batch[0]), batch[1])
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(loss, alphas, create_graph=True)])
    rows = [torch.autograd.grad(entry, alphas, retain_graph=True) for entry in slope]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.slow
def test_the_dominant_eigenvalue_is_found(case):
    network, batch, optimizer = case
    before = copy.deepcopy(network.state_dict())
    found = dominant_eigenvalue(network, batch, optimizer=optimizer, steps=40, seed=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    eigenvalues = torch.linalg.eigvalsh(hessian(network, batch))
    largest = float(eigenvalues[eigenvalues.abs().argmax()])
    assert found == pytest.approx(largest, rel=0.05)


def test_the_alphas_are_restored_after_a_failure(case, monkeypatch):
    network, batch, optimizer = case
    before = {name: alpha.detach().clone() for name, alpha in network.alphas().items()}

    def fail(*arguments, **options):
        assert any(not torch.equal(before[name], alpha) for name, alpha in network.alphas().items())
        raise KeyboardInterrupt

    monkeypatch.setattr("pocketnet_fast.search.failure_signs.architecture_gradient", fail)
    with pytest.raises(KeyboardInterrupt):
        dominant_eigenvalue(network, batch, optimizer=optimizer, steps=2, seed=0)
    assert all(torch.equal(before[name], alpha) for name, alpha in network.alphas().items())


def test_a_flat_loss_has_none(case, monkeypatch):
    network, batch, optimizer = case
    plain = network.net.linear.forward
    network.net.linear.forward = lambda x: 0.0 * plain(x)
    assert dominant_eigenvalue(network, batch, optimizer=optimizer, steps=2, seed=0) == 0.0
