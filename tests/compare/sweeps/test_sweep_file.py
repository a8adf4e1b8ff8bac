"""A sweep file says what is wrong with it: key, value, what is allowed, the fix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.basis.errors import UsageError
from groundup.compare.sweeps.plan import check_plan, overrides_of, planned_points
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.recipe import load_recipe

from ..conftest import FIXED

SHIPPED = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))
Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gird": {}}, ["gird", "unknown key", "did you mean grid"]),
        ({"grid": None}, ["exactly one of grid, random, search", "none"]),
        ({"random": {"count": 2, "space": {"schedule.lr": {"low": 0.1, "high": 1}}}}, ["exactly one", "grid, random"]),
        ({"metric": "test_top1"}, ["metric='test_top1'", "allowed", "validation_top1"]),
        ({"grid": {"schedule.lr": {"low": 0.1, "high": 1.0}}}, ["grid.schedule.lr", "a list"]),
        ({"grid": {"schedule.lr": [0.1, 0.1]}}, ["grid.schedule.lr", "twice"]),
        ({"grid": {"rate": [0.1]}}, ["rate", "neither a recipe key"]),
        ({"grid": {"data.limit": [100, 200]}}, ["data.limit", "both fixed and varied"]),
        ({"grid": None, "random": {"count": 2, "space": {"schedule.lr": {"low": 1, "high": 0.1}}}}, ["low below high"]),
        (
            {"grid": None, "random": {"count": 2, "space": {"schedule.lr": {"low": 0, "high": 1, "log": True}}}},
            ["schedule.lr", "low above 0"],
        ),
        ({"grid": None, "search": {"space": {"schedule.lr": {"low": 0.1, "high": 1}}}}, ["search", "budget.runs"]),
        ({"prune": {"name": "median"}}, ["prune", "only a search prunes"]),
        ({"prune": {"name": "medain"}}, ["prune.name='medain'", "did you mean 'median'"]),
        (
            {
                "grid": None,
                "search": {
                    "space": {"size": {"small": {"train": {"batch_size": 20}}, "large": {"train.batch_size": 50}}}
                },
                "budget": {"runs": 4},
                "prune": {"name": "median"},
            },
            ["prune", "train.batch_size", "same step"],
        ),
        (
            {
                "grid": None,
                "search": {"space": {"train.epochs": {"low": 1, "high": 9}}},
                "budget": {"runs": 4},
                "prune": {"name": "hyperband"},
            },
            ["prune", "train.epochs"],
        ),
        ({"rules": [{"when": {"schedule.lr": 0.07}, "set": {"loss.label_smoothing": 0}}]}, ["rules.0.when", "0.02"]),
        ({"storage": "mysql://x/y"}, ["storage", "postgresql://"]),
        ({"storage": "postgresql://me:secret@host/db"}, ["password", "PGPASSWORD"]),
        ({"seeds": 0}, ["seeds"]),
        ({"fixed": {"seed": 3}}, ["seed", "`seeds`"]),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_allowed(
    sweep_file: Write, changes: dict[str, Any], told: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        read_sweep(sweep_file(**changes))
    assert [part for part in told if part not in str(error.value)] == []


def test_cma_es_refuses_what_it_cannot_vary(sweep_file: Write) -> None:
    search = {"sampler": "cma_es", "space": {"model.width": [8, 16]}}
    with pytest.raises(UsageError, match=r"model\.width is none; use tpe"):
        read_sweep(sweep_file(grid=None, search=search, budget={"runs": 3}))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.validation=0", "the test split is not for choosing"),
        ("evaluate.optimistic=true", "may not choose on the test split"),
        ("metric=average_validation_top1", "keeps no average"),
        ("train.epoch=3", "did you mean train.epochs"),
    ],
)
def test_a_sweep_that_could_not_be_compared_is_refused_before_it_starts(
    sweep_file: Write, override: str, told: str
) -> None:
    sweep = read_sweep(sweep_file(), [override])
    with pytest.raises(UsageError, match=told):
        check_plan(sweep, sweep.base)


@pytest.mark.parametrize(
    ("override", "told"), [("train.epochs=[", "not valid YAML"), ("train={epochs: 2, epochs: 3}", "stands twice")]
)
def test_a_mistyped_override_is_told_as_one(sweep_file: Write, override: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        read_sweep(sweep_file(), [override])
    assert repr(override) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {
                "grid": {
                    "schedule.lr": [0.02, 0.05],
                    "how": {"slow": {"schedule.lr": 0.01}, "fast": {"schedule.lr": 0.1}},
                }
            },
            r"configuration 000 .*'slow'.* and configuration 002 .*'slow'.* are the same recipe",
        ),
        (
            {"rules": [{"when": {"schedule.lr": [0.02, 0.05]}, "set": {"schedule.lr": 0.1}}]},
            r"configuration 000 .* and configuration 001 .* are the same recipe",
        ),
        ({"fixed": {**FIXED, "optimizer": {"name": "adamw"}}, "grid": {"optimizer.name": ["sgd", "muon"]}}, "the same"),
    ],
)
def test_an_axis_without_effect_is_refused(sweep_file: Write, changes: dict[str, Any], told: str) -> None:
    sweep = read_sweep(sweep_file(**changes))
    with pytest.raises(UsageError, match=told):
        check_plan(sweep, sweep.base)


def test_a_section_of_an_axis_wins_over_a_key_of_fixed_and_a_key_of_an_axis_over_a_section(sweep_file: Write) -> None:
    bundles = {
        "steady": {"schedule": {"name": "constant", "lr": 0.1}},
        "cosine": {"schedule": {"name": "cosine", "lr": 0.2}},
    }
    sweep = read_sweep(sweep_file(grid={"how": bundles}), ["schedule.lr=0.05"])
    rates = [load_recipe("digits", overrides_of(sweep, point, 0, None)).schedule.lr for point in planned_points(sweep)]
    assert rates == [0.1, 0.2]
    for order in (["how", "schedule.lr"], ["schedule.lr", "how"]):
        axes = {
            "schedule.lr": [0.3, 0.4],
            "how": {name: {"schedule": {"name": name}} for name in ("constant", "cosine")},
        }
        sweep = read_sweep(sweep_file(grid={key: axes[key] for key in order}))
        recipes = [load_recipe("digits", overrides_of(sweep, point, 0, None)) for point in planned_points(sweep)]
        assert {(one.schedule.name, one.schedule.lr) for one in recipes} == {
            (name, rate) for name in ("constant", "cosine") for rate in (0.3, 0.4)
        }


def test_what_a_sweep_varies_is_known_to_the_key(sweep_file: Write) -> None:
    grid = {"data.resize": ["crop", "squash"], "how": {"a": {"train": {"precision": "bf16"}}, "b": {"model.width": 16}}}
    rules = [{"when": {"how": "a"}, "set": {"augment": {"policy": []}}}]
    sweep = read_sweep(sweep_file(grid=grid, rules=rules))
    varied = ("data", "data.resize", "train", "train.precision", "model.width", "augment.policy")
    assert [key for key in varied if not sweep.varies(key)] == []
    assert not any(sweep.varies(key) for key in ("data.source", "data.res", "train.batch_size", "how", "schedule"))


def test_overrides_reach_the_sweep_or_every_run(sweep_file: Write) -> None:
    sweep = read_sweep(sweep_file(), ["seeds=[4, 7]", "budget.runs=3", "train.epochs=9", "name=other"])
    assert (sweep.seed_list, sweep.budget.runs, sweep.name) == ((4, 7), 3, "other")
    recipe = load_recipe("digits", overrides_of(sweep, {"schedule.lr": 0.02}, 4, None))
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.seed) == (9, 50, 4)


def test_bundles_conditions_and_rules_make_the_overrides_of_each_cell(sweep_file: Write) -> None:
    grid = {
        "optimizer": {
            "sgd": {"optimizer.name": "sgd"},
            "adamw": {"optimizer": {"name": "adamw", "weight_decay": 0.05}},
        },
        "optimizer.momentum": {"choice": [0.8, 0.9], "when": {"optimizer": "sgd"}},
        "model.width": [8, 16],
    }
    rules = [{"when": {"optimizer": "adamw", "model.width": [8, 16]}, "set": {"schedule.lr": 0.001}}]
    sweep = read_sweep(sweep_file(grid=grid, rules=rules))
    points = planned_points(sweep)
    assert len(points) == 2 * 2 + 2
    assert all(("optimizer.momentum" in point) == (point["optimizer"] == "sgd") for point in points)
    recipe = load_recipe("digits", overrides_of(sweep, points[-1], 1, 2))
    assert recipe.optimizer.name == "adamw"
    assert recipe.schedule.lr == 0.001
    assert (recipe.model.width, recipe.seed, recipe.train.threads) == (16, 1, 2)


def test_random_points_follow_from_seed_and_number_alone(sweep_file: Write) -> None:
    space = {
        "schedule.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "model.width": {"low": 8, "high": 64, "int": True, "log": True},
        "loss.label_smoothing": {"choice": [0.0, 0.1]},
    }
    drawn = {"count": 30, "space": space}
    points = planned_points(read_sweep(sweep_file(grid=None, random=drawn)))
    fewer = planned_points(read_sweep(sweep_file(grid=None, random={**drawn, "count": 7})))
    other = planned_points(read_sweep(sweep_file(grid=None, random={**drawn, "draw_seed": 1})))
    assert points[:7] == fewer
    assert points != other
    assert all(1e-4 <= point["schedule.lr"] <= 1 and point["model.width"] in range(8, 65) for point in points)
    assert sum(point["schedule.lr"] < 1e-2 for point in points) in range(8, 23)  # evenly in the logarithm


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_sweep_is_valid(path: Path) -> None:
    sweep = read_sweep(path)
    check_plan(sweep, sweep.base)


def test_the_sweep_that_the_page_shows_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text()
    (tmp_path / "rates.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    sweep = read_sweep(tmp_path / "rates.yaml")
    check_plan(sweep, sweep.base)
    assert len(planned_points(sweep)) == 6


def test_the_sweeps_of_the_issue_are_shipped() -> None:
    assert {path.stem for path in SHIPPED} >= {"002-learning-rate-strategies", "003-grid", "cifar100-speed-search"}
