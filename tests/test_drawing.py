import io
import itertools
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from helpers import random_genotype

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA, SOFTMAX_CIFAR10
from pocketnet_fast.search import drawing
from pocketnet_fast.search.cells import SEARCH_OPERATIONS
from pocketnet_fast.search.drawing import draw_alphas, draw_genotype

OPERATIONS = len(SEARCH_OPERATIONS)
SHARP = [[[0.9 if k == 3 else 0.1 / 7 for k in range(OPERATIONS)]] * (n + 2) for n in range(4)]
EVEN = [[[1 / OPERATIONS] * OPERATIONS] * (n + 2) for n in range(4)]


def texts(svg: bytes) -> list[str]:
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter()
        if element.tag.endswith("}text")
    ]


def drawn(kind, draw, *arguments, **options):
    stream = io.BytesIO()
    draw(stream, kind, *arguments, **options)
    return stream.getvalue()


def test_a_graph_names_cells_states_operations_and_weights():
    svg = drawn("svg", draw_genotype, SOFTMAX_CASIA, title="epoch 7", weights=(SHARP, EVEN))
    found = texts(svg)
    assert {"epoch 7", "normal cell", "reduction cell"} <= set(found)
    for name in ("c[k-2]", "c[k-1]", "2", "3", "4", "5", "c[k]"):
        assert found.count(name) == 2, name
    for cell in (SOFTMAX_CASIA.normal, SOFTMAX_CASIA.reduce):
        for operation in {edge.operation for node in cell for edge in node}:
            assert operation in found
    all_edges = [e.operation for c in (SOFTMAX_CASIA.normal, SOFTMAX_CASIA.reduce) for n in c for e in n]
    assert sum(text in SEARCH_OPERATIONS for text in found) == len(all_edges) == 16
    sharp = sum(e.operation == "dw_conv_3x3" for n in SOFTMAX_CASIA.normal for e in n)
    assert found.count("0.90") == sharp
    assert found.count("0.12") == 8


def test_pictures_are_pictures_and_always_the_same():
    png = drawn("png", draw_genotype, SOFTMAX_CASIA)
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[0] > 500
    assert pixels.std() > 10
    assert drawn("svg", draw_genotype, SOFTMAX_CASIA) == drawn("svg", draw_genotype, SOFTMAX_CASIA)


@pytest.mark.slow
def test_heat_maps_have_one_map_per_edge():
    svg = drawn("svg", draw_alphas, [EVEN, SHARP, SHARP], [1, 2, 3], "normal cells")
    found = texts(svg)
    assert [text for text in found if "->" in text] == [f"{e} -> {n}" for n in range(2, 6) for e in range(n)]
    assert found.count("dw_conv_3x3") == 4
    one = drawn("png", draw_alphas, [EVEN], [1], "x")
    assert drawn("png", draw_alphas, [SHARP], [1], "x") != one


def test_other_kinds_are_refused():
    with pytest.raises(PocketNetError, match="kind 'gif'; expected png or svg"):
        draw_genotype(io.BytesIO(), "gif", SOFTMAX_CASIA)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_labels_do_not_overlap(monkeypatch, seed, weighted):
    boxes = []
    place = drawing._Labels.place

    def noted(self, *arguments):
        found = place(self, *arguments)
        boxes.append([*self._taken])
        return found

    monkeypatch.setattr(drawing._Labels, "place", noted)
    genotype = (SOFTMAX_CASIA, SOFTMAX_CIFAR10, *(random_genotype(s) for s in range(4)))[seed]
    drawn("svg", draw_genotype, genotype, weights=(EVEN, EVEN) if weighted else None)
    for cell in (boxes[7], boxes[15]):
        for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(cell, 2):
            assert abs(x - x2) >= w + w2 - 1e-9 or abs(y - y2) >= h + h2 - 1e-9
