"""Preflight: everything that can be known of a run before it begins, in seconds. Trains nothing, makes no run folder.

In order: the recipe against its data; the checks that need no image; the images; what the network is shown; its first passes; the
cost. What is found has a code (`groundup.preflight.CODES`), and `check.ignore` in the recipe leaves out what is known and meant.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from groundup.basis.errors import UsageError
from groundup.basis.files import cache_home
from groundup.basis.interruption import StopRequest
from groundup.basis.machine import used_memory
from groundup.data import Splits
from groundup.models import count_parameters
from groundup.preflight import (
    CODES,
    LEVELS,
    Cost,
    FeatureSize,
    Finding,
    Samples,
    Start,
    check_cost,
    check_data,
    check_samples,
    check_start,
    feature_sizes,
    in_order,
    readable_bytes,
    readable_time,
    see_samples,
    static_findings,
    without_ignored,
)
from groundup.recipe import Recipe
from groundup.runs.cost.batch_size import with_batch_size
from groundup.runs.cost.estimate import estimate
from groundup.runs.cost.measure import differing, measure, overfit
from groundup.runs.prepare import (
    Plan,
    build_job,
    build_network,
    make_plan,
    open_data,
    subject_with,
    told_in_tenths,
    with_measured_constants,
)
from groundup.tracking import Tracker
from groundup.training import Engine, Job, choose_engine

_MOST_LINES = 12  # of findings on the screen; the page has them all
# A network that does not fit the data, or batches that torch refuses: there is no pass to measure.
_CANNOT_GO_ON = ("GU203", "GU204", "GU205", "GU210")


@dataclass(frozen=True)
class Report:
    """What a check found. `layers`: per input size in px, what every module gives, (name, channels, height, width); `ignored`:
    findings that `check.ignore` leaves out."""

    plan: Plan
    engine: Engine
    job: Job
    parameters: int
    findings: list[Finding]
    ignored: list[Finding]
    start: Start
    cost: Cost
    samples: Samples
    layers: dict[int, list[FeatureSize]]

    @property
    def recipe(self) -> Recipe:
        """The recipe, with what was measured of the data."""
        return self.plan.recipe

    def count(self, level: str) -> int:
        """How many findings are of `level`."""
        return sum(finding.level == level for finding in self.findings)

    @property
    def verdict(self) -> str:
        """Such as `no errors, 2 warnings, 1 note`."""
        counts = {level: self.count(level) for level in LEVELS}
        return ", ".join(f"{count or 'no'} {level}{'' if count == 1 else 's'}" for level, count in counts.items())

    def facts(self) -> dict[str, str]:
        """What the run is and takes, in words, under short headings."""
        recipe, clock, splits, cost = self.recipe, self.plan.clock, self.plan.splits, self.cost
        sizes = " -> ".join(f"{size} px" for size in self.plan.live.resolutions())
        held = f", {len(splits.validation):,} for validation" if splits.validation is not None else ""
        assert splits.test is not None
        engine = self.engine
        price = "" if cost.price is None else f"; {cost.price:,.2f} at {cost.per_hour:g} an hour"
        memory, disk = cost.memory, cost.disk
        return {
            "data": f"{len(splits.train):,} training images of {splits.image_size} px, {len(splits.classes)} classes{held}, "
            f"{len(splits.test):,} for the test",
            "network": f"{recipe.model.name}, {self.parameters:,} parameters, {sizes}, "
            f"{3 * max(self.job.flops.values()) / 1e9:.3g} GFLOP per training image",
            "length": f"{recipe.train.epochs:g} epochs, {clock.total_steps:,} steps of {recipe.train.batch_size} images, "
            f"{cost.train_flops / 1e15:.3g} PFLOP and {cost.evaluation_flops / 1e15:.2g} for evaluation",
            "time": f"about {readable_time(cost.seconds)}, and {readable_time(cost.evaluation_seconds)} for evaluation, "
            f"on {engine.device} ({engine.precision}, {engine.threads} thread{'s' * (engine.threads > 1)}){price}",
            "measured": f"{_step_times(cost)}; {cost.how}",
            "needs": f"about {readable_bytes(memory.needed)} of memory ({readable_bytes(memory.free)} free) and "
            f"{readable_bytes(disk.needed)} of disk ({readable_bytes(disk.free)} free)",
            "first loss": f"{self.start.loss:.3f}; a network that knows nothing pays {self.start.reference:.3f}"
            f"{_learned(self.start)}",
        }

    def memory(self) -> dict[str, int]:
        """Bytes of memory by what they are for."""
        memory = self.cost.memory
        activations = {f"activations of {memory.images} images": memory.per_image * memory.images}
        return {**memory.fixed, **(activations if memory.per_image else {})}

    def lines(self) -> list[str]:
        """The report for a terminal: what the run takes, and the gravest findings."""
        facts = self.facts()
        shown = [f"{self.recipe.name}: {facts['data']}"]
        shown += [f"{what:<10} {facts[what]}" for what in ("network", "length", "time", "needs", "first loss")]
        for finding in self.findings[:_MOST_LINES]:
            shown.append(f"{finding.level:<7} {finding.code} {CODES[finding.code].title}: {finding.saw}")
            if finding.mend:
                shown.append(f"        mend: {finding.mend}")
        if len(self.findings) > _MOST_LINES:
            shown.append(f"... {len(self.findings) - _MOST_LINES} more on the page")
        silenced = f"; {len(self.ignored)} left out by check.ignore" if self.ignored else ""
        return [*shown, f"{self.verdict}{silenced}"]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        cost, memory, disk = self.cost, self.cost.memory, self.cost.disk
        return {
            "recipe": self.recipe.name,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "findings": [_as_dict(finding) for finding in self.findings],
            "ignored": [_as_dict(finding) for finding in self.ignored],
            "parameters": self.parameters,
            "steps": cost.clock.total_steps,
            "cost": {
                "pflop": cost.train_flops / 1e15,
                "evaluation_pflop": cost.evaluation_flops / 1e15,
                "seconds": cost.seconds,
                "evaluation_seconds": cost.evaluation_seconds,
                "step_seconds": {str(size): seconds for size, seconds in cost.step_seconds.items()},
                "how": cost.how,
                "memory": {"bytes": memory.needed, "free": memory.free, "total": memory.total},
                "disk": {"bytes": disk.needed, "checkpoints": disk.kept, "free": disk.free},
                "price": cost.price,
            },
            "start": {
                **asdict(self.start),
                "loss": _finite(self.start.loss),
                "overfit": [*map(_finite, self.start.overfit)],
            },
            "samples": {
                "range": list(self.samples.span),
                "black_and_white": list(self.samples.saturated),
                "black_and_white_before": list(self.samples.saturated_before),
            },
            "engine": self.engine.to_dict(),
        }


def check(
    recipe: Recipe,
    *,
    learn_by_heart: bool = False,
    stop: StopRequest | None = None,
    tracker: Tracker | None = None,
    model: nn.Module | None = None,
    data: Splits | None = None,
) -> Report:
    """Look at a run that has not begun. `learn_by_heart`: also train on one small batch; `model`, `data`: your own, as in `train`.

    UsageError, as from `train`, for a recipe that cannot run at all. `tracker` is told what is going on.
    """
    stop, tracker = stop or StopRequest(), tracker or Tracker()
    program = used_memory()
    without_ignored([], recipe.check.ignore)
    splits = data or open_data(recipe, stop, told_in_tenths(tracker, recipe.data))
    recipe = with_batch_size(with_measured_constants(recipe, splits), splits, tracker.message, stop.check, model)
    plan = make_plan(recipe, splits)
    chosen = choose_engine(plan.recipe.train, plan.clock.total_steps)
    engine = replace(chosen, compiled=False)
    engine.activate()
    network = build_network(plan, engine, model)
    subject = subject_with(plan, network)
    findings = static_findings(subject)
    for finding in findings:
        if finding.code in _CANNOT_GO_ON and finding.level == "error":
            raise UsageError(f"{finding.code} {CODES[finding.code].title}: {finding.saw}", hint=finding.mend or None)
    stop.check()
    findings += check_data(subject, cache_home() / "preflight", stop.check)
    stop.check()
    job, state = build_job(plan, engine, network, stop.check)
    samples = see_samples(subject)
    findings += check_samples(subject, samples)
    layers = _layers(network, plan)
    stop.check()
    twin = build_network(plan, engine) if model is None else None
    unlike = () if twin is None else differing(network, twin)
    measured = measure(job, state)
    by_heart = overfit(job, twin or network) if learn_by_heart else ()
    start = replace(measured.start, differing=unlike, overfit=by_heart)
    cost = estimate(plan, job, state, measured, program, Path("runs"))
    if chosen.compiled:
        cost = replace(cost, how=f"{cost.how}; not compiled, which the run will be")
    told, ignored = without_ignored(in_order([*findings, *check_start(start), *check_cost(cost)]), recipe.check.ignore)
    return Report(plan, chosen, job, count_parameters(network), told, ignored, start, cost, samples, layers)


def _layers(network: nn.Module, plan: Plan) -> dict[int, list[FeatureSize]]:
    try:
        return {size: feature_sizes(network, size) for size in plan.live.resolutions()}
    except Exception:  # a network of one's own may raise anything; GU210 says what
        return {}


def _step_times(cost: Cost) -> str:
    return ", ".join(f"{seconds:.3g} s per step at {size} px" for size, seconds in cost.step_seconds.items())


def _learned(start: Start) -> str:
    if not start.overfit:
        return ""
    return f"; {len(start.overfit)} steps on one small batch: {start.overfit[0]:.3f} -> {start.overfit[-1]:.3g}"


def _as_dict(finding: Finding) -> dict[str, str]:
    code = CODES[finding.code]
    return {**asdict(finding), "title": code.title, "why": code.why}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
