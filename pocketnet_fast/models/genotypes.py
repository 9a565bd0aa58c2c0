"""Genotypes: the two cells of a PocketNet as data, in the text form that differentiable search publishes.

A cell has the states 0 and 1 (the outputs of the two preceding cells, after pre-processing) and one state per
node. Node ``n`` is state ``n + 2``: the sum of two edges, each an operation applied to an earlier state. The
cell's output is the concatenation of the states listed in ``*_concat``.
"""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pocketnet_fast.errors import PocketNetError

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "dw_conv_1x1",
    "dw_conv_3x3",
    "dw_conv_5x5",
    "dw_conv_7x7",
)
"""The operations an edge of a discrete genotype may have (paper, Section III-A; ``none`` is search-only)."""

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_EDGES_PER_NODE = 2
_CELL_INPUTS = 2
_MAX_NODES = 64
_MAX_TEXT = 65536


class Edge(NamedTuple):
    """One operation of a node and the state it reads."""

    operation: str
    input: int


Node = tuple[Edge, ...]


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    Attributes:
        normal: Nodes of the normal cell, each of two edges.
        normal_concat: States concatenated into the normal cell's output.
        reduce: Nodes of the reduction cell; edges from the states 0 and 1 have stride 2.
        reduce_concat: States concatenated into the reduction cell's output.

    Raises:
        PocketNetError: An unknown operation, an edge that reads a state not computed yet, or a
            concatenation that names anything but distinct nodes.
    """

    normal: tuple[Node, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Node, ...]
    reduce_concat: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("normal", "reduce"):
            nodes = _checked_nodes(getattr(self, name), name)
            concat = _checked_concat(getattr(self, f"{name}_concat"), len(nodes), f"{name}_concat")
            object.__setattr__(self, name, nodes)
            object.__setattr__(self, f"{name}_concat", concat)

    def __str__(self) -> str:
        return format_genotype(self)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_edge(edge: Any, states: int, where: str) -> Edge:
    if not isinstance(edge, (tuple, list)) or len(edge) != 2:
        raise PocketNetError(f"genotype: {where} is {edge!r}; expected a pair (operation, input)")
    operation, source = edge
    if operation not in OPERATIONS:
        found = "'none', which is for search only" if operation == "none" else f"unknown: {operation!r}"
        raise PocketNetError(
            f"genotype: the operation of {where} is {found}; expected one of {', '.join(OPERATIONS)}"
        )
    if not _is_int(source) or not 0 <= source < states:
        raise PocketNetError(f"genotype: {where} reads state {source!r}; expected 0 to {states - 1}")
    return Edge(operation, source)


def _checked_nodes(nodes: Any, cell: str) -> tuple[Node, ...]:
    if not isinstance(nodes, (tuple, list)) or not 1 <= len(nodes) <= _MAX_NODES:
        raise PocketNetError(f"genotype: {cell} is {nodes!r}; expected a list of nodes")
    checked = []
    for index, node in enumerate(nodes):
        where = f"{cell} node {index}"
        if not isinstance(node, (tuple, list)) or len(node) != _EDGES_PER_NODE:
            raise PocketNetError(f"genotype: {where} is {node!r}; expected {_EDGES_PER_NODE} edges")
        states = index + _CELL_INPUTS
        checked.append(tuple(_checked_edge(edge, states, f"{where} edge {e}") for e, edge in enumerate(node)))
    return tuple(checked)


def _checked_concat(concat: Any, nodes: int, name: str) -> tuple[int, ...]:
    last = nodes + _CELL_INPUTS - 1
    expected = f"expected distinct node states out of {_CELL_INPUTS} to {last}"
    # A range may be longer than what len() counts to.
    if not isinstance(concat, (tuple, list, range)) or not 1 <= len(concat[: nodes + 1]) <= nodes:
        raise PocketNetError(f"genotype: {name} is {concat!r}; {expected}")
    states = tuple(concat)
    if not all(_is_int(s) and _CELL_INPUTS <= s <= last for s in states) or len(set(states)) != len(states):
        raise PocketNetError(f"genotype: {name} is {list(states)!r}; {expected}")
    return states


def parse_genotype(text: str) -> Genotype:
    """Read the published text form without evaluating it.

    Args:
        text: ``Genotype(normal=[[('dw_conv_3x3', 0), ...], ...], normal_concat=range(2, 6), reduce=...,
            reduce_concat=[2, 3, 4, 5])``, with or without ``name =`` before it, as search logs print it.

    Raises:
        PocketNetError: Naming the part that is not of this form.
    """
    if len(text) > _MAX_TEXT:
        raise PocketNetError(f"genotype: the text has {len(text)} characters; expected at most {_MAX_TEXT}")
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PocketNetError(f"genotype: not of the form Genotype(normal=..., ...): {error}") from None
    statement = body[0] if len(body) == 1 else None
    call = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
        raise PocketNetError("genotype: not of the form Genotype(normal=..., ...)")
    if call.args:
        raise PocketNetError("genotype: positional argument; expected " + ", ".join(f"{f}=" for f in _FIELDS))
    fields: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise PocketNetError("genotype: ** is not accepted")
        fields[keyword.arg] = _literal(keyword.value, keyword.arg)
    return _from_fields(fields)


def _literal(node: ast.expr, where: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int)):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(element, where) for element in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [_literal(argument, where) for argument in node.args]
        well_formed = not node.keywords and 1 <= len(bounds) <= 2 and all(_is_int(b) for b in bounds)
        if not well_formed:
            raise PocketNetError(f"genotype: {where} has a malformed range; expected range(start, stop)")
        return range(*bounds)
    raise PocketNetError(
        f"genotype: {where} contains {ast.unparse(node)!r}; expected names, numbers, lists, tuples and range"
    )


def _from_fields(fields: dict[str, Any]) -> Genotype:
    missing = [name for name in _FIELDS if name not in fields]
    unknown = [name for name in fields if name not in _FIELDS]
    if missing or unknown:
        found = [f"missing {', '.join(missing)}"] if missing else []
        found += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
        raise PocketNetError(f"genotype: {'; '.join(found)}; expected exactly {', '.join(_FIELDS)}")
    return Genotype(**fields)


def format_genotype(genotype: Genotype) -> str:
    """Write the published text form; ``parse_genotype`` reads it back to an equal genotype."""

    def nodes(cell: tuple[Node, ...]) -> str:
        return str([[tuple(edge) for edge in node] for node in cell])

    def concat(states: tuple[int, ...]) -> str:
        consecutive = states == tuple(range(states[0], states[-1] + 1))
        return f"range({states[0]}, {states[-1] + 1})" if consecutive else str(list(states))

    return (
        f"Genotype(normal={nodes(genotype.normal)}, normal_concat={concat(genotype.normal_concat)}, "
        f"reduce={nodes(genotype.reduce)}, reduce_concat={concat(genotype.reduce_concat)})"
    )


def genotype_to_json(genotype: Genotype) -> str:
    """Write a genotype as a JSON object with the four fields, edges as ``[operation, input]``."""
    return json.dumps({name: getattr(genotype, name) for name in _FIELDS})


def genotype_from_json(text: str) -> Genotype:
    """Read what ``genotype_to_json`` writes.

    Raises:
        PocketNetError: The text is not JSON or not a genotype.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PocketNetError(f"genotype: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise PocketNetError("genotype: the JSON value is not an object")
    return _from_fields(fields)


def read_genotype(path: str | os.PathLike[str]) -> Genotype:
    """Read a file that holds the text form or the JSON form.

    Raises:
        PocketNetError: It cannot be read or holds neither; the message names the file.
    """
    try:
        text = Path(path).read_bytes()[: _MAX_TEXT + 1].decode("utf-8").strip()
    except OSError as error:
        raise PocketNetError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PocketNetError(f"{path}: is no text in UTF-8") from None
    try:
        return genotype_from_json(text) if text.startswith("{") else parse_genotype(text)
    except PocketNetError as error:
        raise PocketNetError(f"{path}: {error}") from None


SOFTMAX_CASIA = parse_genotype(
    "Genotype("
    "normal=[[('dw_conv_3x3', 0), ('dw_conv_1x1', 1)], [('dw_conv_3x3', 2), ('dw_conv_5x5', 0)], "
    "[('dw_conv_3x3', 3), ('dw_conv_3x3', 0)], [('dw_conv_3x3', 4), ('skip_connect', 0)]], "
    "normal_concat=range(2, 6), "
    "reduce=[[('dw_conv_3x3', 1), ('dw_conv_7x7', 0)], [('skip_connect', 2), ('dw_conv_5x5', 1)], "
    "[('max_pool_3x3', 0), ('skip_connect', 2)], [('max_pool_3x3', 0), ('max_pool_3x3', 1)]], "
    "reduce_concat=range(2, 6))"
)
"""Found on CASIA-WebFace; the genotype of the four PocketNets."""

SOFTMAX_CIFAR10 = parse_genotype(
    "Genotype("
    "normal=[[('dw_conv_7x7', 0), ('dw_conv_3x3', 1)], [('dw_conv_1x1', 1), ('dw_conv_1x1', 2)], "
    "[('max_pool_3x3', 2), ('dw_conv_7x7', 3)], [('dw_conv_5x5', 4), ('max_pool_3x3', 0)]], "
    "normal_concat=range(2, 6), "
    "reduce=[[('max_pool_3x3', 0), ('dw_conv_7x7', 1)], [('max_pool_3x3', 0), ('max_pool_3x3', 1)], "
    "[('max_pool_3x3', 0), ('max_pool_3x3', 2)], [('max_pool_3x3', 0), ('max_pool_3x3', 1)]], "
    "reduce_concat=range(2, 6))"
)
"""Found on CIFAR-10; the paper's ablation on the search data set."""

PUBLISHED = {"softmax_casia": SOFTMAX_CASIA, "softmax_cifar10": SOFTMAX_CIFAR10}
"""The published genotypes by name."""


def genotype_from_name(name: str) -> Genotype:
    """Read a genotype however it is given.

    Args:
        name: A published genotype's name, the text form, the JSON form, or the path of a ``.txt`` or
            ``.json`` file that holds one of the two.

    Raises:
        PocketNetError: It is none of these, or the file cannot be read.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name.lstrip().startswith("{"):
        return genotype_from_json(name)
    if name.endswith((".txt", ".json")):
        return read_genotype(name)
    return parse_genotype(name)
