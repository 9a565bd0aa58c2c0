"""Template pooling against its definition, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.templates import TemplatePool


def test_known_case() -> None:
    # Template 5: two frames of medium 1, one image of medium 2. Template 3: one image.
    pool = TemplatePool(np.array([5, 3, 5, 5]), np.array([1, 1, 1, 2]), 2)
    assert pool.ids.tolist() == [3, 5]
    assert pool.needs().tolist() == [0, 1, 2, 3]
    images = np.array([[4.0, 0], [0, -2], [0, 2], [1, 1]], np.float32)
    pool.add(np.arange(4), images, [0.5, 0.1, 1.0, 3.0])
    # (0.5 (4, 0) + 1 (0, 2)) / 2 + 3 (1, 1) = (4, 4)
    np.testing.assert_allclose(pool.embeddings(), [[0, -1], [0.5**0.5, 0.5**0.5]], atol=1e-7)


def test_any_order_and_batches() -> None:
    rng = np.random.default_rng(0)
    templates, media = rng.integers(0, 20, 300), rng.integers(0, 4, 300)
    rows, scores = rng.standard_normal((300, 7)).astype(np.float32), rng.uniform(0.1, 1, 300)
    expected = []
    for template in range(20):
        total = np.zeros(7)
        for medium in range(4):
            chosen = (templates == template) & (media == medium)
            if chosen.any():
                total += (rows[chosen] * scores[chosen, None]).mean(0)
        expected.append(total / np.linalg.norm(total))
    pool = TemplatePool(templates, media, 7)
    for part in np.array_split(rng.permutation(300), 9):
        pool.add(part, rows[part], scores[part])
    np.testing.assert_allclose(pool.embeddings(), expected, atol=1e-6)
    assert pool.embeddings().dtype == np.float32


def test_wanted_templates_alone() -> None:
    templates, media = np.array([1, 2, 1, 3]), np.array([1, 1, 2, 1])
    pool = TemplatePool(templates, media, 1, np.array([3, 1, 1]))
    assert pool.ids.tolist() == [1, 3]
    assert pool.needs().tolist() == [0, 2, 3]
    pool.add(pool.needs(), np.ones((3, 1), np.float32), np.ones(3))
    assert pool.embeddings().tolist() == [[1], [1]]
    with pytest.raises(PocketNetError, match="template 9 has no image"):
        TemplatePool(templates, media, 1, np.array([1, 9]))


def test_errors() -> None:
    two = np.array([1, 2])
    with pytest.raises(PocketNetError, match="do not belong"):
        TemplatePool(two, two[:1], 3)
    pool = TemplatePool(two, two, 3)
    with pytest.raises(PocketNetError, match=r"expected embeddings of \(2, 3\), got \(2, 4\)"):
        pool.add(np.arange(2), np.ones((2, 4), np.float32), np.ones(2))
    for bad in (np.nan, np.inf):
        with pytest.raises(PocketNetError, match="the embedding of image 1 is not finite"):
            pool.add(np.arange(2), np.array([[1, 1, 1], [1, bad, 1]], np.float32), np.ones(2))
    pool.add(np.arange(1), np.ones((1, 3), np.float32), [1.0])
    with pytest.raises(PocketNetError, match="the images of template 2 add up to nothing"):
        pool.embeddings()
