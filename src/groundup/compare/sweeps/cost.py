"""What a sweep will cost before anything starts: PFLOP of every run that is known, from its recipe and the size of its data.

The data is opened once for each way it is read; images that have not been decoded yet are decoded into the cache, where the
runs find them.
"""

from dataclasses import dataclass
from pathlib import Path

from groundup.basis.errors import GroundupError
from groundup.basis.interruption import StopRequest
from groundup.compare.sweeps.plan import overrides_of, planned_points, run_name
from groundup.compare.sweeps.space import Point
from groundup.compare.sweeps.sweep_file import Sweep
from groundup.data import Splits
from groundup.models import build_model, forward_flops
from groundup.preflight import steps_by_size, train_flops
from groundup.recipe import Recipe, load_recipe
from groundup.runs.prepare import make_plan, open_data, with_measured_constants


@dataclass(frozen=True)
class Planned:
    """A run that will be. `pflop`: its training compute; None, with `problem`, where it cannot be known."""

    name: str
    point: Point
    seed: int
    pflop: float | None
    problem: str | None = None


def planned_runs(sweep: Sweep, base: Path | str, stop: StopRequest) -> list[Planned]:
    """Every run of a grid or a random sweep, in order; none of a search, whose runs nobody knows yet."""
    opened: dict[str, Splits] = {}
    runs = []
    for number, point in enumerate(planned_points(sweep)):
        pflop, problem = None, None
        try:
            recipe = load_recipe(str(base), overrides_of(sweep, point, sweep.seed_list[0], None))
            pflop = pflop_of(recipe, opened, stop)
        except GroundupError as error:
            problem = error.message
        runs += [Planned(run_name(number, seed), point, seed, pflop, problem) for seed in sweep.seed_list]
    return runs


def pflop_of(recipe: Recipe, opened: dict[str, Splits], stop: StopRequest) -> float:
    """PFLOP of training `recipe`. `opened`: data that is open already, under its settings; added to."""
    stop.check()
    key = recipe.data.model_dump_json()
    if key not in opened:
        opened[key] = open_data(recipe, stop)
    splits = opened[key]
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    network = build_model(recipe.model, num_classes=len(splits.classes), seed=recipe.seed)
    sizes = steps_by_size(plan.live, plan.clock, recipe.optimizer.sam)
    forward = {size: forward_flops(network, size) for size in plan.live.resolutions()}
    whole = plan.clock.steps_per_epoch
    images = recipe.train.batch_size if recipe.train.drop_last else len(splits.train) / whole
    return train_flops(sizes, forward, images) / 1e15
