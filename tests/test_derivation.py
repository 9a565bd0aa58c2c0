import pytest
import torch
from search_cases import GOLDEN

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import OPERATIONS, format_genotype
from pocketnet_fast.search.cells import SEARCH_OPERATIONS
from pocketnet_fast.search.derivation import derive_genotype

NODES = 4


def equal_alphas(value=0.0):
    return [torch.full((node + 2, len(SEARCH_OPERATIONS)), value) for node in range(NODES)]


def test_the_recorded_genotype_is_derived(golden):
    record = golden(GOLDEN)
    alphas = [[record.weights[f"alpha_{cell}.{n}"] for n in range(NODES)] for cell in ("normal", "reduce")]
    assert format_genotype(derive_genotype(*alphas)) == record.metadata["genotype"]


def test_the_search_set_is_that_of_genotypes_and_none():
    assert sorted(SEARCH_OPERATIONS) == sorted((*OPERATIONS, "none"))


def test_strongest_edges_come_first_and_none_never():
    alphas = equal_alphas(-1.0)
    for alpha in alphas:
        alpha[:, SEARCH_OPERATIONS.index("none")] = 9.0
    alphas[3][4, SEARCH_OPERATIONS.index("dw_conv_5x5")] = 0.5
    alphas[3][1, SEARCH_OPERATIONS.index("skip_connect")] = 0.7
    genotype = derive_genotype(alphas, alphas)
    assert genotype.normal[3] == (("skip_connect", 1), ("dw_conv_5x5", 4))
    assert genotype.reduce == genotype.normal


def test_strengths_are_compared_before_the_softmax():
    alphas = equal_alphas()
    # The softmax weight of edge 0's best operation is larger, its alpha is smaller.
    alphas[0][0] = torch.tensor([1.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0])
    alphas[0][1] = torch.tensor([1.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert alphas[0][0].softmax(0).max() > alphas[0][1].softmax(0).max()
    assert [edge.input for edge in derive_genotype(alphas, alphas).normal[0]] == [1, 0]


def test_ties_among_few_edges_go_by_index():
    alphas = equal_alphas()
    for alpha in alphas:
        alpha[:, 3] = 1.0
    genotype = derive_genotype(alphas, alphas)
    assert genotype.normal[0] == (("dw_conv_3x3", 0), ("dw_conv_3x3", 1))
    assert genotype.normal[1] == (("dw_conv_3x3", 0), ("dw_conv_3x3", 1))


def test_ties_are_broken_as_recorded_genotypes_break_them():
    """By topk: recomputed here row by row, so that neither batch nor layout of the alphas may matter."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        alphas = [
            torch.randint(0, 3, (n + 2, len(SEARCH_OPERATIONS)), generator=generator).float()
            for n in range(NODES)
        ]
        genotype = derive_genotype(alphas, [alpha.double().T.contiguous().T for alpha in alphas])
        assert genotype.normal == genotype.reduce
        for alpha, node in zip(alphas, genotype.normal, strict=True):
            best = [row[:-1].clone().topk(1) for row in alpha]
            edges = torch.cat([b.values for b in best]).topk(2).indices.tolist()
            assert node == tuple((SEARCH_OPERATIONS[int(best[e].indices)], e) for e in edges)
            strengths = alpha[:, :-1].amax(1)
            assert [float(strengths[e]) for e in edges] == strengths.sort(descending=True).values[:2].tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a[:1], r"alpha_normal.2 has shape \(1, 8\); expected \(4, 8\)"),
        (lambda a: a[:, :7], r"alpha_normal.2 has shape \(4, 7\)"),
        (lambda a: a * float("nan"), "alpha_normal.2 has values that are not finite"),
    ],
)
def test_unusable_alphas_are_refused(damage, message):
    alphas = equal_alphas()
    damaged = [damage(alpha) if n == 2 else alpha for n, alpha in enumerate(alphas)]
    with pytest.raises(PocketNetError, match=message):
        derive_genotype(damaged, alphas)
