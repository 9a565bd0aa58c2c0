import numpy as np
import pytest

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.search.halves import stratified_halves


class Numbered(FaceDataset):
    """Images that hold their own index."""

    def __init__(self, counts):
        self.name, self.classes = "numbered", len(counts)
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def image(self, index):
        return np.full((112, 112, 3), index, np.uint8)


def indices(half):
    return [int(half.image(i)[0, 0, 0]) for i in range(len(half))]


@pytest.mark.parametrize("counts", [[4, 4, 4], [2, 3, 5, 7, 11], [3] * 9])
def test_each_half_has_half_of_every_class(counts):
    dataset = Numbered(counts)
    halves = stratified_halves(dataset, seed=3)
    assert sorted(indices(halves[0]) + indices(halves[1])) == list(range(sum(counts)))
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    for half in halves:
        assert half.classes == len(counts)
        assert half.labels.tolist() == dataset.labels[indices(half)].tolist()
        for label, count in enumerate(counts):
            assert (half.labels == label).sum() in (count // 2, (count + 1) // 2)


def test_chance_divides_and_the_seed_alone():
    dataset = Numbered([20, 20])
    first, again, other = (indices(stratified_halves(dataset, seed)[0]) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first != list(range(0, 40, 2))


def test_a_class_of_one_image_is_refused():
    with pytest.raises(PocketNetError, match="numbered: class 1 has 1 image"):
        stratified_halves(Numbered([4, 1]), 0)
