"""The learning-rate range test: its arithmetic on curves with known answers, and what it does with real recipes."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.optim import SCHEDULES
from groundup.recipe import Recipe, load_recipe
from groundup.runs.lr_find import LRRange, RateKeys, draw, lr_find, ramp, report, smooth
from groundup.runs.prepare import build_job, build_network, make_plan, open_data, with_measured_constants
from groundup.runs.train import Run
from groundup.tracking import Tracker
from groundup.training import Job, TrainingState, choose_engine

RATES = np.geomspace(1e-6, 10, 400)


def seen(losses: Any) -> LRRange:
    return LRRange.of(RATES[: len(losses)].tolist(), list(losses))


def falling(middle: float, noise: float = 0.0) -> Any:
    """From 2.3 to 0.3, fastest at the rate `middle`."""
    random = np.random.default_rng(0)
    fall = 2.3 - 2 / (1 + np.exp(-3 * np.log(RATES / middle)))
    return fall + noise * random.standard_normal(len(RATES))


def test_the_running_mean_is_corrected_for_having_begun_at_nothing() -> None:
    # By hand, beta 0.8: (0.8 * 1 + 4) / 1.8, then (0.64 * 1 + 0.8 * 4 + 10) / 2.44.
    assert smooth([1, 4, 10]) == pytest.approx([1, 4.8 / 1.8, 13.84 / 2.44])
    assert smooth([2.5] * 50) == pytest.approx([2.5] * 50)


@pytest.mark.parametrize("middle", [1e-4, 3e-3, 0.2])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_steepest_fall_is_found_where_it_is(middle: float, noise: float) -> None:
    # The smoothed loss is 4 steps late, a factor of 1.17 at this density of steps.
    assert seen(falling(middle, noise)).steepest == pytest.approx(1.17 * middle, rel=0.5 if noise else 0.15)


def test_a_fall_from_a_later_peak_is_not_the_steepest_fall() -> None:
    losses = falling(1e-3)
    losses[330:350] += 3.0  # up, and down again much faster than the loss ever fell
    steepest = seen(losses).steepest
    assert steepest == pytest.approx(1.17e-3, rel=0.15)


def test_a_jump_in_the_first_or_last_points_is_ignored() -> None:
    losses = falling(1e-3)
    losses[:3] += 5.0
    losses[-3:] -= 0.2
    assert seen(losses).steepest == pytest.approx(1.17e-3, rel=0.15)


def test_noise_alone_has_no_steepest_fall_and_the_remark_says_what_to_do() -> None:
    for seed in range(20):
        found = seen(2.3 + 0.1 * np.random.default_rng(seed).standard_normal(400))
        assert found.steepest is None
        assert "raise --to" in found.remarks()[0]


def test_a_fall_hidden_in_noise_is_called_uncertain() -> None:
    hidden, clear = (seen(4 + 0.2 * falling(1e-3, noise)) for noise in (2.0, 0.5))
    assert hidden.steepest is not None
    assert any("uncertain" in remark for remark in hidden.remarks())
    assert not any("uncertain" in remark for remark in clear.remarks())


def test_a_loss_above_four_times_the_minimum_is_a_divergence() -> None:
    just_below, above = [1.0] * 40 + [3.9] * 40, [1.0] * 40 + [4.2] * 40
    assert seen(just_below).diverged_at is None
    assert seen(just_below).tenth is None
    found = seen(above)
    assert found.diverged_at == RATES[79]
    assert found.tenth == pytest.approx(RATES[79] / 10)


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_divergence_and_no_number_in_json(last: float) -> None:
    found = seen([*falling(1e-4)[:300], last])
    assert found.diverged_at == RATES[300]
    assert found.steepest == pytest.approx(1.17e-4, rel=0.15)
    result = json.loads(json.dumps(report(load_recipe("digits"), found), allow_nan=False))
    assert result["losses"][-1] is None
    assert result["smoothed"][-2] == pytest.approx(0.3, abs=0.01)


def test_a_tenth_of_divergence_beyond_the_lowest_loss_is_called_too_high() -> None:
    late, soon = falling(1e-5)[:395], falling(1e-2)[:300]
    late[150:] += 0.5
    assert any("probably too high" in remark for remark in seen([*late, math.nan]).remarks())
    assert not any("too high" in remark for remark in seen([*soon, math.nan]).remarks())


def test_too_few_steps_before_a_divergence_give_no_slope() -> None:
    found = seen([2.3, 2.2, 2.1, 50.0])
    assert (found.steepest, found.diverged_at) == (None, RATES[3])
    assert "lower --from" in found.remarks()[0]


SETTINGS: dict[str, str] = {
    "constant": "{name: constant, lr: 0.1}",
    "linear": "{name: linear, lr: 0.1}",
    "cosine": "{name: cosine, lr: 0.1, warmup: 1ep}",
    "one_cycle": "{name: one_cycle, max_lr: 0.1}",
    "trapezoid": "{name: trapezoid, lr: 0.1}",
    "step": "{name: step, lr: 0.1, milestones: [0.5dur]}",
    "cosine_restarts": "{name: cosine_restarts, lr: 0.1, period: 5ep, growth: 2}",
    "ramp": "{name: ramp, start_lr: 0.1, lr: 0.00001}",
    "exponential": "{name: exponential, lr: 0.1, gamma: 0.9}",
    "polynomial": "{name: polynomial, lr: 0.1, power: 2}",
    "inverse_sqrt": "{name: inverse_sqrt, lr: 0.1, warmup: 1ep}",
    "plateau": "{name: plateau, lr: 0.1, metric: train_loss}",
    "sequence": "{name: sequence, parts: [{schedule: {name: constant, lr: 0.00001}, length: 5ep}, "
    "{schedule: {name: cosine, lr: 0.1}}]}",
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("lr", [3e-5, 0.0123, 7.0])
def test_the_override_sets_the_highest_rate_of_the_run(name: str, lr: float) -> None:
    recipe = load_recipe("digits", [f"schedule={SETTINGS[name]}"])
    override = RateKeys.of(recipe).override(lr)
    assert override is not None
    changed = load_recipe("digits", [f"schedule={SETTINGS[name]}", override])
    assert changed.schedule.peak == pytest.approx(lr, rel=0.05)


def test_every_schedule_has_one_key_for_its_highest_rate() -> None:
    for schedule in SETTINGS.values():
        recipe = load_recipe("digits", [f"schedule={schedule}"])
        key = RateKeys.of(recipe).key
        value: Any = recipe
        for part in str(key).split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        assert value == recipe.schedule.peak


def test_parts_that_share_the_highest_rate_have_no_single_key() -> None:
    parts = "[{schedule: {name: ramp, start_lr: 0.01, lr: 0.1}, length: 5ep}, {schedule: {name: cosine, lr: 0.1}}]"
    keys = RateKeys.of(load_recipe("digits", [f"schedule={{name: sequence, parts: {parts}}}"]))
    assert keys.override(0.2) is None
    (remark,) = keys.remarks([0.2, None])
    assert "no single key" in remark
    assert "schedule.parts.0.schedule.lr=0.1" in remark
    assert "schedule.parts.1.schedule.lr=0.1" in remark


def test_the_key_of_a_phase_is_found_and_the_rates_that_stay_are_named() -> None:
    phase = "phases=[{from: 0.5dur, set: {schedule: {name: constant, lr: 0.2}}}]"
    keys = RateKeys.of(load_recipe("digits", [phase]))
    override = keys.override(0.3)
    assert override == "phases.0.set.schedule.lr=0.3"
    assert keys.remarks([0.3, None]) == ["other rates of the recipe stay as they are: schedule.max_lr=0.05"]
    changed = load_recipe("digits", [phase, override]).phases[0].set.schedule
    assert changed is not None
    assert changed.peak == 0.3


def test_no_override_is_given_that_another_rate_would_outdo() -> None:
    keys = RateKeys.of(load_recipe("digits", ["schedule={name: cosine, lr: 0.1, final_lr: 0.01}"]))
    assert keys.override(0.02) == "schedule.lr=0.02"
    assert keys.override(0.005) is None
    assert keys.remarks([0.005, 0.02])[0] == "schedule.lr alone cannot bring the highest rate down to 0.005"


class Told(Tracker):
    """Keeps what it is told."""

    def __init__(self, at_step: Callable[[], None] = lambda: None) -> None:
        self.lrs: list[float] = []
        self._at_step = at_step

    def step(self, record: Any) -> None:
        self.lrs.append(record["lr"])
        self._at_step()


SMALL = ["train={batch_size: 50, threads: 1, epochs: 2}", "data.limit=200", "track.tensorboard=false"]


class Small(nn.Module):
    """A network that takes a fraction of a millisecond per image, with what the optimizers and methods look for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(72, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images))


def prepared(*overrides: str) -> tuple[Job, TrainingState]:
    recipe = load_recipe("digits", [*SMALL, *overrides])
    splits = open_data(recipe, StopRequest())
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    engine = choose_engine(recipe.train, 100)
    engine.activate()
    return build_job(plan, engine, build_network(plan, engine, Small()), lambda: None)


def ramped(job: Job, state: TrainingState, start: float = 1e-6, end: float = 1e-2, steps: int = 20) -> LRRange:
    return ramp(job, state, start=start, end=end, steps=steps, stop=StopRequest(), tracker=Tracker())


def small(*overrides: str) -> Recipe:
    return load_recipe("digits", [*SMALL, "train.batch_size=10", "model.width=8", *overrides])


def test_the_same_seed_gives_the_same_losses_and_another_seed_others() -> None:
    first, again, other = (lr_find(small(f"seed={seed}"), steps=20, end=0.1) for seed in (1, 1, 2))
    assert first == again
    assert first.losses != other.losses


def test_the_rate_rises_exponentially_from_start_to_end_in_more_steps_than_the_recipe_has() -> None:
    told = Told()
    recipe = small("train.epochs=1", "data.limit=100")
    found = lr_find(recipe, start=1e-5, end=0.1, steps=21, tracker=told)
    assert told.lrs == list(found.lrs) == pytest.approx(np.geomspace(1e-5, 0.1, 21).tolist())


@pytest.mark.parametrize("decay", [20, 2000])
def test_weight_decay_that_blows_weights_up_diverges_where_theory_says(decay: int) -> None:
    # Plain SGD multiplies a decaying weight by 1 - lr * decay: it grows without end from lr = 2 / decay on.
    found = ramped(*prepared(f"optimizer={{name: sgd, weight_decay: {decay}}}"), end=10, steps=140)
    assert found.diverged_at is not None
    assert 2 / decay < found.diverged_at < 5 * 2 / decay
    assert len(found.losses) < 140


def test_every_group_gets_its_multiple_of_the_rate_and_the_momentum_of_the_peak() -> None:
    schedule = "schedule={name: one_cycle, max_lr: 0.1, rise: 0.5dur, cycle_momentum: true}"
    job, state = prepared("optimizer.head_lr_scale=3", schedule)
    ramped(job, state, end=0.1)
    groups = {group["name"]: group for group in state.optimizer.param_groups}
    assert groups["filters"]["lr"] == pytest.approx(0.1)
    assert groups["head"]["lr"] == pytest.approx(0.3)
    assert groups["filters"]["momentum"] == pytest.approx(0.85)


def test_accumulated_micro_batches_make_one_step() -> None:
    job, state = prepared("train.micro_batch=20")
    found = ramped(job, state)
    assert (state.images, len(found.losses)) == (20 * 50, 20)


@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer={name: adamw}",
        "optimizer={name: muon}",
        "optimizer.sam={rho: 0.05}",
        "mix={methods: [{name: mixup}]}",
        "schedule={name: plateau, lr: 0.1, metric: train_loss, patience: 1ep}",
        "average={name: ema, horizon: 1ep}",
    ],
)
def test_the_loss_falls_under_every_kind_of_recipe(overrides: str) -> None:
    found = ramped(*prepared(overrides), start=1e-4, end=0.1, steps=30)
    assert all(map(math.isfinite, found.losses))
    assert min(found.smoothed) < found.smoothed[4] - 0.2


def test_sam_takes_part_from_the_start_or_not_at_all() -> None:
    def passes(sam: str) -> float:
        job, state = prepared(f"optimizer.sam={sam}")
        ramped(job, state)
        return state.flops / (3 * job.flops[8] * state.images)

    assert passes("{rho: 0.05}") == 2
    assert passes("{rho: 0.05, every: 2step}") == 1.5
    assert passes("{rho: 0.05, from: 0.5dur}") == 1  # would begin in the middle of the ramp


def test_a_phase_that_begins_later_does_not_change_the_test() -> None:
    phase = "phases=[{from: 0.5dur, set: {loss.label_smoothing: 0.9}}]"
    assert ramped(*prepared()) == ramped(*prepared(phase))
    assert ramped(*prepared()) != ramped(*prepared(phase.replace("0.5dur", "0ep")))


def test_images_that_are_decoded_on_demand_are_cut_as_in_the_first_step_and_also_beyond_the_run() -> None:
    cut = "augment.policy=[{name: random_resized_crop}]"
    on_demand = [cut, "data.cache=none", "data.limit=100", "train.epochs=1"]  # 10 steps
    phase = "phases=[{from: 0.2dur, set: {augment.policy: []}}]"
    plain, phased = (lr_find(small(*on_demand, *more), start=1e-4, end=0.1, steps=21) for more in ([], [phase]))
    assert len(plain.losses) == 21
    assert phased == plain
    assert plain != lr_find(small(*on_demand[1:], "augment.policy=[]"), start=1e-4, end=0.1, steps=21)


def test_loss_scaling_goes_through_the_ramp() -> None:
    job, state = prepared()
    engine = replace(job.engine, precision="fp16")  # a CPU can compute so, if slowly; recipes may not ask it to
    state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    found = ramped(replace(job, engine=engine), state, start=1e-4, end=0.1, steps=30)
    assert all(map(math.isfinite, found.losses))
    assert min(found.smoothed) < found.smoothed[4] - 0.2


def test_a_loss_that_is_not_a_number_before_the_first_update_is_no_matter_of_the_rate() -> None:
    job, state = prepared()
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(GroundupError, match="the loss is nan before the first update: no learning rate can help"):
        ramped(job, state)


@pytest.mark.parametrize(
    ("range_", "words"),
    [
        ({"start": 0.0}, "--from 0 --to 10"),
        ({"start": 1.0, "end": 0.1}, "0 < from < to"),
        ({"end": math.inf}, "--to inf"),
        ({"start": math.nan}, "--from nan"),
        ({"steps": 19}, "--steps 19: too few"),
    ],
)
def test_a_range_that_is_none_is_refused(range_: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lr_find(small(), **range_)


def test_a_request_to_stop_ends_the_test_at_the_next_step() -> None:
    class StopNow(StopRequest):
        asked: Interrupted | None = None

        @property
        def pending(self) -> Interrupted | None:
            return self.asked

    stop = StopNow()
    told = Told(lambda: setattr(stop, "asked", Interrupted("SIGINT", 130)) if len(told.lrs) == 3 else None)
    with pytest.raises(Interrupted):
        lr_find(small(), steps=20, stop=stop, tracker=told)
    assert len(told.lrs) == 3


def test_a_run_whose_recipe_is_tested_stays_as_it_is(finished: Run, tmp_path: Path, monkeypatch: Any) -> None:
    def content() -> dict[Path, tuple[bytes, int]]:
        files = [path for path in finished.folder.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    monkeypatch.chdir(tmp_path)
    before = content()
    lr_find(load_recipe(str(finished.folder / "recipe.yaml")), steps=20)
    assert content() == before
    assert list(tmp_path.iterdir()) == []


def test_the_picture_takes_a_numbered_name_where_its_own_is_taken(tmp_path: Path) -> None:
    mine = tmp_path / "lr-find.png"
    mine.write_text("mine")
    found = seen([*falling(1e-3)[:350], 40.0, math.nan])
    assert draw(found, mine, "digits").name == "lr-find-2.png"
    assert draw(found, mine, "digits").name == "lr-find-3.png"
    assert mine.read_text() == "mine"
    assert (tmp_path / "lr-find-2.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_was_not_finished_leaves_nothing_behind(tmp_path: Path) -> None:
    stop = StopRequest(max_seconds=0)
    with pytest.raises(Interrupted):
        draw(seen(falling(1e-3)), tmp_path / "lr-find.png", "digits", stop.check)
    assert list(tmp_path.iterdir()) == []
