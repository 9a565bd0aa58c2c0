"""Recipes: strict reading, overrides, and the published numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.registry import create_model
from pocketnet_fast.training.recipe import Recipe, list_recipes, load_recipe
from pocketnet_fast.training.teacher import build_model
from pocketnet_fast.training.toml_recipe import differences

NAMES = [
    "iresnet100_arcface",
    "iresnet50_arcface",
    "pocketnet_s128_arcface",
    "pocketnet_s128_kd",
    "pocketnet_s128_multistep_kd",
    "refine_distill",
    "synthetic_tiny",
    "transfer_distill",
]


def read(text: str, **overrides: str) -> Recipe:
    return Recipe.from_toml(text, "r.toml", {k.replace("__", "."): v for k, v in overrides.items()})


def test_every_recipe_loads_and_describes_itself() -> None:
    recipes = list_recipes()
    assert list(recipes) == NAMES
    for name, text in recipes.items():
        load_recipe(name)
        assert len(text) > 40


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("pocketnet", "iresnet"))])
def test_published_training(name: str) -> None:
    recipe = load_recipe(name)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.kind, optimizer.lr, optimizer.lr_batch) == ("sgd", 0.1, 512)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.clip_norm) == (0.9, 5e-4, 5.0)
    assert (schedule.epochs, schedule.kind, schedule.milestones) == (26, "steps", (8, 14, 20, 25))
    assert recipe.data.batch_size == 128
    assert (recipe.loss.scale, recipe.loss.margins) == (64.0, (1.0, 0.5, 0.0))
    assert recipe.data.flip == 0.5
    assert recipe.loss.objective == ("margin_kd" if name.endswith("_kd") else "margin")
    assert recipe.distillation.weight == 100.0
    assert recipe.distillation.multi_step == ("multistep" in name)
    assert recipe.model.embedding_dim in (None, 128)


@pytest.mark.parametrize("name", ["synthetic_tiny", "pocketnet_s128_kd"])
def test_recipes_build(name: str) -> None:
    model = build_model(load_recipe(name).model)
    if name.startswith("pocketnet"):
        shapes = [
            {name: value.shape for name, value in network.state_dict().items()}
            for network in (model, create_model("pocketnet_s128"))
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", NAMES)
def test_resolved_text_reads_back(name: str) -> None:
    recipe = load_recipe(name, {"data.source": 'a "b" \\ \u007f \t é😀', "verification.bins": '["x.bin"]'})
    text = recipe.to_toml()
    assert Recipe.from_toml(text, "again") == recipe
    for section in dataclasses.fields(recipe):
        for key, value in vars(getattr(recipe, section.name)).items():
            assert (f"{key} = " in text) or value is None


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.floats(1e-300, 1e300))
def test_any_text_and_number_reads_back(text: str, number: float) -> None:
    recipe = dataclasses.replace(
        Recipe(),
        data=dataclasses.replace(Recipe().data, source=text),
        optimizer=dataclasses.replace(Recipe().optimizer, lr=number),
    )
    assert Recipe.from_toml(recipe.to_toml(), "again") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimiser]\nlr = 1", "r.toml: unknown section optimiser; did you mean optimizer?"),
        ("[optimizer]\nlearning = 1", "unknown key optimizer.learning; expected one of optimizer.kind, "),
        ("[optimizer]\nmomentun = 1", "unknown key optimizer.momentun; did you mean optimizer.momentum?"),
        ("[optimizer]\nlr = true", r"optimizer.lr is true; expected a number"),
        ('[optimizer]\nlr = "fast"', r'optimizer.lr is "fast"; expected a number'),
        ("[optimizer]\nlr = 0.0", r"optimizer.lr is 0.0; expected above 0"),
        ("[optimizer]\nlr = inf", r"optimizer.lr is inf; expected a number"),
        ("[optimizer]\nkind = 'adam'", r'optimizer.kind is "adam"; expected .sgd. or .adamw. or .muon.'),
        ("[data]\nbatch_size = 1.5", r"data.batch_size is 1.5; expected a whole number"),
        ("[data]\nbatch_size = true", r"data.batch_size is true; expected a whole number"),
        ("[data]\nflip = 1.5", r"data.flip is 1.5; expected at least 0 and at most 1"),
        ("[model]\nfused = 'yes'", r'model.fused is "yes"; expected .auto. or true or false'),
        ("[schedule]\nmilestones = 8", r"milestones is 8; expected a list, each entry a whole number"),
        ("[schedule]\nmilestones = [8, 'x']", r'milestones is \[8, "x"\]; expected a list'),
        ("[schedule]\nmilestones = [8, 7]", r"milestones must be ascending epochs from 1, got \[8, 7\]"),
        ("[schedule]\nmilestones = [0]", r"milestones must be ascending epochs from 1, got \[0\]"),
        ("[schedule]\nepochs = 2\nwarmup_epochs = 3", "warmup_epochs is 3, of 2 epochs"),
        ("[loss]\nmargins = [1.0]", r"loss.margins must be three numbers"),
        ("data = 3", "data is a table of values, not a value"),
        ("[data", "r.toml: broken TOML"),
        ("[distillation]\nteacher = 'x'", "the objective 'margin' has no use for a teacher"),
        ("[distillation]\nmixup = 0.5", "need loss.objective 'features'"),
        (
            "[loss]\nobjective = 'features'\n[distillation]\nmixup = 0.6\ncutmix = 0.6",
            "probabilities with a sum of at most 1",
        ),
        ("[loss]\nobjective = 'features'\n[distillation]\nunit_weight = 0", "needs a positive"),
        ("[distillation]\ntail_weight = 1", "map_weight and tail_weight need loss.objective 'features'"),
        ("[loss]\nobjective = 'features'\n[distillation]\nmap_weight = 1\nmaps = []", "maps is empty"),
        ("[loss]\nobjective = 'features'\n[distillation]\nmaps = ['7', '7']", "must be different heights"),
        ("[loss]\nobjective = 'features'\n[distillation]\nmaps = ['tail']", "has its own tail_weight"),
        ("[model]\nweights = 'w'\n[distillation]\ncopy_tail = true", "would replace a part of model.weights"),
    ],
)
def test_bad_recipes(text: str, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        read(text)


def test_overrides() -> None:
    recipe = read(
        "[optimizer]\nlr = 0.3\n[model]\nchannels = 4",
        optimizer__lr="0.05",
        data__source="2024",
        model__name="iresnet50",
        model__channels="none",
        model__fused="true",
        schedule__milestones="[1, 2]",
        verification__bins='["a.bin", "b.bin"]',
        distillation__teacher_model="true",
    )
    assert recipe.optimizer.lr == 0.05
    assert recipe.data.source == "2024"
    assert (recipe.model.name, recipe.model.channels, recipe.model.fused) == ("iresnet50", None, True)
    assert recipe.schedule.milestones == (1, 2)
    assert recipe.verification.bins == ("a.bin", "b.bin")
    assert recipe.distillation.teacher_model == "true"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "1", "'lr' is no key; expected section.key"),
        ("optimizer.rate", "1", "unknown key optimizer.rate"),
        ("optimiser.lr", "1", "unknown section optimiser; did you mean optimizer"),
        ("optimizer.lr", "abc", 'optimizer.lr is "abc"; expected a number'),
        ("optimizer.lr", "-1", "optimizer.lr is -1; expected above 0"),
        ("data.workers", "1.5", "data.workers is 1.5; expected a whole number"),
        ("run.seed", "none", 'run.seed is "none"; expected a whole number'),
    ],
)
def test_bad_overrides(key: str, value: str, message: str) -> None:
    with pytest.raises(PocketNetError, match=message):
        Recipe.from_toml("", "r.toml", {key: value})


def test_files_and_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[run]\nseed = 7\n")
    assert load_recipe(path).run.seed == 7
    with pytest.raises(PocketNetError, match=r"unknown recipe pocketnet_s128; did you mean pocketnet_s128_"):
        load_recipe("pocketnet_s128")
    with pytest.raises(PocketNetError, match=r"absent.toml: cannot be read: No such file"):
        load_recipe(tmp_path / "absent.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PocketNetError, match="no text in UTF-8"):
        load_recipe(path)


def test_what_only_the_user_knows() -> None:
    with pytest.raises(PocketNetError, match="pass --data"):
        load_recipe("pocketnet_s128_arcface").check_complete()
    with pytest.raises(PocketNetError, match="pass --teacher with a weight file"):
        load_recipe("pocketnet_s128_kd", {"data.source": "x"}).check_complete()
    with pytest.raises(PocketNetError, match=r"pass --teacher with the teacher run's folder$"):
        load_recipe("pocketnet_s128_multistep_kd", {"data.source": "x"}).check_complete()
    load_recipe("synthetic_tiny").check_complete()


def test_differences() -> None:
    recipe = load_recipe("synthetic_tiny")
    other = load_recipe("synthetic_tiny", {"optimizer.lr": "0.5", "data.workers": "3"})
    assert differences(recipe, recipe) == {}
    assert differences(recipe, other) == {
        "optimizer.lr": (recipe.optimizer.lr, 0.5),
        "data.workers": (recipe.data.workers, 3),
    }
