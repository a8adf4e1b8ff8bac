"""Recipes: the schema, overrides, the library of named recipes."""

from groundup.recipe.compose import library, load_recipe, source_text, to_yaml, validate
from groundup.recipe.schema import Claim, Recipe

__all__ = ["Claim", "Recipe", "library", "load_recipe", "source_text", "to_yaml", "validate"]
