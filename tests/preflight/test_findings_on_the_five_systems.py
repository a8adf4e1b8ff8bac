"""The mistakes of the five systems in their recipes as run, and none of them in the corrected ones."""

import pytest

from groundup.preflight.averages import check_averages
from groundup.preflight.findings import Finding
from groundup.preflight.schedule import check_schedule
from groundup.preflight.subject import subject_of
from groundup.preflight.times import check_times
from groundup.recipe import library, load_recipe

IMAGES = {"digits": 1437, "imagenette-resnet50": 9469}
IMAGENET = 1_281_167

# Errors and warnings of the schedule, of averages, of stopping and selection.
MISTAKES: dict[str, set[str]] = {
    # bugs 1 to 4: the rate of the warm-up is lost, 25 steps for 25 epochs, the end inside a cycle, all choices on test
    "000-session-02-as-run": {"GU101", "GU102", "GU106", "GU501"},
    "000-session-04-as-run": {"GU101", "GU102", "GU106", "GU501"},
    # its three base recipes cycle the momentum unawares, a note
    "000-base-resnet18-as-run": set(),
    "000-base-resnet34-as-run": set(),
    "000-base-wrn-as-run": set(),
    # bug 1: the best epoch on test
    "001-as-run": {"GU501"},
    # bug 1: the cosine that never ran; bug 2: the plateau watches the test split
    "002-constant-as-run": {"GU106"},
    "002-cosine-as-run": {"GU106"},
    "002-plateau-as-run": {"GU501"},
    # bug 4: stopped on test
    **{
        f"003-{network}-{optimizer}-{policy}-as-run": {"GU501"}
        for network in ("preact", "resnet18")
        for optimizer in ("sgd", "adamw")
        for policy in ("basic", "advanced")
    },
    "004-as-run": {"GU501"},
    # bug 4: the rate climbs while weights are averaged
    "004-swa-as-run": {"GU501", "GU514"},
}
# What the corrected recipes and our own are told about themselves: choices, not mistakes.
NOTES: dict[str, set[str]] = {
    "000-base-resnet18-as-run": {"GU107"},
    "000-base-resnet34-as-run": {"GU107"},
    "000-base-wrn-as-run": {"GU107"},
    "001-as-run": {"GU107"},
    "002-constant": {"GU106"},
}


def found(name: str, *overrides: str) -> list[Finding]:
    recipe = load_recipe(name, overrides)
    images = IMAGENET if "imagenet-1k" in recipe.data.source else IMAGES.get(name, 50_000)
    subject = subject_of(recipe, train_images=images)
    return check_schedule(subject) + check_averages(subject) + check_times(subject)


def codes(findings: list[Finding], *levels: str) -> set[str]:
    return {finding.code for finding in findings if finding.level in levels}


@pytest.mark.parametrize("name", library())
def test_a_recipe_has_the_mistakes_that_are_known_of_it_and_no_others(name: str) -> None:
    findings = found(name)
    assert codes(findings, "error", "warning") == MISTAKES.get(name, set()), findings
    assert codes(findings, "note") == NOTES.get(name, set()), findings


def test_the_table_speaks_of_all_recipes_as_run_and_of_no_others() -> None:
    assert set(MISTAKES) == {name for name in library() if name.endswith("-as-run")}
    assert set(NOTES) <= set(library())


def test_the_warm_up_that_filled_the_run_of_a_shortened_try() -> None:
    """004, bug 12: five epochs of warm-up, and a run of six."""
    assert "GU104" in codes(found("004", "schedule.warmup=5ep", "train.epochs=6"), "warning")


def test_the_average_of_a_decay_that_suits_another_length() -> None:
    """004, bug 1, its smaller half: 0.9999 a step is a horizon of 10000 steps, and the try had some epochs."""
    short = ["train.epochs=5", "average={name: ema, horizon: 10000step, warmup: false}"]
    assert "GU511" in codes(found("004", *short), "warning")


def test_the_base_rate_that_a_rate_finder_left_behind() -> None:
    """000, bug 14: one cycle from 1e-6."""
    findings = found("000-base-resnet18", "schedule.max_lr=0.1265", "schedule.div_factor=126500")
    assert codes(findings, "note") == {"GU105"}


def test_the_average_with_a_rate_above_the_cosines() -> None:
    """004, bugs 4 and 9, with the settings of groundup: the average's own rate cuts the cosine off and is above it."""
    findings = found("004-swa", "average.lr=0.01")
    assert codes(findings, "warning") == {"GU514"}
    assert codes(findings, "note") == {"GU515"}
