r"""Is a searched genotype better than a random one, and does weighing latency give faster networks?

python benchmarks/search_study.py --out runs/study
python benchmarks/search_study.py --out runs/quick --epochs 1 --train-epochs 1 --seeds 1 --latency-weights 0

First a search on rendered people; its genotype is trained and verified on unseen ones beside a random
genotype of as many parameters (within 5 %), once per seed. Then one search per latency weight, with this
machine's times; the networks found are timed in turns on one thread. Whatever comes out is printed, and
written to study.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pocketnet_fast import compile as compile_model
from pocketnet_fast.files import atomic_write
from pocketnet_fast.lowering.latency_table import measure_latency_table
from pocketnet_fast.models.genotypes import OPERATIONS, Edge, Genotype, format_genotype
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.search.recipe import load_search_recipe
from pocketnet_fast.search.searcher import search
from pocketnet_fast.training import load_recipe, train

NODES = 4
TRIES = 10_000


def random_genotype(seed: int) -> Genotype:
    """A genotype drawn evenly: two different states per node, any operation."""
    rng = np.random.default_rng(seed)

    def cell() -> tuple[tuple[Edge, ...], ...]:
        return tuple(
            tuple(
                Edge(OPERATIONS[int(rng.integers(len(OPERATIONS)))], int(state))
                for state in rng.choice(node + 2, 2, replace=False)
            )
            for node in range(NODES)
        )

    concat = tuple(range(2, NODES + 2))
    return Genotype(cell(), concat, cell(), concat)


def parameters(genotype: Genotype, arguments: argparse.Namespace) -> int:
    network = PocketNet(genotype, arguments.channels, arguments.layers)
    return sum(p.numel() for p in network.parameters())


def random_of_size(size: int, seed: int, arguments: argparse.Namespace) -> Genotype:
    for attempt in range(TRIES):
        genotype = random_genotype(TRIES * seed + attempt)
        if abs(parameters(genotype, arguments) - size) <= 0.05 * size:
            return genotype
    raise SystemExit(f"no random genotype of {size} parameters in {TRIES} tries")


def searched(name: str, arguments: argparse.Namespace, console: Console, **values: Any) -> Genotype:
    """The genotype that a search finds."""
    console.rule(f"search: {name}")
    settings = {
        "network.channels": arguments.channels,
        "network.layers": arguments.layers,
        "weights.epochs": arguments.epochs,
        "data.workers": 0,
        "run.threads": 1,
    }
    if arguments.data is not None:
        settings["data.source"] = arguments.data
    settings |= {key.replace("__", "."): value for key, value in values.items()}
    recipe = load_search_recipe("synthetic_tiny", {key: str(value) for key, value in settings.items()})
    outcome = search(recipe, arguments.out / name, console=console)
    if outcome.signal or outcome.genotype is None:
        raise SystemExit(128 + outcome.signal)
    return outcome.genotype


def trained_accuracy(
    name: str, genotype: Genotype, seed: int, arguments: argparse.Namespace, console: Console
) -> float:
    """Verification accuracy on unseen rendered people after training."""
    console.rule(f"train: {name}")
    settings = {
        "model.genotype": format_genotype(genotype),
        "model.channels": arguments.channels,
        "model.layers": arguments.layers,
        "schedule.epochs": arguments.train_epochs,
        "run.seed": seed,
        "run.threads": 1,
        "data.workers": 0,
        "verification.every_epochs": 0,
        "verification.pairs": arguments.pairs,
        "verification.synthetic_identities": arguments.people,
    }
    if arguments.data is not None:
        settings["data.source"] = arguments.data
    recipe = load_recipe("synthetic_tiny", {key: str(value) for key, value in settings.items()})
    outcome = train(recipe, arguments.out / name, console=console)
    if outcome.signal:
        raise SystemExit(128 + outcome.signal)
    return outcome.verification["synthetic"].accuracy


def compare(found: Genotype, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Found against random, seed by seed."""
    size = parameters(found, arguments)
    rows = []
    for seed in range(arguments.seeds):
        other = random_of_size(size, seed, arguments)
        rows.append(
            {
                "seed": seed,
                "found": trained_accuracy(f"found{seed}", found, seed, arguments, console),
                "random": trained_accuracy(f"random{seed}", other, seed, arguments, console),
                "random_genotype": format_genotype(other),
                "random_parameters": parameters(other, arguments),
            }
        )
    return {"genotype": format_genotype(found), "parameters": size, "seeds": rows}


def milliseconds(genotypes: list[Genotype], arguments: argparse.Namespace) -> list[float]:
    """Median time of an image on one thread, the networks in turns."""
    crop = torch.zeros(1, 112, 112, 3, dtype=torch.uint8)
    networks = [
        compile_model(PocketNet(genotype, arguments.channels, arguments.layers).eval(), threads=1)
        for genotype in genotypes
    ]
    times: list[list[float]] = [[] for _ in networks]
    for _ in range(arguments.rounds):
        for network, found in zip(networks, times, strict=True):
            network(crop)
            start = time.perf_counter()
            network(crop)
            found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def sweep(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """One search per latency weight, and what its network takes and is worth."""
    console.rule("table of times")
    table = arguments.out / "latency.json"
    content = measure_latency_table(arguments.channels, arguments.layers)
    with atomic_write(table) as file:
        file.write(json.dumps(content, indent=1).encode())
    weights = sorted(arguments.latency_weights)
    genotypes = [
        searched(
            f"latency{weight:g}",
            arguments,
            console,
            architecture__latency_weight=weight,
            architecture__latency_table=table,
        )
        for weight in weights
    ]
    accuracy = [
        trained_accuracy(f"latency{weight:g}trained", genotype, 0, arguments, console)
        for weight, genotype in zip(weights, genotypes, strict=True)
    ]
    return [
        {"weight": weight, "ms": ms, "accuracy": share, "genotype": format_genotype(genotype)}
        for weight, ms, share, genotype in zip(
            weights, milliseconds(genotypes, arguments), accuracy, genotypes, strict=True
        )
    ]


def report(comparison: dict[str, Any], rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("seed", "found", "random", "difference", box=None, title="verification accuracy, percent")
    differences = [100 * (row["found"] - row["random"]) for row in comparison["seeds"]]
    for row, difference in zip(comparison["seeds"], differences, strict=True):
        values = (100 * row["found"], 100 * row["random"], difference)
        table.add_row(str(row["seed"]), *(f"{value:.2f}" for value in values))
    console.print(table)
    mean = statistics.mean(differences)
    wins = sum(difference > 0 for difference in differences)
    verdict = "better" if mean > 0 else "no better"
    console.print(
        f"The found genotype is {verdict} than random ones: {mean:+.2f} points on average, ahead with "
        f"{wins} of {len(differences)} seeds."
    )
    if not rows:
        return
    table = Table("latency weight", "ms per image", "accuracy, percent", box=None)
    for row in rows:
        table.add_row(f"{row['weight']:g}", f"{row['ms']:.3f}", f"{100 * row['accuracy']:.2f}")
    console.print(table)
    times = [row["ms"] for row in rows]
    falls = all(later < earlier for earlier, later in itertools.pairwise(times))
    console.print(f"Measured latency {'falls' if falls else 'does not fall'} with every larger weight.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/search_study"), help="folder, not there yet")
    parser.add_argument("--data", help="for searches and trainings; default: the recipes' rendered people")
    parser.add_argument("--people", type=int, default=32, help="unseen, for verification")
    parser.add_argument("--pairs", type=int, default=600, help="of their images")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6, help="of each search")
    parser.add_argument("--train-epochs", type=int, default=6, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--latency-weights", type=float, nargs="*", default=[0.0, 3.0, 30.0])
    parser.add_argument("--rounds", type=int, default=300, help="of timing")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists already; choose another --out")
    arguments.out.mkdir(parents=True)

    console = Console()
    start = time.perf_counter()
    found = searched("search", arguments, console)
    comparison = compare(found, arguments, console)
    rows = sweep(arguments, console) if arguments.latency_weights else []
    report(comparison, rows, console)
    content = {"comparison": comparison, "sweep": rows, "seconds": round(time.perf_counter() - start)}
    with atomic_write(arguments.out / "study.json") as file:
        file.write(json.dumps(content, indent=1).encode())
    console.print(f"drawn: {arguments.out / 'search' / 'epochs'}; figures: {arguments.out / 'study.json'}")


if __name__ == "__main__":
    main()
