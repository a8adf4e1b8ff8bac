"""The recipes that come with groundup, and that a recipe survives being written and read."""

from collections.abc import Callable

import pytest

from groundup.recipe import library, load_recipe, source_text, to_yaml

FIRST = {"digits", "cifar10-speed", "cifar100-speed", *(f"cifar100-speed-{percent}" for percent in (73, 75, 78))}
SWEEP = {
    f"003-{network}-{optimizer}-{policy}"
    for network in ("resnet18", "preact")
    for optimizer in ("sgd", "adamw")
    for policy in ("basic", "advanced")
}
SYSTEMS = {
    *("000-session-02", "000-session-04", "000-base-resnet18", "000-base-resnet34", "000-base-wrn"),
    *("001", "002-constant", "002-cosine", "002-plateau", *SWEEP, "004", "004-swa"),
}
NEVER_RAN = {"000-session-05"}
BETTER = {
    *("cifar100-resnet18", "cifar100-resnet18-ema", "cifar100-resnet18-swa", "cifar100-resnet50"),
    *("cifar100-wrn28-10", "cifar100-wrn28-10-trivial", "cifar100-wrn28-10-sam"),
    *("imagenet-resnet50-16ep", "imagenet-resnet50-40ep", "imagenet-resnet50-88ep", "imagenet-resnet50-a3"),
    "imagenette-resnet50",
}
LONGEST_LINE = 144  # a header is read in a terminal


def test_the_library_is_what_was_promised_and_nothing_else() -> None:
    as_run = {f"{name}-as-run" for name in SYSTEMS}
    assert set(library()) == FIRST | SYSTEMS | as_run | NEVER_RAN | BETTER


@pytest.mark.parametrize("name", library())
def test_no_line_of_a_library_recipe_is_too_long_to_read(name: str) -> None:
    assert max(map(len, source_text(name).splitlines())) <= LONGEST_LINE


@pytest.mark.parametrize("name", library())
def test_every_library_recipe_loads_under_its_own_name_and_says_what_it_is_for(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about.endswith(".")


def test_the_speed_recipe_and_the_one_named_by_its_target_are_the_same() -> None:
    one, other = (
        load_recipe(name).model_dump(exclude={"name", "about"}) for name in ("cifar100-speed", "cifar100-speed-73")
    )
    assert one == other


@pytest.mark.parametrize("name", library())
def test_a_recipe_written_out_and_read_again_is_equal(name: str, write: Callable[[str, str], str]) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write("again.yaml", to_yaml(recipe))) == recipe


def test_a_recipe_with_every_kind_of_value_survives_being_written_and_read(write: Callable[[str, str], str]) -> None:
    overrides = [
        "about='Zwölf: #5, \"ja\"'",
        "data.limit=100",
        "augment.policy=[{name: flip}, {name: cutout, size: 2}]",
        "phases=[{from: 0.5dur, set: {train.resolution: 6}}, {from: 7step, set: {augment.policy: []}}]",
        "train.clip_norm=1e-3",
        "evaluate.every=3step",
        "claim={top1: 0.98, source: measured}",
    ]
    recipe = load_recipe("digits", overrides)
    assert load_recipe(write("again.yaml", to_yaml(recipe))) == recipe
    assert recipe.phases[1].set.model_fields_set == {"policy"}


def test_the_written_recipe_names_every_default() -> None:
    text = to_yaml(load_recipe("digits"))
    for key in ("clip_norm: null", "on_bad_image: fail", "split_seed: 0", "keep: 2"):
        assert key in text


@pytest.mark.parametrize("name", [name for name in library() if name.startswith("cifar100")])
def test_the_cifar100_recipes_name_the_fine_labels(name: str) -> None:
    assert load_recipe(name).data.label == "fine_label"


def test_the_text_of_a_library_recipe_is_shown_as_written() -> None:
    assert source_text("digits").startswith("#")
    assert "schedule:" in source_text("digits")
