"""The mistakes of the five systems in their recipes as run, and none of them in the corrected ones: every check but those of the
data, the cost and the first steps, which need the real thing."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from groundup.data import ImageSet, Splits
from groundup.preflight import CODES, Subject, check_samples, see_samples, static_findings, subject_of
from groundup.preflight.findings import Finding
from groundup.preflight.five_systems import MISTAKES, Mistake
from groundup.recipe import Recipe, library, load_recipe

IMAGENET = 1_281_167
SIDE, DRAWN = 32, 400
# What the corrected recipes and our own are told about themselves: choices, not mistakes.
NOTES: dict[str, set[str]] = {
    "002-constant": {"GU106"},
}


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Noise with about the mean and the deviation of photographs."""
    noise = np.random.default_rng(0).normal(118, 64, (DRAWN, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    whole = ImageSet.whole(noise, np.arange(DRAWN) % 100)
    return Splits(whole, None, whole, [str(number) for number in range(100)], SIDE, fingerprint="noise")


def without_images(recipe: Recipe) -> Subject:
    """The run with its network, without weights."""
    large = "imagenet" in recipe.data.source
    side, classes, images = (recipe.data.resolution or 256, 1000, IMAGENET) if large else (32, 100, 50_000)
    if recipe.name == "digits":
        side, classes, images = 8, 10, 1437
    if recipe.name == "imagenette-resnet50":
        classes, images = 10, 9469
    subject = subject_of(recipe, train_images=images, classes=classes, image_size=side)
    with torch.device("meta"):
        return replace(subject, network=recipe.model.build(classes))


def of_samples(recipe: Recipe, splits: Splits) -> list[Finding]:
    """What is said of the images that the network is shown, on few of them, and small ones."""
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"resolution": None})})
    subject = replace(subject_of(recipe, train_images=DRAWN, image_size=SIDE), splits=splits)
    return check_samples(subject, see_samples(subject, count=8, steps=20))


@cache
def static(name: str, *overrides: str) -> list[Finding]:
    return static_findings(without_images(load_recipe(name, overrides)))


def codes(findings: list[Finding], *levels: str) -> set[str]:
    return {finding.code for finding in findings if finding.level in (levels or ("error", "warning", "note"))}


AS_RUN = [name for name in library() if name.endswith("-as-run")]


@pytest.mark.parametrize("name", AS_RUN)
def test_a_recipe_as_run_is_told_of_its_mistakes_and_of_nothing_else(name: str, splits: Splits) -> None:
    rows = [row for row in MISTAKES if name in row.recipes and not row.overrides]
    findings = static(name) + of_samples(load_recipe(name), splits)
    assert codes(findings) == {code for row in rows for code in row.codes}, findings


@pytest.mark.parametrize("row", [row for row in MISTAKES if row.overrides], ids=lambda row: row.bugs)
def test_a_mistake_that_no_recipe_holds_is_found_where_it_is_made(row: Mistake) -> None:
    for name in row.recipes:
        assert set(row.codes) <= codes(static(name, *row.overrides))
        assert not set(row.codes) & codes(static(name))


@pytest.mark.parametrize("name", [name for name in library() if name not in AS_RUN])
def test_a_corrected_recipe_is_told_of_nothing_graver_than_a_note(name: str, splits: Splits) -> None:
    recipe = load_recipe(name)
    findings = static(name)
    if name != "digits" and name[:3].isdigit():
        findings = findings + of_samples(recipe, splits)
    assert codes(findings, "error", "warning") == set(), findings
    times = {code for code in codes(findings, "note") if code[2] in "15"}
    assert times == NOTES.get(name, set()), findings


def test_the_table_speaks_of_all_recipes_as_run_and_of_codes_at_the_level_that_they_are_told() -> None:
    assert {name for row in MISTAKES for name in row.recipes if not row.overrides} == set(AS_RUN)
    assert set(NOTES) <= set(library())
    for row in MISTAKES:
        for name in row.recipes:
            for finding in static(name, *row.overrides):
                if finding.code in row.codes:
                    assert finding.level == CODES[finding.code].level, (row.bugs, name, finding)
