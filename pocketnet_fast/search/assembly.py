"""What a search recipe describes, built: halves of the data, network, optimisers, on this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketnet_fast.data.augment import Augmentation
from pocketnet_fast.data.loader import FaceLoader, make_loader
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.search.halves import stratified_halves
from pocketnet_fast.search.latency import ExpectedLatency, read_latency_table
from pocketnet_fast.search.network import SearchNetwork
from pocketnet_fast.search.recipe import SearchRecipe
from pocketnet_fast.search.step import SearchStepper
from pocketnet_fast.training.assembly import check_batch, check_identities
from pocketnet_fast.training.optimizer import load_state_tensors, state_tensors

_NETWORK, _WEIGHTS, _ALPHAS = "network", "weights", "alphas"


@dataclass
class SearchParts:
    """The pieces of a search on this process.

    Attributes:
        network: Searched in.
        train_loader: Batches of the half for the weights.
        val_loader: Batches of the half for the alphas.
        test_loader: The latter's images as they are, in the same order every time.
        weights: SGD over the weights.
        alphas: Adam over the alphas.
        stepper: Makes the steps.
        latency: None if latency does not count.
        images: In both halves.
        steps_per_epoch: The number of steps of each epoch; batches that fill no whole step are left out.
    """

    network: SearchNetwork
    train_loader: FaceLoader
    val_loader: FaceLoader
    test_loader: FaceLoader
    weights: torch.optim.SGD
    alphas: torch.optim.Adam
    stepper: SearchStepper
    latency: ExpectedLatency | None
    images: int
    steps_per_epoch: int

    def tensors(self) -> dict[str, Tensor]:
        """Network and optimisers as named tensors, from which ``restore`` goes on."""
        found = {f"{_NETWORK}.{name}": value for name, value in self.network.state_dict().items()}
        for prefix, optimizer, parameters in self._optimizers():
            state = state_tensors(optimizer, parameters)
            found |= {f"{prefix}.{name}": value for name, value in state.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Put back what ``tensors`` gave.

        Raises:
            PocketNetError: They are not those of this network; ``name`` is what the message calls them.
        """
        state = _under(tensors, _NETWORK)
        expected = {key: value.shape for key, value in self.network.state_dict().items()}
        if expected != {key: value.shape for key, value in state.items()}:
            raise PocketNetError(f"{name} does not hold the network that the recipe describes")
        self.network.load_state_dict(state)
        for prefix, optimizer, parameters in self._optimizers():
            load_state_tensors(optimizer, parameters, _under(tensors, prefix), lambda _, tensor: tensor)

    def _optimizers(self) -> list[tuple[str, torch.optim.Optimizer, dict[str, torch.nn.Parameter]]]:
        return [
            (_WEIGHTS, self.weights, self.network.weights()),
            (_ALPHAS, self.alphas, self.network.alphas()),
        ]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def assemble_search(recipe: SearchRecipe, processes: Processes) -> SearchParts:
    """Build everything; weights and alphas depend on the recipe's seed alone.

    Raises:
        PocketNetError: The data or the latency table cannot be used.
    """
    recipe.check_complete()
    assert recipe.data.source is not None
    dataset = open_dataset(recipe.data.source)
    check_batch(recipe.data.batch_size, pooled=False)
    check_identities(dataset)
    seed = recipe.run.seed
    halves = stratified_halves(dataset, seed)
    varied = Augmentation(flip=recipe.data.flip, crop=recipe.data.crop, cutout=recipe.data.cutout)
    as_they_are = Augmentation(flip=0.0)
    train_loader, val_loader, test_loader = (
        make_loader(
            half,
            batch_size=recipe.data.batch_size,
            augmentation=augmentation,
            seed=seed,
            rank=processes.rank,
            ranks=processes.ranks,
            workers=min(recipe.data.workers, os.cpu_count() or 1),
            pin_memory=processes.device.type == "cuda",
        )
        for half, augmentation in ((halves[0], varied), (halves[1], varied), (halves[1], as_they_are))
    )
    torch.manual_seed(seed)
    section = recipe.network
    network = SearchNetwork(
        section.channels,
        section.layers,
        dataset.classes,
        nodes=section.nodes,
        stem_multiplier=section.stem_multiplier,
    )
    network.fused = section.fused
    latency = None
    if recipe.architecture.latency_table is not None:
        latency = ExpectedLatency(network, read_latency_table(recipe.architecture.latency_table))
    network.to(processes.device).train()
    weights = torch.optim.SGD(
        network.weights().values(),
        lr=recipe.weights.lr,
        momentum=recipe.weights.momentum,
        weight_decay=recipe.weights.weight_decay,
    )
    alphas = torch.optim.Adam(
        network.alphas().values(),
        lr=recipe.architecture.lr,
        betas=(recipe.architecture.beta1, recipe.architecture.beta2),
        weight_decay=recipe.architecture.weight_decay,
    )
    return SearchParts(
        network,
        train_loader,
        val_loader,
        test_loader,
        weights,
        alphas,
        SearchStepper(network, weights, alphas, recipe, processes, latency),
        latency,
        len(dataset),
        min(train_loader.sampler.steps_per_epoch, val_loader.sampler.steps_per_epoch),
    )
