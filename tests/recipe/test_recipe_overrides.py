"""`key.sub=value` on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.recipe import load_recipe

BASE = str(Path(__file__).with_name("base.yaml"))


def test_an_override_changes_its_key_and_nothing_else() -> None:
    before, after = load_recipe(BASE), load_recipe(BASE, ["train.epochs=3"])
    assert after.train.epochs == 3
    assert after.model_copy(update={"train": before.train}) == before


def test_values_are_read_as_yaml() -> None:
    recipe = load_recipe(
        "digits", ["train.drop_last=false", "data.limit=null", "train.clip_norm=1e-2", "augment.policy=[{name: flip}]"]
    )
    assert recipe.train.drop_last is False
    assert recipe.data.limit is None
    assert recipe.train.clip_norm == 0.01
    assert [operation.name for operation in recipe.augment.policy] == ["flip"]


@pytest.mark.parametrize("override", ["data.source=folder:photos", "data={source: 'folder:photos'}"])
def test_the_columns_of_a_source_go_with_it(override: str) -> None:
    assert load_recipe("cifar100-speed").data.label == "fine_label"
    data = load_recipe("cifar100-speed", [override]).data
    assert (data.source, data.image, data.label) == ("folder:photos", None, None)
    assert load_recipe("cifar100-speed", ["data.source=parquet:photos"]).data.label == "fine_label"


def test_a_column_that_is_asked_for_of_a_source_without_any_is_refused_in_any_order() -> None:
    for overrides in (
        ["data.label=kind", "data.source=folder:photos"],
        ["data={source: 'folder:photos', label: kind}"],
    ):
        with pytest.raises(UsageError, match=r"data\.label='kind': 'folder' has no columns"):
            load_recipe("cifar100-speed", overrides)


@pytest.mark.parametrize("entry", ["0", "pad_crop"])
def test_an_entry_of_a_list_is_reached_by_its_place_or_by_its_name(entry: str) -> None:
    (operation,) = load_recipe(BASE, [f"augment.policy.{entry}.pad=2"]).augment.policy
    assert operation.model_dump()["pad"] == 2


def test_a_whole_entry_of_a_list_is_replaced() -> None:
    (operation,) = load_recipe(BASE, ["augment.policy.0={name: flip}"]).augment.policy
    assert operation.name == "flip"


def test_sections_that_the_recipe_does_not_have_are_created() -> None:
    assert load_recipe(BASE, ["track.step_every=7"]).track.step_every == 7
    assert load_recipe(BASE, ["augment.normalize.mean=[0.5, 0.5, 0.5]"]).augment.normalize.mean == (0.5, 0.5, 0.5)


def test_another_method_drops_the_settings_of_the_old_one() -> None:
    recipe = load_recipe(BASE, ["schedule.name=cosine", "schedule.lr=0.2"])
    assert recipe.schedule.model_dump()["name"] == "cosine"
    assert load_recipe(BASE, ["model.name=resnet34"]).model.model_dump()["width"] == 64
    assert load_recipe(BASE, ["model.name=resnet18"]).model.model_dump()["width"] == 16


def test_a_section_given_whole_is_laid_over_the_old_one() -> None:
    assert load_recipe(BASE, ["model={width: 8}"]).model.model_dump()["stem"] == "small"
    assert load_recipe(BASE, ["model={name: resnet34, width: 8}"]).model.model_dump()["name"] == "resnet34"


def test_the_name_of_the_recipe_can_be_changed_and_the_rest_stays() -> None:
    recipe = load_recipe(BASE, ["name=mine"])
    assert recipe.name == "mine"
    assert recipe.model == load_recipe(BASE).model


def test_a_later_override_wins() -> None:
    assert load_recipe(BASE, ["seed=1", "seed=2"]).seed == 2


def test_overrides_apply_after_extends(write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", f"extends: {BASE}\ntrain: {{epochs: 5}}\n")
    assert load_recipe(path, ["train.epochs=2"]).train.epochs == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epochs", ["'train.epochs'", "write key=value"]),
        ("=3", ["write key=value"]),
        ("train.epochs.x=3", ["train.epochs is 20", "no keys below it"]),
        ("name.x.y=3", ["name is 'digits'", "no keys below it"]),
        ("augment.policy.4.pad=2", ["augment.policy.4", "no such entry", "0 to 0", "pad_crop"]),
        ("augment.policy.padcrop.pad=2", ["no such entry", "did you mean 'pad_crop'?"]),
        ("train.epochs=[1", ["the value is not valid YAML"]),
        ("train={epochs: 1, epochs: 2}", ["'epochs' stands twice"]),
    ],
)
def test_an_override_that_cannot_be_applied_says_why(override: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(BASE, [override])
    for part in parts:
        assert part in str(caught.value)


def test_a_method_is_chosen_before_its_settings_whatever_the_order_of_the_overrides() -> None:
    model = load_recipe("digits", ["model.width=2", "model.depth=16", "model.name=wide_resnet"]).model
    assert (model.name, model.width, model.depth) == ("wide_resnet", 2, 16)


def test_a_changed_recipe_loses_the_claim_and_another_seed_or_place_of_the_data_keeps_it() -> None:
    assert load_recipe("cifar100-wrn28-10", ["seed=3", "data.source=parquet:here"]).claim is not None
    assert load_recipe("cifar100-wrn28-10", ["train.epochs=1"]).claim is None
