"""Which runs a sweep has: configurations, each with every seed. For a grid and a random sweep a pure function of the file.

A run is named NUMBER-seedSEED after its configuration, counted from 0, and trains the base recipe with `overrides_of` it. The
thread count is part of the plan: a CPU's results depend on it, so it must not depend on who trains the run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.machine import usable_cores
from groundup.compare.sweeps.space import Point, grid_points, random_points, written
from groundup.compare.sweeps.sweep_file import Sweep
from groundup.recipe import Recipe, load_recipe


def planned_points(sweep: Sweep) -> list[Point]:
    """The configurations that are known before anything runs: none of a search's."""
    if sweep.grid is not None:
        return grid_points(sweep.grid)
    if sweep.random is not None:
        return random_points(sweep.random.space, sweep.random.count, sweep.random.draw_seed)
    return []


def run_name(number: int, seed: int) -> str:
    """The name of a run, and of its folder."""
    return f"{number:03d}-seed{seed}"


def overrides_of(sweep: Sweep, point: Point, seed: int, threads: int | None) -> list[str]:
    """The overrides of the base recipe that make the run: whole sections first, then single keys."""
    settings: dict[str, Any] = {**sweep.settings_at(point), "seed": seed}
    if threads is not None:
        settings["train.threads"] = threads
    ordered = sorted(settings.items(), key=lambda pair: pair[0].count("."))
    return [f"{key}={written(value)}" for key, value in ordered]


def threads_of(sweep: Sweep, base: Recipe) -> int | None:
    """CPU threads of every run: this machine's cores divided among the workers. None where the recipe or `fixed` says."""
    fixed = sweep.fixed.get("train")
    said = "train.threads" in sweep.fixed or (isinstance(fixed, Mapping) and "threads" in fixed)
    if said or base.train.threads is not None:
        return None
    return max(1, usable_cores() // sweep.workers)


def check_recipe(sweep: Sweep, recipe: Recipe, where: str) -> None:
    """UsageError where a run could not be compared on a validation split."""
    if recipe.evaluate.optimistic:
        raise UsageError(
            f"{where}: evaluate.optimistic=true: a sweep chooses among runs, and may not choose on the test split",
            hint="fixed: {evaluate.optimistic: false, data.validation: 0.1}",
        )
    if recipe.train.finds_batch_size:
        raise UsageError(
            f"{where}: train.batch_size=auto: the runs of a sweep may meet different amounts of free memory, and so differ by it",
            hint="`groundup check` says which batch fits; fixed: {train.batch_size: 128}",
        )
    if sweep.metric.startswith("average_") and recipe.average.name == "none":
        raise UsageError(
            f"metric={sweep.metric}: {where} keeps no average of its weights",
            hint="metric: validation_top1, or an average such as fixed: {average: {name: ema}}",
        )
    reports_average = recipe.average.name != "none" and recipe.evaluate.weights != "model"
    if reports_average and not sweep.metric.startswith("average_"):
        raise UsageError(
            f"metric={sweep.metric}: {where} reports the average of its weights, and this is the metric of the trained ones",
            hint=f"metric: average_{sweep.metric}, or fixed: {{evaluate.weights: model}}",
        )
    if sweep.metric.startswith("average_") and not reports_average:
        raise UsageError(
            f"metric={sweep.metric}: {where} reports the trained weights (evaluate.weights=model)",
            hint=f"metric: {sweep.metric.removeprefix('average_')}",
        )
    if recipe.data.validation == 0 and recipe.data.kind in ("digits", "arrays", "hub", "parquet"):
        raise UsageError(
            f"{where}: data.validation=0: {sweep.metric} needs a validation split; the test split is not for choosing",
            hint="fixed: {data.validation: 0.1}",
        )


def check_plan(sweep: Sweep, base: str | Path) -> Recipe:
    """The recipe of the first run. UsageError for a base recipe or a cell of a grid that is no recipe, and for two equal cells.
    Drawn and proposed values are judged when they run."""
    points = planned_points(sweep) if sweep.kind == "grid" else [{}]
    first: Recipe | None = None
    known: dict[str, str] = {}  # recipe -> configuration
    for number, point in enumerate(points):
        where = f"configuration {number:03d} {point}" if point else "the base recipe"
        try:
            recipe = load_recipe(str(base), overrides_of(sweep, point, sweep.seed_list[0], None))
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
        check_recipe(sweep, recipe, where)
        first = first or recipe
        if (same := known.setdefault(recipe.model_dump_json(), where)) != where:
            raise UsageError(
                f"{same} and {where} are the same recipe: an axis has no effect",
                hint="a later axis or a rule sets the same key again, or two of its labels mean the same",
            )
    assert first is not None
    return first
