"""Recipes, genotypes, and tables of latencies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from pocketnet_fast.errors import PocketNetError
from readers.target import BETWEEN, JSON_WORDS, ROOT, Target, as_text, laid


def _read_recipe(data: bytes, folder: Path) -> None:
    from pocketnet_fast.search.recipe import load_search_recipe
    from pocketnet_fast.training.recipe import load_recipe

    text, _, override = data.partition(BETWEEN)
    path = laid(text, folder, "recipe.toml")
    overrides = dict(line.split("=", 1) for line in as_text(override).splitlines() if "=" in line)
    for load in (load_recipe, load_search_recipe):
        with contextlib.suppress(PocketNetError):
            recipe = load(path, overrides)
            # What was read is written so that it is read again.
            assert type(recipe).from_toml(recipe.to_toml(), "again") == recipe


def _recipe_seeds() -> Iterator[bytes]:
    for folder in ("training", "search"):
        for path in sorted((ROOT / "pocketnet_fast" / folder / "recipes").glob("*.toml")):
            yield path.read_bytes()
    yield (
        (ROOT / "pocketnet_fast/training/recipes/synthetic_tiny.toml").read_bytes()
        + BETWEEN
        + (b"optimizer.lr=0.5\nrun.precision=bf16\ndata.turn=none\n")
    )


def _read_genotype(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.genotypes import format_genotype, parse_genotype, read_genotype

    genotype = read_genotype(laid(data, folder, "genotype.txt"))
    assert parse_genotype(format_genotype(genotype)) == genotype


def _genotype_seeds() -> Iterator[bytes]:
    from pocketnet_fast.models.genotypes import PUBLISHED, format_genotype, genotype_to_json

    for genotype in PUBLISHED.values():
        yield format_genotype(genotype).encode()
        yield genotype_to_json(genotype).encode()


def _read_latencies(data: bytes, folder: Path) -> None:
    from pocketnet_fast.search.latency import read_latency_table

    read_latency_table(laid(data, folder, "table.json"))


def _latency_seeds() -> Iterator[bytes]:
    entry = {"operation": "skip_connect", "channels": 16, "stride": 1, "height": 7, "width": 7, "ms": 0.1}
    yield json.dumps({"machine": "one", "entries": [entry]}).encode()


TARGETS = {
    "recipe": Target(
        _read_recipe,
        _recipe_seeds,
        (BETWEEN, b"[run]", b"nan", b"inf", b"[" * 40, b"0x", b"=none\n", b"9" * 30),
    ),
    "genotype": Target(
        _read_genotype, _genotype_seeds, (b"range(", b"Genotype(", b"normal_concat=", *JSON_WORDS)
    ),
    "latencies": Target(_read_latencies, _latency_seeds, (*JSON_WORDS, b'"entries"', b'"ms"')),
}
