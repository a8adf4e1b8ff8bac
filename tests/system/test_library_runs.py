"""Every recipe of the library from its data to its summary: real images, tiny networks, and all that it plans in a few steps."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import groundup
from groundup.basis.duration import Clock, Duration
from groundup.data import load_splits
from groundup.models import count_parameters, forward_flops
from groundup.recipe import Recipe, library, load_recipe, validate
from groundup.runs.prepare import first_job, make_plan, with_measured_constants
from groundup.tracking import read
from groundup.training import NoAverage, SampleOrder, train_step

SMALL = {
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "preact_resnet18": {"width": 8},
    "wide_resnet": {"depth": 10, "width": 1},
    "speed_net": {"widths": [8, 16, 24], "middles": [8, 16, 16]},
}
# Source of a recipe -> the data it is run on here, and the number of training images that its durations are meant for.
SOURCES = {
    "digits": ("digits", 1_437),
    "hub:uoft-cs/cifar10": ("cifar", 50_000),
    "hub:uoft-cs/cifar100": ("cifar", 50_000),
    "hub:ILSVRC/imagenet-1k": ("imagenette", 1_281_167),
    "hub:frgfm/imagenette": ("imagenette", 9_469),
}
# A recipe for every kind of network, and the millions of parameters of its full size for 100 classes (photographs: 10).
FULL_SIZE = {
    "000-base-resnet34": 21.33,
    "003-preact-sgd-basic": 11.22,
    "cifar100-resnet18": 11.22,
    "cifar100-speed": 8.61,
    "cifar100-wrn28-10": 36.54,
    "imagenet-resnet50-16ep": 23.53,
}
SIDE = 64  # of the images that the recipes for photographs get, in px
DURATION = re.compile(r"[\d.]+(?:e[+-]?\d+)?(?:ep|step)")


@dataclass(frozen=True)
class Scale:
    """How small the runs are: images of every source, images per step, steps."""

    classes: int
    each: int  # training images of a class
    tested: int
    batch: int
    steps: int


QUICK = Scale(classes=64, each=4, tested=100, batch=16, steps=8)
ONE_STEP = Scale(classes=64, each=4, tested=100, batch=2, steps=8)
SLOW = Scale(classes=100, each=20, tested=500, batch=64, steps=60)


def _write(source: list[Path], split: str, folder: Path, label: str, classes: int, each: int, limit: int) -> None:
    """The first `each` images of each of the first `classes` classes, at most `limit`, as one Parquet file."""
    tables, count = [], np.zeros(1000, dtype=int)
    for batch in (batch for file in source for batch in pq.ParquetFile(file).iter_batches(200)):
        labels = batch.column(label).to_numpy()
        kept = []
        for row, number in enumerate(labels.tolist()):
            if number < classes and count[number] < each and count.sum() < limit:
                kept.append(row)
                count[number] += 1
        tables.append(pa.Table.from_batches([batch]).take(kept))
        if count.sum() == min(limit, classes * each):
            break
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.concat_tables(tables), folder / f"{split}-00000-of-00001.parquet")


def _sources(folder: Path, real: Path, scale: Scale) -> dict[str, Path]:
    cifar, photos = real / "cifar100", real / "imagenette"
    everything = 10**6
    _write(
        sorted(cifar.glob("train-*")), "train", folder / "cifar", "fine_label", scale.classes, scale.each, everything
    )
    _write(sorted(cifar.glob("test-*")), "test", folder / "cifar", "fine_label", scale.classes, 50, scale.tested)
    few, tested = scale.classes * scale.each // 4, scale.tested // 3
    _write(sorted(photos.glob("train-*")), "train", folder / "imagenette", "label", 10, math.ceil(few / 10), few)
    _write(sorted(photos.glob("validation-*")), "validation", folder / "imagenette", "label", 10, tested, tested)
    return {"cifar": folder / "cifar", "imagenette": folder / "imagenette"}


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def made() -> dict[Scale, dict[str, Path]]:
    """The sources that were written so far."""
    return {}


Sources = Callable[[Scale], dict[str, Path]]


@pytest.fixture
def sources(
    made: dict[Scale, dict[str, Path]], datasets_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Sources:
    """sources(scale): folders with real images of CIFAR-100 and Imagenette, as Parquet, written at the first call."""

    def write(scale: Scale) -> dict[str, Path]:
        if scale not in made:
            made[scale] = _sources(tmp_path_factory.mktemp("sources"), datasets_folder, scale)
        return made[scale]

    return write


def shortened(value: Any, per_epoch: float, per_step: float) -> Any:
    """`value`, a recipe or a part of it, with all durations in epochs and steps in the new run's steps: at least one, unless 0."""
    if isinstance(value, dict):
        return {key: shortened(part, per_epoch, per_step) for key, part in value.items()}
    if isinstance(value, list):
        parts = [shortened(part, per_epoch, per_step) for part in value]
        return _one_after_the_other(parts) if parts and parts != value and isinstance(parts[0], str) else parts
    if not isinstance(value, str) or not DURATION.fullmatch(value):
        return value
    old = Duration.parse(value)
    steps = old.value * (per_epoch if old.unit == "ep" else per_step)
    return f"{max(1, round(steps)) if steps else 0}step"


def _one_after_the_other(milestones: list[str]) -> list[str]:
    """Steps that rounding has thrown together, one apart."""
    steps: list[int] = []
    for milestone in milestones:
        steps.append(max(int(milestone.removesuffix("step")), steps[-1] + 1 if steps else 1))
    return [f"{step}step" for step in steps]


def small(name: str, folders: dict[str, Path], scale: Scale, *, network: bool = True) -> Recipe:
    """The recipe of that name with few real images and few steps, in which all that it plans happens, and a tiny `network`."""
    original = load_recipe(name)
    kind, meant_for = SOURCES[original.data.source]
    values = original.model_dump(mode="json", by_alias=True)
    # Only what a phase sets may be written.
    values["phases"] = [
        {"from": str(phase.start), "set": phase.set.model_dump(mode="json", by_alias=True, exclude_unset=True)}
        for phase in original.phases
    ]
    steps_meant = original.train.epochs * meant_for * (1 - original.data.validation) / original.train.batch_size
    values = shortened(values, scale.steps / original.train.epochs, scale.steps / steps_meant)
    values["model"] |= SMALL[original.model.name] if network else {}
    values["data"] |= {"limit": 256} if kind == "digits" else {"source": f"parquet:{folders[kind]}"}
    if original.data.source.endswith("cifar10"):
        values["data"]["label"] = "fine_label"
    values["train"] |= {"device": "cpu", "precision": "fp32", "threads": 1, "batch_size": scale.batch}
    if original.train.micro_batch is not None:
        # Mixing pairs images inside groups of 64.
        values["train"] |= (
            {"batch_size": 64, "micro_batch": 64} if original.mix.active else {"micro_batch": scale.batch * 3 // 4}
        )
    if original.data.resolution is not None:
        _shrink(values, SIDE / original.data.resolution)
    values["track"] |= {"tensorboard": False}
    if original.stop.early is not None:
        # Nothing counts as better, so that patience, counted from the first evaluation, runs out just before the end.
        values["stop"]["early"] |= {
            "min_gain": never_gained(original.stop.early.metric),
            "patience": f"{scale.steps - 2}step",
        }
    if original.schedule.name == "plateau":
        values["schedule"] |= {"threshold": never_gained(original.schedule.metric), "threshold_mode": "abs"}
    recipe = validate(values)
    train = load_splits(recipe.data).train
    order = SampleOrder(
        0,
        torch.from_numpy(train.labels),
        batch_size=recipe.train.batch_size,
        drop_last=recipe.train.drop_last,
        balanced=recipe.train.sampling == "balanced",
    )
    values["train"]["epochs"] = scale.steps / order.steps_per_epoch
    return validate(values)


def never_gained(metric: str) -> float:
    """More than the metric can get better by: an accuracy is a fraction, and does not go from 0 to 1 in some steps."""
    return 0.999 if metric.endswith("top1") else 1e9


def _shrink(values: dict[str, Any], factor: float) -> None:
    """All resolutions of a recipe, times `factor`."""
    values["data"]["resolution"] = SIDE
    for section in (values["train"], *(phase["set"] for phase in values["phases"])):
        for key in ("resolution", "train.resolution"):
            if section.get(key) is not None:
                section[key] = round(section[key] * factor)


@dataclass(frozen=True)
class Planned:
    """What the recipe says of update number `step`, worked out from its phases by hand."""

    resolution: int
    label_smoothing: float
    dropout: float | None
    mixed: float | None


def planned(recipe: Recipe, clock: Clock, side: int, step: int) -> Planned:
    """`side`: of the images, in px."""
    mixes = recipe.mix.active or any(phase.set.mix is not None and phase.set.mix.active for phase in recipe.phases)
    touches_dropout = any(phase.set.dropout is not None for phase in recipe.phases)
    resolution, smoothing, mix = recipe.train.resolution or side, recipe.loss.label_smoothing, recipe.mix
    dropout = getattr(recipe.model, "dropout", None)
    for phase in recipe.phases:
        if clock.steps(phase.start) <= step:
            resolution = phase.set.resolution or resolution
            smoothing = smoothing if phase.set.label_smoothing is None else phase.set.label_smoothing
            dropout = dropout if phase.set.dropout is None else phase.set.dropout
            mix = phase.set.mix or mix
    mixed = (1 - mix.clean if mix.methods else 0.0) if mixes else None
    return Planned(resolution, smoothing, dropout if touches_dropout else None, mixed)


def check_run(name: str, folders: dict[str, Path], scale: Scale, folder: Path) -> None:
    recipe = small(name, folders, scale)
    splits = load_splits(recipe.data)
    assert splits.test is not None
    run = groundup.train(recipe, run=folder)
    summary, lines = run.summary, read(folder / "metrics.jsonl")
    per_epoch = round(scale.steps / recipe.train.epochs)
    clock, last = Clock(per_epoch, scale.steps), summary["steps"]

    stops = recipe.stop.early is not None
    assert clock.total_steps == recipe.clock(per_epoch).total_steps
    assert last == (scale.steps - 1 if stops else scale.steps)
    assert str(summary["ended"]).startswith("early: ") if stops else summary["ended"] is None
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (summary["recipe"], summary["seed"], summary["reported_on"]) == (recipe.name, recipe.seed, "test")
    assert summary["train_images"] == len(splits.train)
    assert summary["images"] == len(splits.test)
    assert 0 <= summary["top1_interval"][0] <= summary["top1"] <= summary["top1_interval"][1] <= 1
    assert math.isfinite(summary["nll"])
    assert summary["skipped_updates"] == summary["bad_images"] == 0

    every = max(1, clock.steps(recipe.evaluate.every))
    due = [step for step in range(1, last + 1) if step % every == 0 or step == scale.steps]
    assert [line["step"] for line in lines] == due
    assert all(math.isfinite(line["train_loss"]) for line in lines)
    for line in lines:
        keys = ("resolution", "label_smoothing", "dropout", "mixed")
        assert Planned(*map(line.get, keys)) == planned(recipe, clock, splits.image_size, line["step"] - 1)

    _check_cost(recipe, clock, splits.image_size, summary, lines[-1])
    _check_selection(recipe, folder, summary, lines)


def _check_cost(recipe: Recipe, clock: Clock, side: int, summary: dict[str, Any], line: dict[str, Any]) -> None:
    """Every step costs what its resolution, its images and SAM make it cost."""
    with torch.device("meta"):
        network = recipe.model.build(summary["classes"])
    sam, flops = recipe.optimizer.sam, 0
    cost = functools.cache(lambda resolution: forward_flops(network, resolution))
    for step in range(summary["steps"]):
        passes = 2 if sam is not None and sam.is_due(step, clock) else 1
        images = recipe.train.batch_size
        if not recipe.train.drop_last and (step + 1) % clock.steps_per_epoch == 0:
            images = summary["train_images"] - images * (clock.steps_per_epoch - 1)
        flops += 3 * passes * images * cost(planned(recipe, clock, side, step).resolution)
    assert summary["pflop"] == line["pflop"] == pytest.approx(flops / 1e15, rel=1e-9)


def _check_selection(recipe: Recipe, folder: Path, summary: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """What was averaged is reported, what was watched acted, and what chose on test says so."""
    averaged = not isinstance(recipe.average, NoAverage)
    assert summary["weights"] == ("average" if averaged and recipe.evaluate.weights != "model" else "model")
    saved = folder / "checkpoints" / ("best" if recipe.evaluate.model == "best" else "last")
    assert (saved / "average.safetensors").exists() == averaged
    measured = recipe.data.validation > 0 or recipe.evaluate.optimistic
    assert ("validation_top1" in lines[-1]) == measured
    assert ("average_validation_top1" in lines[-1]) == (measured and averaged)
    watches = [*recipe.stop.metrics.values(), *recipe.schedule.metrics_needed]
    chooses = recipe.evaluate.model == "best" or any("validation" in metric for metric in watches)
    assert summary["optimistic"] == (recipe.evaluate.optimistic and chooses)
    assert ("test" in summary["selected_on"]) == summary["optimistic"]
    if recipe.schedule.name == "plateau":
        assert lines[-1]["lr"] < recipe.schedule.peak


@pytest.mark.parametrize("name", library())
def test_every_recipe_runs_from_its_data_to_its_summary(name: str, sources: Sources, tmp_path: Path) -> None:
    check_run(name, sources(QUICK), QUICK, tmp_path / "run")


def test_every_kind_of_network_is_tried_at_its_full_size() -> None:
    assert {load_recipe(name).model.name for name in FULL_SIZE} == {load_recipe(name).model.name for name in library()}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_networks_of_the_library_make_a_step_at_their_full_size(name: str, sources: Sources) -> None:
    recipe = small(name, sources(ONE_STEP), ONE_STEP, network=False)
    splits = load_splits(recipe.data)
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    job, state = first_job(plan, lambda: None)
    before = [parameter.detach().clone() for parameter in state.model.parameters() if parameter.ndim > 1]
    assert math.isfinite(train_step(job, state))
    after = [parameter for parameter in state.model.parameters() if parameter.ndim > 1]
    assert state.step == 1
    assert all(new.isfinite().all() for new in after)
    assert sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True)) >= len(after) - 2
    assert count_parameters(state.model) / 1e6 == pytest.approx(FULL_SIZE[name], abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("name", library())
def test_every_recipe_runs_on_2000_images(name: str, sources: Sources, tmp_path: Path) -> None:
    check_run(name, sources(SLOW), SLOW, tmp_path / "run")
