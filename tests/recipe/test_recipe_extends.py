"""Recipes laid over recipes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.recipe import load_recipe

Write = Callable[[str, str], str]
BASE = str(Path(__file__).with_name("base.yaml"))


def test_a_chain_of_recipes_is_laid_over_each_other_key_by_key(write: Write) -> None:
    write("middle.yaml", "extends: digits\nname: middle\ntrain: {epochs: 5}\nseed: 3\n")
    recipe = load_recipe(write("leaf.yaml", "extends: middle.yaml\nname: leaf\ntrain: {batch_size: 32}\n"))
    assert (recipe.name, recipe.seed, recipe.train.epochs, recipe.train.batch_size) == ("leaf", 3, 5, 32)
    assert recipe.model == load_recipe("digits").model


def test_the_parent_is_found_beside_the_recipe_that_names_it(write: Write) -> None:
    write("shared/base.yaml", "extends: digits\nseed: 9\n")
    assert load_recipe(write("mine/leaf.yaml", "extends: ../shared/base.yaml\n")).seed == 9


def test_the_columns_of_the_parents_source_are_left_with_it(write: Write) -> None:
    data = load_recipe(write("mine.yaml", "extends: cifar100-speed\ndata: {source: 'folder:photos'}\n")).data
    assert (data.image, data.label) == (None, None)


def test_a_circle_is_refused_and_shown(write: Write) -> None:
    write("b.yaml", "extends: a.yaml\n")
    with pytest.raises(UsageError, match=r"extends: .*a\.yaml -> .*b\.yaml -> .*a\.yaml goes round in a circle"):
        load_recipe(write("a.yaml", "extends: b.yaml\n"))


def test_a_circle_through_another_spelling_of_the_path_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="circle"):
        load_recipe(write("d/a.yaml", "extends: ../d/a.yaml\n"))


def test_a_claim_is_not_inherited(write: Write) -> None:
    assert load_recipe("cifar100-wrn28-10").claim is not None
    assert load_recipe(write("mine.yaml", "extends: cifar100-wrn28-10\ntrain: {epochs: 1}\n")).claim is None
    own = write("own.yaml", "extends: cifar100-wrn28-10\nclaim: {top1: 0.5, source: here}\n")
    claim = load_recipe(own).claim
    assert claim is not None
    assert claim.top1 == 0.5


def test_a_second_name_of_a_recipe_keeps_its_claim(write: Write) -> None:
    alias = load_recipe(write("mine.yaml", "extends: cifar100-wrn28-10\nname: wide\nabout: The same.\n"))
    assert alias.claim == load_recipe("cifar100-wrn28-10").claim


def test_a_section_of_another_method_replaces_the_whole_section(write: Write) -> None:
    recipe = load_recipe(write("mine.yaml", f"extends: {BASE}\nschedule: {{name: cosine, lr: 0.2}}\n"))
    assert recipe.schedule.model_dump()["lr"] == 0.2
    assert "max_lr" not in recipe.schedule.model_dump()


def test_a_section_that_names_no_method_or_the_same_keeps_the_other_settings(write: Write) -> None:
    for section in ("{width: 8}", "{name: resnet18, width: 8}"):
        model = load_recipe(write("mine.yaml", f"extends: {BASE}\nmodel: {section}\n")).model.model_dump()
        assert (model["width"], model["stem"]) == (8, "small")


def test_a_list_replaces_the_list(write: Write) -> None:
    assert load_recipe(write("mine.yaml", f"extends: {BASE}\naugment: {{policy: []}}\n")).augment.policy == ()


def test_an_unknown_parent_is_named_with_the_nearest(write: Write) -> None:
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load_recipe(write("mine.yaml", "extends: digit\n"))


def test_more_than_one_parent_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="needs the name or path of one recipe"):
        load_recipe(write("mine.yaml", "extends: [digits, cifar10-speed]\n"))
