"""Recorded results by name: those of the repository, from weights of a formula, and those beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import formula
import pytest
import torch
from torch import Tensor

from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.genotypes import parse_genotype
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.search.network import SearchNetwork

FOLDER = Path(__file__).parent / "recordings"
NETWORKS = ("pocketnet_s128", "pocketnet_m256", "cifar_genotype_c16_l18_e128")
IMAGES = 4
_MARGIN = (12, 40, 90)  # samples, dimensions, classes
# Half of the images train, half validate.
_SEARCH_LABELS = (0, 3, 1, 4, 2, 0)
_SEARCH = {
    "channels": "2",
    "layers": "4",
    "classes": "5",
    "nodes": "4",
    "stem_multiplier": "3",
    "xi": "0.1",
    "momentum": "0.9",
    "weight_decay": "3e-4",
}


@dataclass(frozen=True)
class Golden:
    """Recorded tensors and the description stored with them."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        prefix = "weights."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def shared_folder() -> Path:
    """The folder of recorded data that is no part of the project; skips the test if it is not there."""
    path = Path(os.environ.get("POCKETNET_SHARED", FOLDER.parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"no recorded data at {path}; set POCKETNET_SHARED to their folder")
    return path


def load_shared(name: str) -> Golden:
    """What the published code computed; skips the test if it is not there."""
    path = shared_folder() / "golden" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no recorded file {path}")
    return _read(path)


def load_repository(name: str, *, outputs: bool = True) -> Golden:
    """What eager PyTorch computes from the formula (``record.py``), with the weights and inputs."""
    recorded = _read(FOLDER / f"{name}.safetensors") if outputs else Golden({}, {})
    metadata = dict(recorded.metadata)
    if name in NETWORKS:
        network = network_of(recorded)
        tensors = _weights(network) | {"input_rgb_u8": formula.images(name, IMAGES)}
    elif name.startswith("search"):
        metadata = _SEARCH | metadata
        network = search_network(metadata)
        labels = torch.tensor(_SEARCH_LABELS)
        tensors = _weights(network) | {"input_rgb_u8": formula.images(name, len(labels)), "label": labels}
    else:
        samples, dimensions, classes = _MARGIN
        tensors = {
            "embedding": formula.between("embedding", (samples, dimensions), -1, 1),
            "teacher": formula.between("teacher", (samples, dimensions), -1, 1),
            "kernel": formula.between("kernel", (dimensions, classes), -0.02, 0.02),
            "label": torch.arange(samples) * 7 % classes,
        }
    return Golden(metadata, tensors | recorded.tensors)


def network_of(recorded: Golden) -> PocketNet:
    """The network that a recording's metadata describe, with its weights or the formula's."""
    facts = recorded.metadata
    sizes = (int(facts[key]) for key in ("channels", "layers", "embedding"))
    network = PocketNet(parse_genotype(facts["genotype"]), *sizes)
    if recorded.weights:
        network.load_state_dict(recorded.weights)
    else:
        formula.fill_(network)
    return network.eval()


def search_network(facts: Mapping[str, str]) -> SearchNetwork:
    """The search network of such metadata, with the formula's weights."""
    channels, layers, classes = (int(facts[key]) for key in ("channels", "layers", "classes"))
    network = SearchNetwork(
        channels, layers, classes, nodes=int(facts["nodes"]), stem_multiplier=int(facts["stem_multiplier"])
    )
    formula.fill_(network)
    return network


def write(name: str, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a recording of the repository."""
    from safetensors.torch import save

    kept = {key: value.contiguous() for key, value in tensors.items()}
    with atomic_write(FOLDER / f"{name}.safetensors") as stream:
        stream.write(save(kept, dict(sorted(metadata.items()))))


def _weights(network: torch.nn.Module) -> dict[str, Tensor]:
    return {f"weights.{key}": value.clone() for key, value in network.state_dict().items()}


def _read(path: Path) -> Golden:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return Golden(metadata, load_file(path))


def present(path: Path) -> Path:
    """A file or folder beside the project; a test that needs it is skipped where it is missing."""
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return path
