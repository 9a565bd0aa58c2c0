"""Training: recipes, the loop, its checkpoints, teachers."""

from pocketnet_fast.training.recipe import Recipe as Recipe
from pocketnet_fast.training.recipe import list_recipes as list_recipes
from pocketnet_fast.training.recipe import load_recipe as load_recipe
from pocketnet_fast.training.trainer import Outcome as Outcome
from pocketnet_fast.training.trainer import train as train
