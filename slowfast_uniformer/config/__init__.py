"""The config: keys and defaults, loading and checking, recipes, keys of other programs. Needs no torch."""

from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.load import difference, load_config, load_recipe, split_cfg_arguments, to_dict, variant
from slowfast_uniformer.config.recipe_notes import recipe_notes
from slowfast_uniformer.config.recipes import find_config, list_recipes
from slowfast_uniformer.config.smoke import smoke_overrides

__all__ = [
    "difference",
    "find_config",
    "flatten",
    "get_cfg",
    "list_recipes",
    "load_config",
    "load_recipe",
    "recipe_notes",
    "smoke_overrides",
    "split_cfg_arguments",
    "to_dict",
    "variant",
]
