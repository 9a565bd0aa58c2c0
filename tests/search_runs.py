"""A tiny search for the tests of its loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training_runs import RUN, as_text

from pocketnet_fast.search.recipe import SearchRecipe

_RECIPE = """
[network]
channels = 2
layers = 4
nodes = 2

[data]
batch_size = 6
workers = 0

[weights]
epochs = 2
lr = 0.05

[architecture]
order = 1
lr = 0.05

"""


def tiny_search(source: str | Path, **values: Any) -> SearchRecipe:
    """The tiny recipe on a dataset; values by section__key."""
    overrides = {"data.source": str(source)}
    overrides |= {key.replace("__", "."): as_text(value) for key, value in values.items()}
    return SearchRecipe.from_toml(f"{_RECIPE}{RUN}drawings = false\n", "tiny", overrides)
