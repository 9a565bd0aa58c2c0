"""Pictures of a search: a genotype as a graph, alphas over the epochs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import Genotype, Node
from pocketnet_fast.search.network import SEARCH_OPERATIONS

Weights = Sequence[Sequence[Sequence[float]]]
"""Per node and edge the softmax weights of ``SEARCH_OPERATIONS``."""

_DPI = 120
_COLORS = dict(
    zip(
        SEARCH_OPERATIONS,
        ("#8c564b", "#e377c2", "#2ca02c", "#1f77b4", "#9467bd", "#d62728", "#17becf", "#7f7f7f"),
        strict=True,
    )
)
_FORMATS = ("png", "svg")


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw_genotype(
    stream: BinaryIO,
    kind: str,
    genotype: Genotype,
    *,
    title: str = "",
    weights: tuple[Weights, Weights] | None = None,
) -> None:
    """Draw both cells: states from left to right, an arrow per edge with its operation.

    Args:
        stream: Where to write.
        kind: "png" or "svg".
        genotype: What to draw.
        title: Above the figure.
        weights: Of the normal and of the reduction cell; edges show the weight of their operation.

    Raises:
        PocketNetError: On another kind, or if matplotlib is not installed.
    """
    figure = _figure((12, 7.5))
    cells = (("normal cell", genotype.normal), ("reduction cell", genotype.reduce))
    for index, (name, nodes) in enumerate(cells):
        axes = figure.add_subplot(2, 1, index + 1)
        _draw_cell(axes, nodes, weights[index] if weights is not None else None)
        axes.set_title(name)
    figure.suptitle(title)
    _save(figure, stream, kind)


def _draw_cell(axes: Any, nodes: tuple[Node, ...], weights: Weights | None) -> None:
    last = len(nodes) + 1
    # The two inputs lie one above the other, nodes on alternating heights so that arrows do not coincide.
    places = [(0.0, 0.7), (0.0, -0.7)]
    places += [(1.2 * (n + 1), 0.45 if n % 2 == 0 else -0.45) for n in range(len(nodes))]
    output = (1.2 * (len(nodes) + 1), 0.0)
    names = ["c[k-2]", "c[k-1]", *(str(state) for state in range(2, last + 1))]
    for node, edges in enumerate(nodes):
        state = node + 2
        for position, (operation, source) in enumerate(edges):
            bend = (
                (0.18, -0.18)[position] if edges[0].input == edges[1].input else 0.08 * (state - source - 1)
            )
            color = _COLORS[operation]
            axes.annotate(
                "",
                places[state],
                places[source],
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": color,
                    "lw": 1.6,
                    "shrinkA": 17,
                    "shrinkB": 17,
                    "connectionstyle": f"arc3,rad={bend}",
                },
            )
            label = operation
            if weights is not None:
                label += f"\n{weights[node][source][SEARCH_OPERATIONS.index(operation)]:.2f}"
            share = 0.35 + 0.27 * position
            (x0, y0), (x1, y1) = places[source], places[state]
            # The arc's bulge is half of rad times the chord, to the right of the direction of travel.
            x = x0 + share * (x1 - x0) + bend * (y1 - y0) / 2
            y = y0 + share * (y1 - y0) - bend * (x1 - x0) / 2
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            axes.text(x, y, label, color=color, fontsize=7, ha="center", va="center", bbox=box)
        arrow = {"arrowstyle": "-|>", "color": "#bbbbbb", "lw": 1.0, "shrinkA": 17, "shrinkB": 17}
        axes.annotate("", output, places[state], arrowprops=arrow, zorder=0)
    for place, name in zip([*places, output], [*names, "c[k]"], strict=True):
        box = {"boxstyle": "round,pad=0.4", "facecolor": "#f2f2f2", "edgecolor": "#555555"}
        axes.text(*place, name, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    axes.set(xlim=(-0.5, output[0] + 0.5), ylim=(-1.0, 1.0))
    axes.set_axis_off()


def draw_alphas(
    stream: BinaryIO, kind: str, history: Sequence[Weights], epochs: Sequence[int], title: str
) -> None:
    """Draw the softmax weights of one kind of cell over the epochs: a heat map per edge, a row per operation.

    Args:
        stream: Where to write.
        kind: "png" or "svg".
        history: Weights after each epoch.
        epochs: Their numbers.
        title: Above the figure.

    Raises:
        PocketNetError: On another kind, or if matplotlib is not installed.
    """
    nodes = len(history[0])
    columns = nodes + 1
    highest = max(weight for cell in history for node in cell for edge in node for weight in edge)
    figure = _figure((2.4 * columns, 1.6 * nodes + 0.8))
    image = None
    for node in range(nodes):
        for edge in range(node + 2):
            values: npt.NDArray[np.float64] = np.array([weights[node][edge] for weights in history]).T
            axes = figure.add_subplot(nodes, columns, node * columns + edge + 1)
            image = axes.imshow(values, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
            axes.set_title(f"{edge} -> {node + 2}", fontsize=8)
            names = SEARCH_OPERATIONS if edge == 0 else [""] * len(SEARCH_OPERATIONS)
            axes.set_yticks(range(len(SEARCH_OPERATIONS)), names, fontsize=6)
            ends = sorted({0, len(epochs) - 1})
            axes.set_xticks(ends, [str(epochs[i]) for i in ends], fontsize=6)
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label="softmax weight")
    figure.suptitle(title)
    _save(figure, stream, kind)


def _figure(size: tuple[float, float]) -> Any:
    if not has_matplotlib():
        raise PocketNetError(
            'matplotlib is not installed, which draws a search: pip install "pocketnet_fast[eval]"'
        )
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _save(figure: Any, stream: BinaryIO, kind: str) -> None:
    if kind not in _FORMATS:
        raise PocketNetError(f"pictures of kind {kind!r}; expected {' or '.join(_FORMATS)}")
    from matplotlib import rc_context

    # Text stays text, and neither date nor random names: the same search gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pocketnet_fast"}):
        figure.savefig(stream, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
