"""Muon: the orthogonalised update, written out in float64, and AdamW for what is no matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pocketnet_fast.training.muon import Muon, is_matrix, orthogonalized
from pocketnet_fast.training.optimizer import make_optimizer
from pocketnet_fast.training.recipe import OptimizerRecipe


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6), (1, 5), (64, 27)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)
    left, _, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    # In the matrix's own singular bases the result is diagonal.
    diagonal = left.T @ orthogonalized(matrix[None])[0].double().numpy() @ right.T
    values = np.diagonal(diagonal)
    assert values.min() > 0.3
    assert values.max() < 1.25
    assert np.abs(diagonal - np.diag(values)).max() < 1e-4


def test_zero_stays() -> None:
    assert torch.equal(orthogonalized(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


def test_what_is_a_matrix() -> None:
    assert is_matrix(nn.Conv2d(16, 8, 1).weight)
    assert is_matrix(nn.Linear(3, 2).weight)
    for module in (nn.Conv2d(8, 8, 3, groups=8), nn.PReLU(4), nn.BatchNorm2d(3)):
        assert not is_matrix(next(module.parameters()))


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T @ x) + 2.0315 * (x @ x.T @ x @ x.T @ x)
    return x


def test_three_steps_by_hand() -> None:
    weight = nn.Parameter(drawn(6, 3, 1, 1))
    expected, average = weight.detach().double().numpy().reshape(6, 3), np.zeros((6, 3))
    vector = nn.Parameter(drawn(5))
    twin = nn.Parameter(vector.detach().clone())
    optimizer = Muon([weight], [vector], 0.01, 8.0, 0.95, 0.1)
    adamw = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.0)
    for step in range(3):
        gradient, weight.grad = drawn(6, 3, seed=step).double().numpy(), drawn(6, 3, 1, 1, seed=step)
        vector.grad = drawn(5, seed=step)
        twin.grad = vector.grad.clone()
        rate = 0.01 / (step + 1)
        for group in optimizer.param_groups + adamw.param_groups:
            group["lr"] = rate
        optimizer.step()
        adamw.step()
        average = 0.95 * average + 0.05 * gradient
        update = newton_schulz(0.05 * gradient + 0.95 * average)
        expected = expected * (1 - 8 * rate * 0.1) - 8 * rate * 2**0.5 * update
        assert np.allclose(weight.detach().double().numpy().reshape(6, 3), expected, atol=1e-5)
        assert torch.equal(vector, twin)


def test_matrices_of_one_shape_move_as_each_alone() -> None:
    shapes = [(4, 6), (6, 4), (4, 6, 1, 1), (4, 2, 1, 3), (6, 4, 1, 1), (4, 6)]
    together = [nn.Parameter(drawn(*shape, seed=place)) for place, shape in enumerate(shapes)]
    alone = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    optimizers = [Muon([parameter], [], 0.01, 8.0, 0.95, 0.1) for parameter in alone]
    optimizers.append(Muon(together, [], 0.01, 8.0, 0.95, 0.1))
    for step in range(3):
        for place, shape in enumerate(shapes):
            # One of them has no gradient at first, which changes who moves together.
            gradient = None if step == 0 and place == 2 else drawn(*shape, seed=10 * step + place)
            together[place].grad = gradient
            alone[place].grad = None if gradient is None else gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for found, expected in zip(together, alone, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_parameters_in_any_memory_format_move_alike(kind: str) -> None:
    recipe = OptimizerRecipe(kind, 0.1, weight_decay=0.1)  # type: ignore[arg-type]
    shapes = {"filters": (4, 1, 3, 3), "first": (1, 4, 3, 3), "mixing": (4, 3, 3, 3), "slopes": (4,)}
    weights = {name: drawn(*shape) for name, shape in shapes.items()}
    gradients = [{name: drawn(*shape, seed=step) for name, shape in shapes.items()} for step in range(3)]
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameters = {
            name: nn.Parameter(
                value.clone(memory_format=memory_format if value.dim() == 4 else torch.preserve_format)
            )
            for name, value in weights.items()
        }
        optimizer = make_optimizer(recipe, parameters)
        for step in gradients:
            for name, parameter in parameters.items():
                parameter.grad = step[name].clone()
            optimizer.step()
        results.append(parameters)
    for name in shapes:
        assert torch.allclose(results[0][name], results[1][name], atol=1e-5)
        assert not torch.allclose(results[0][name], weights[name], atol=1e-3)


def test_matrices_decay_and_vectors_do_not() -> None:
    parameters = {"m": nn.Parameter(torch.ones(2, 2)), "v": nn.Parameter(torch.ones(2))}
    parameters["d"] = nn.Parameter(torch.ones(2, 1, 3, 3))
    optimizer = make_optimizer(OptimizerRecipe("muon", 0.1, weight_decay=0.5, matrix_factor=2.0), parameters)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(parameters["m"], torch.tensor(0.9))
    assert torch.allclose(parameters["d"], torch.tensor(0.95))
    assert torch.equal(parameters["v"], torch.ones(2))


def test_class_centres_are_no_matrix() -> None:
    parameters = {"header.kernel": nn.Parameter(drawn(4, 9)), "w": nn.Parameter(drawn(4, 9))}
    optimizer = make_optimizer(OptimizerRecipe("muon"), parameters)
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [(4, 9)]
    assert optimizer.param_groups[0]["params"][0] is parameters["w"]


def test_without_gradients_nothing_moves() -> None:
    weight, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    Muon([weight], [vector], 0.1, 8.0, 0.95, 0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))
    assert torch.equal(vector, torch.ones(2))
