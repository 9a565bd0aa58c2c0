import dataclasses

import pytest
from helpers import random_genotype

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import (
    OPERATIONS,
    PUBLISHED,
    SOFTMAX_CASIA,
    SOFTMAX_CIFAR10,
    Genotype,
    format_genotype,
    genotype_from_json,
    genotype_from_name,
    genotype_to_json,
    parse_genotype,
    read_genotype,
)
from pocketnet_fast.models.registry import create_model

NODES = "[[('skip_connect', 0), ('dw_conv_3x3', 1)], [('max_pool_3x3', 2), ('avg_pool_3x3', 0)]]"
TEXT = f"Genotype(normal={NODES}, normal_concat=range(2, 4), reduce={NODES}, reduce_concat=[3, 2])"


def test_parse_reads_every_field():
    genotype = parse_genotype(TEXT)
    assert genotype.normal == (
        (("skip_connect", 0), ("dw_conv_3x3", 1)),
        (("max_pool_3x3", 2), ("avg_pool_3x3", 0)),
    )
    assert genotype.reduce == genotype.normal
    assert genotype.normal_concat == (2, 3)
    assert genotype.reduce_concat == (3, 2)
    assert genotype.normal[1][0].operation == "max_pool_3x3"
    assert genotype.normal[1][0].input == 2


def test_parse_accepts_what_search_logs_print():
    assert parse_genotype(f"  genotype = {TEXT}\n") == parse_genotype(TEXT)


@pytest.mark.parametrize("seed", range(20))
def test_text_and_json_round_trip(seed):
    genotype = random_genotype(seed, nodes=1 + seed % 6)
    genotype = dataclasses.replace(genotype, reduce_concat=genotype.reduce_concat[::-1])
    assert parse_genotype(format_genotype(genotype)) == genotype
    assert genotype_from_json(genotype_to_json(genotype)) == genotype
    assert str(genotype) == format_genotype(genotype)


def test_published_text_is_written_back_as_published(golden):
    text = golden("pocketnet_s128").metadata["genotype"]
    assert parse_genotype(text) == SOFTMAX_CASIA
    assert format_genotype(SOFTMAX_CASIA) == text
    text = golden("cifar_genotype_c16_l18_e128").metadata["genotype"]
    assert parse_genotype(text) == SOFTMAX_CIFAR10
    assert format_genotype(SOFTMAX_CIFAR10) == text


def test_genotypes_are_immutable_and_hashable():
    assert len({*PUBLISHED.values(), parse_genotype(format_genotype(SOFTMAX_CASIA))}) == len(PUBLISHED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        SOFTMAX_CASIA.normal = ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'dw_conv_3x3', 1", "'sep_conv_3x3', 1", "normal node 0 edge 1 is unknown: 'sep_conv_3x3'"),
        ("'dw_conv_3x3', 1", "'none', 1", "'none', which is for search only"),
        ("'max_pool_3x3', 2", "'max_pool_3x3', 3", "normal node 1 edge 0 reads state 3; expected 0 to 2"),
        ("'max_pool_3x3', 2", "'max_pool_3x3', -1", "contains '-1'"),
        ("'max_pool_3x3', 2", "'max_pool_3x3', True", "reads state True"),
        ("'max_pool_3x3', 2", "'max_pool_3x3', 2, 3", "expected a pair"),
        ("('max_pool_3x3', 2), ", "", "normal node 1 is .*; expected 2 edges"),
        ("range(2, 4)", "range(2, 5)", "normal_concat is .*expected distinct node states out of 2 to 3"),
        ("range(2, 4)", "range(1, 3)", "normal_concat is .*expected distinct node states"),
        ("range(2, 4)", "range(2, 10**9)", r"contains '10 \*\* 9'"),
        ("range(2, 4)", "range(2, 1000000000000)", "normal_concat is range"),
        ("range(2, 4)", "range(2, 4, 0)", "malformed range"),
        ("range(2, 4)", "[2, 2]", "distinct"),
        ("range(2, 4)", "[]", "normal_concat"),
        ("normal_concat", "normal_conat", "missing normal_concat; unknown normal_conat"),
        ("Genotype(", "Genotyp(", "not of the form"),
        ("Genotype(", "Genotype(1, ", "positional argument"),
        ("Genotype(", "Genotype(**{}, ", r"\*\* is not accepted"),
        ("[3, 2])", "[3, 2]", "not of the form"),
        ("[3, 2]", "__import__('os').getpid()", "reduce_concat contains"),
    ],
)
def test_malformed_text_is_refused_by_name(old, new, message):
    assert old in TEXT
    with pytest.raises(PocketNetError, match=message):
        parse_genotype(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "1",
        "a; b",
        "(" * 5000,
        "x" * 70000,
        "Genotype()",
        "Genotype(reduce=1)",
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(PocketNetError, match="genotype"):
        parse_genotype(text)


def test_refusal_of_an_operation_lists_the_accepted_ones():
    with pytest.raises(PocketNetError) as error:
        Genotype([[("conv", 0), ("conv", 1)]], (2,), [], (2,))  # type: ignore[arg-type, list-item]
    assert all(operation in str(error.value) for operation in OPERATIONS)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"normal": 3}', "[" * 100000])
def test_other_json_is_refused(text):
    with pytest.raises(PocketNetError, match="genotype"):
        genotype_from_json(text)


@pytest.mark.parametrize("write", [format_genotype, genotype_to_json])
@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_files_hold_either_form(tmp_path, write, suffix):
    genotype = random_genotype(4)
    path = tmp_path / f"found{suffix}"
    path.write_text(f"\n{write(genotype)}\n")
    assert read_genotype(path) == genotype
    assert genotype_from_name(str(path)) == genotype
    assert genotype_from_name(write(genotype)) == genotype
    assert create_model("pocketnet", genotype=str(path), channels=2, layers=4).genotype == genotype
    assert create_model("pocketnet", genotype=write(genotype), channels=2, layers=4).genotype == genotype


def test_published_genotypes_have_names():
    assert genotype_from_name("softmax_cifar10") == SOFTMAX_CIFAR10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "g.json: cannot be read: No such file"),
        (b"\xff\xfe", "g.json: is no text in UTF-8"),
        (b"{}", "g.json: genotype: missing normal"),
        (b"Genotype()", "g.json: genotype: missing"),
        (b"x" * 100_000, "g.json: genotype: the text has 65537 characters"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, message):
    path = tmp_path / "g.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PocketNetError, match=message):
        genotype_from_name(str(path))
