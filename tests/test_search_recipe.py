import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.search.recipe import SearchRecipe, list_search_recipes, load_search_recipe
from pocketnet_fast.training.schedule import learning_rate


def test_every_recipe_loads_and_describes_itself():
    recipes = list_search_recipes()
    assert list(recipes) == ["casia", "cifar10", "synthetic_tiny"]
    for name, text in recipes.items():
        recipe = load_search_recipe(name)
        assert SearchRecipe.from_toml(recipe.to_toml(), "again") == recipe
        assert len(text) > 40


@pytest.mark.parametrize("name", ["casia", "cifar10"])
def test_published_search(name):
    recipe = load_search_recipe(name)
    network, weights, architecture = recipe.network, recipe.weights, recipe.architecture
    assert (network.channels, network.layers, network.nodes, network.stem_multiplier) == (16, 8, 4, 3)
    assert (recipe.data.batch_size, weights.epochs) == (128, 50)
    assert (weights.momentum, weights.weight_decay, weights.clip_norm) == (0.9, 3e-4, 5.0)
    assert (architecture.order, architecture.lr, architecture.weight_decay) == (2, 1.2e-3, 1e-3)
    assert (architecture.beta1, architecture.beta2) == (0.5, 0.999)
    rates = [learning_rate(recipe.schedule, weights.lr, step, 10) for step in (0, 250, 500)]
    assert rates == pytest.approx([0.1, 0.052, 0.004])


def test_the_data_are_the_users():
    with pytest.raises(PocketNetError, match="pass --data"):
        load_search_recipe("casia").check_complete()
    load_search_recipe("synthetic_tiny").check_complete()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[weights]\nlr = 0.1\nfinal_lr = 0.2", "final_lr is 0.2, above weights.lr 0.1"),
        ("[architecture]\nlatency_weight = 1", "needs architecture.latency_table"),
        ("[architecture]\norder = 3", "architecture.order is 3; expected at least 1 and at most 2"),
        ("[architecture]\nhessian = 'scaled'", 'hessian is "scaled"; expected'),
        ("[watch]\nstop_eigenvalue_ratio = 1.3", "needs watch.eigenvalue_epochs"),
        ("[optimizer]\nlr = 0.1", "unknown section optimizer; expected one of network"),
        ("[weights]\nlearning_rate = 0.1", "unknown key weights.learning_rate"),
    ],
)
def test_bad_recipes(text, message):
    with pytest.raises(PocketNetError, match=message):
        SearchRecipe.from_toml(text, "r.toml")


def test_unknown_names_get_a_hint():
    with pytest.raises(PocketNetError, match="unknown recipe cifar; did you mean cifar10"):
        load_search_recipe("cifar")
