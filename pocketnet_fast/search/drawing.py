"""Pictures of a search: a genotype as a graph, alphas over the epochs. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import Genotype, Node
from pocketnet_fast.pictures import COLORS, picture
from pocketnet_fast.search.cells import SEARCH_OPERATIONS

_FORMATS = ("png", "svg")

Weights = Sequence[Sequence[Sequence[float]]]
"""Per node and edge the softmax weights of ``SEARCH_OPERATIONS``."""

_COLORS = dict(zip(SEARCH_OPERATIONS, (COLORS[6], *COLORS[3:6], *COLORS[:3], COLORS[7]), strict=True))
# Width and height of a cell's axes in inches, from which the room that a label takes follows.
_CELL = (12.0, 3.6)
_LABEL_POINTS = 7


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
        weights: The weights of the normal and of the reduction cell; edges show the weight of their
            operation.

    Raises:
        PocketNetError: Another kind, or matplotlib is not installed.
    """
    _check_kind(kind)
    with picture(stream, kind, (_CELL[0], 2 * _CELL[1] + 0.6)) as figure:
        cells = (("normal cell", genotype.normal), ("reduction cell", genotype.reduce))
        for index, (name, nodes) in enumerate(cells):
            axes = figure.add_subplot(2, 1, index + 1)
            _draw_cell(axes, nodes, weights[index] if weights is not None else None)
            axes.set_title(name)
        figure.suptitle(title)


def _draw_cell(axes: Any, nodes: tuple[Node, ...], weights: Weights | None) -> None:
    last = len(nodes) + 1
    # The two inputs lie one above the other, nodes on alternating heights so that arrows do not coincide.
    places = [(0.0, 0.7), (0.0, -0.7)]
    places += [(1.2 * (n + 1), 0.45 if n % 2 == 0 else -0.45) for n in range(len(nodes))]
    output = (1.2 * (len(nodes) + 1), 0.0)
    labels = _Labels([*places, output], output[0] + 1.0)
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
            x, y = labels.place(places[source], places[state], bend, label)
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            axes.text(x, y, label, color=color, fontsize=_LABEL_POINTS, ha="center", va="center", bbox=box)
        arrow = {"arrowstyle": "-|>", "color": "#bbbbbb", "lw": 1.0, "shrinkA": 17, "shrinkB": 17}
        axes.annotate("", output, places[state], arrowprops=arrow, zorder=0)
    for place, name in zip([*places, output], [*names, "c[k]"], strict=True):
        box = {"boxstyle": "round,pad=0.4", "facecolor": "#f2f2f2", "edgecolor": "#555555"}
        axes.text(*place, name, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    axes.set(xlim=(-0.5, output[0] + 0.5), ylim=(-1.1, 0.9))
    axes.set_axis_off()


class _Labels:
    """Finds places for labels beside which no other label and no state lies.

    Args:
        states: Where states are drawn.
        width: The width of the axes, in their own unit; their height is 2.
    """

    def __init__(self, states: Sequence[tuple[float, float]], width: float) -> None:
        self._unit = (width / _CELL[0], 2.0 / _CELL[1])
        self._taken = [(x, y, 0.3 * self._unit[0], 0.2 * self._unit[1]) for x, y in states]

    def place(
        self, start: tuple[float, float], end: tuple[float, float], bend: float, text: str
    ) -> tuple[float, float]:
        """A place on the arc from one state to another, as near to its middle as there is room."""
        lines = text.split("\n")
        inch = _LABEL_POINTS / 72
        half = (
            0.3 * inch * max(map(len, lines)) * self._unit[0],
            0.62 * inch * len(lines) * self._unit[1],
        )
        (x0, y0), (x1, y1) = start, end
        best, least = (0.0, 0.0), np.inf
        for share in sorted(np.linspace(0.15, 0.85, 29).tolist(), key=lambda part: abs(part - 0.5)):
            # A quadratic curve on the paper, whose control point lies rad times the chord to its right.
            off, aspect = 2 * bend * share * (1 - share), self._unit[0] / self._unit[1]
            x = x0 + share * (x1 - x0) + off * (y1 - y0) * aspect
            y = y0 + share * (y1 - y0) - off * (x1 - x0) / aspect
            overlap = sum(
                max(half[0] + w - abs(x - cx), 0.0) * max(half[1] + h - abs(y - cy), 0.0)
                for cx, cy, w, h in self._taken
            )
            if overlap < least:
                best, least = (x, y), overlap
            if overlap == 0:
                break
        self._taken.append((*best, *half))
        return best


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
        PocketNetError: Another kind, or matplotlib is not installed.
    """
    nodes = len(history[0])
    columns = nodes + 1
    highest = max(weight for cell in history for node in cell for edge in node for weight in edge)
    _check_kind(kind)
    with picture(stream, kind, (2.4 * columns, 1.7 * nodes + 0.8)) as figure:
        image = None
        for node in range(nodes):
            for edge in range(node + 2):
                values: npt.NDArray[np.float64] = np.array([weights[node][edge] for weights in history]).T
                axes = figure.add_subplot(nodes, columns, node * columns + edge + 1)
                # Pixels from epoch to epoch: a search that has done one epoch has one column.
                image = axes.imshow(values, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
                axes.set_title(f"{edge} -> {node + 2}", fontsize=8)
                names = SEARCH_OPERATIONS if edge == 0 else [""] * len(SEARCH_OPERATIONS)
                axes.set_yticks(range(len(SEARCH_OPERATIONS)), names, fontsize=6)
                ends = sorted({0, (len(epochs) - 1) // 2, len(epochs) - 1})
                axes.set_xticks(ends, [str(epochs[i]) for i in ends], fontsize=6)
                if edge == node + 1 or node == nodes - 1:
                    axes.set_xlabel("epoch", fontsize=7)
        figure.colorbar(image, ax=figure.axes, shrink=0.6, label="softmax weight")
        figure.suptitle(title)


def _check_kind(kind: str) -> None:
    if kind not in _FORMATS:
        raise PocketNetError(f"pictures of kind {kind!r}; expected {' or '.join(_FORMATS)}")
