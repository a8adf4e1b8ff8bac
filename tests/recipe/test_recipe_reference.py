"""The reference page and the list of keys: both are committed, so that a change of the recipe is seen."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from groundup.augment import MixMethodSettings, MixSettings, OperationSettings
from groundup.data.doors import DOORS
from groundup.data.settings import FORMS
from groundup.models import ModelSettings
from groundup.optim import LossSettings, OptimizerSettings, ScheduleSettings
from groundup.recipe import Recipe
from groundup.recipe.reference import FAMILIES, reference
from groundup.training import AverageSettings

ROOT = Path(__file__).parents[2]
UNIONS = {
    "model": ModelSettings,
    "augment.policy": OperationSettings,
    "mix.methods": MixMethodSettings,
    "loss": LossSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "average": AverageSettings,
}
# What a phase may set as a whole is on the page in its own place.
TOLD_ELSEWHERE = {"phases.set.mix": MixSettings}


def members(union: object) -> set[type[BaseModel]]:
    """The classes of `Annotated[A | B, ...]`, or a class alone."""
    if isinstance(union, type):
        return {union}
    inner = get_args(union)[0]
    return {inner} if isinstance(inner, type) else set(get_args(inner))


def keys() -> Iterator[str]:
    """Every key of a recipe; a method of a family is written `section[name].key`."""
    yield from _keys(Recipe, "")


def _keys(settings: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        key = f"{path}{field.alias or name}"
        family = {"phases.set.augment.policy": None}.get(key, FAMILIES.get(key))
        sections = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if family:
            for called, member in family.items():
                yield from _keys(member, f"{key}[{called}].")
        elif len(sections) == 1 and TOLD_ELSEWHERE.get(key) is not sections[0]:
            yield from _keys(sections[0], f"{key}.")
        else:
            yield key


def _parts(annotation: object) -> Iterator[object]:
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _parts(part)


def test_the_committed_reference_page_is_current() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "groundup.recipe.reference"], capture_output=True, text=True, check=True
    ).stdout
    committed = (ROOT / "docs/reference/recipe.md").read_text(encoding="utf-8")
    assert printed == committed, "run: python -m groundup.recipe.reference > docs/reference/recipe.md"


def test_the_list_of_recipe_keys_grows_only_by_decision() -> None:
    committed = Path(__file__).with_name("recipe_keys.txt").read_text().splitlines()
    found = list(keys())
    assert found == committed, {"added": set(found) - set(committed), "gone": set(committed) - set(found)}


def test_every_key_has_a_row_with_a_description() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert all(row[-1].strip(" |") for row in rows)
    # A class under several names (the ResNets) stands on the page once.
    distinct = {key.replace("[resnet34]", "[resnet18]").replace("[resnet50]", "[resnet18]") for key in keys()}
    assert len(rows) == len(distinct)


@pytest.mark.parametrize("section", FAMILIES)
def test_every_method_of_a_family_is_in_the_recipes_union_and_on_the_page(section: str) -> None:
    family = FAMILIES[section]
    assert set(family.values()) == members(UNIONS[section])
    for name, settings in family.items():
        assert name in get_args(settings.model_fields["name"].annotation)
        headings = [line for line in reference().splitlines() if line.startswith(f"#### {section}:")]
        assert any(name in heading.partition(": ")[2].split(", ") for heading in headings)


def test_the_data_doors_are_the_forms_that_the_page_lists() -> None:
    assert set(DOORS) == set(FORMS)
    assert all(form in reference() for form in FORMS.values())


def test_a_row_tells_type_default_and_range() -> None:
    page = reference()
    assert "| `label_smoothing` | number | `0` | >= 0, < 1 |" in page
    assert "| `rise` | duration | `0.3dur` |" in page
    assert "| `epochs` | number | required | > 0 |" in page
    assert "| `clip_norm` | number or null | `null` | > 0 |" in page
