"""Systems 000 and 001 in the library: as run they do what their logs say, corrected they do what was meant.

The plans are made over a split of CIFAR-100's size, so that steps and epochs are those of the real runs.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR

from groundup.augment import (
    Batch,
    CoarseDropout,
    ColorJitter,
    GaussianNoise,
    OneOf,
    RandomResizedCrop,
    ShiftScaleRotate,
)
from groundup.basis.duration import Clock
from groundup.basis.seeding import generator
from groundup.data import ImageSet, Splits
from groundup.recipe import Recipe, load_recipe
from groundup.runs.prepare import Plan, make_plan
from groundup.training import Rates

CORRECTED_ONLY = ("000-session-05",)
BOTH = ("000-session-02", "000-session-04", "000-base-resnet18", "000-base-resnet34", "000-base-wrn", "001")
CORRECTED = BOTH + CORRECTED_ONLY
AS_RUN = tuple(f"{name}-as-run" for name in BOTH)
SESSIONS = ("000-session-02", "000-session-04")

# Learning rate at the end of an epoch, as the log of session 02 prints it.
LOGGED = {6: 0.000712, 7: 0.002398, 8: 0.004739, 10: 0.009055, 30: 0.010000, 99: 0.000139, 100: 0.001045}


@cache
def recipe(name: str) -> Recipe:
    return load_recipe(name)


@cache
def plan(name: str) -> Plan:
    """The plan over 50,000 black images of 32 px, of which the recipe's share is held back."""
    held_back = round(50_000 * recipe(name).data.validation)

    def part(count: int) -> ImageSet:
        black = np.broadcast_to(np.zeros((1, 32, 32, 3), np.uint8), (count, 32, 32, 3))
        return ImageSet.whole(black, np.arange(count) % 100)

    classes = [str(number) for number in range(100)]
    validation = part(held_back) if held_back else None
    return make_plan(recipe(name), Splits(part(50_000 - held_back), validation, part(10_000), classes, 32, "black"))


@cache
def learning_rates(name: str) -> list[float]:
    """Of every update of the run."""
    return [plan(name).rates.at(step).lr for step in range(plan(name).clock.total_steps)]


def values(name: str) -> dict[str, Any]:
    """Every setting under `section.key`; phases are one setting."""
    sections = recipe(name).model_dump(mode="json", by_alias=True, exclude={"name", "about", "claim"})
    flat: dict[str, Any] = {}
    for section, content in sections.items():
        flat |= {f"{section}.{key}": value for key, value in content.items()} if isinstance(content, dict) else {}
        flat |= {} if isinstance(content, dict) else {section: content}
    return flat


@pytest.mark.parametrize("name", CORRECTED + AS_RUN)
def test_every_recipe_passes_the_checks_before_the_first_step(name: str) -> None:
    assert plan(name).recipe.name == name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("000-session-02", "data.validation augment.policy schedule.parts stop.early evaluate.optimistic"),
        ("000-session-04", "data.validation augment.policy schedule.parts phases stop.early evaluate.optimistic"),
        ("000-base-resnet18", "model.stem augment.policy schedule.cycle_momentum train.precision"),
        ("000-base-resnet34", "model.stem augment.policy schedule.cycle_momentum train.precision"),
        ("000-base-wrn", "augment.policy schedule.cycle_momentum train.precision"),
        ("001", "augment.policy schedule.cycle_momentum train.precision evaluate.model evaluate.optimistic"),
    ],
)
def test_as_run_and_corrected_differ_in_these_settings_and_no_others(name: str, keys: str) -> None:
    corrected, as_run = values(name), values(f"{name}-as-run")
    assert {key for key in corrected if corrected[key] != as_run[key]} == set(keys.split())


@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "total"),
    [
        ("000-session-02-as-run", 196, 19_600),
        ("000-session-04-as-run", 196, 19_600),
        ("001-as-run", 196, 39_200),
        ("001", 196, 39_200),
        ("000-base-resnet18-as-run", 391, 15_640),
        ("000-session-02", 176, 17_600),  # 45,000 images
    ],
)
def test_the_short_last_batch_is_kept_so_that_steps_are_theirs(name: str, steps_per_epoch: int, total: int) -> None:
    assert plan(name).clock == Clock(steps_per_epoch, total)


@pytest.mark.parametrize("epoch", LOGGED)
def test_session_02_as_run_has_the_learning_rates_of_its_log(epoch: int) -> None:
    # The log prints the rate that was set for the next update; after the last epoch there is one more than was made.
    rates = Rates.of(recipe("000-session-02-as-run").schedule, (), Clock(196, 19_600 + 1))
    assert f"{rates.at(epoch * 196).lr:.6f}" == f"{LOGGED[epoch]:.6f}"


@cache
def simulated(peak: float, cycle: int, low: float, second: int | None) -> list[float]:
    """The rate of every update when schedulers are stepped after each of them: a warm-up by hand to `peak` in 980 steps, restarts
    after `cycle` steps, made before the warm-up; from epoch 61 on, if `second` is given, a cosine of that many."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler: Any = CosineAnnealingWarmRestarts(optimizer, T_0=cycle, eta_min=low)
    group, rates = optimizer.param_groups[0], []
    optimizer.step()  # once, so that torch does not warn: the rates are what counts
    for step in range(19_600):
        if second is not None and step == 60 * 196:
            scheduler = CosineAnnealingLR(optimizer, T_max=second, eta_min=1e-5)
        rates.append(group["lr"])
        if step < 980:
            group["lr"] = 0.01 + (peak - 0.01) * step / 980
        else:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "settings"),
    [("000-session-02-as-run", (0.1, 25, 1e-4, None)), ("000-session-04-as-run", (0.15, 20, 5e-4, 40))],
)
def test_a_session_as_run_has_the_rate_that_torch_gives_its_loop(name: str, settings: Any) -> None:
    ours, theirs = learning_rates(name), simulated(*settings)
    # Their warm-up lags by one update, as the headers of the recipes say.
    assert ours[:980] == pytest.approx(theirs[1:981])
    assert ours[980] == 0.01
    assert ours[981:] == pytest.approx(theirs[981:], rel=1e-6)
    assert max(ours[980:]) == 0.01, "the peak of the warm-up is never seen again"


def test_session_04_as_run_falls_and_climbs_back_every_80_steps_from_epoch_61_on() -> None:
    rates = learning_rates("000-session-04-as-run")[60 * 196 :]
    assert rates[0] == rates[80] == 0.01
    assert rates[40] == pytest.approx(1e-5)
    assert rates[20] == pytest.approx(rates[60])
    assert len({round(rate, 9) for rate in rates}) == 41


@pytest.mark.parametrize(
    ("name", "peak", "starts", "lows"),
    [
        ("000-session-02", 0.1, (5, 25, 50, 75), (1e-4,) * 4),
        ("000-session-04", 0.15, (5, 20, 40, 60), (5e-4, 5e-4, 5e-4, 1e-5)),
        ("000-session-05", 0.1, (5, 25, 50), (1e-4, 1e-4, 1e-5)),
    ],
)
def test_corrected_sessions_reach_their_peak_in_every_cycle_and_end_at_the_bottom_of_one(
    name: str, peak: float, starts: tuple[int, ...], lows: tuple[float, ...]
) -> None:
    rates, per_epoch = learning_rates(name), plan(name).clock.steps_per_epoch
    assert rates[0] == 0.01
    assert max(rates) == peak
    assert [rates[epoch * per_epoch] for epoch in starts] == [peak] * len(starts)
    ends = [*(epoch * per_epoch for epoch in starts[1:]), len(rates)]
    assert [rates[end - 1] for end in ends] == pytest.approx(lows, rel=0.05)
    falling = zip([epoch * per_epoch for epoch in starts], ends, strict=True)
    assert all(rates[first:end] == sorted(rates[first:end], reverse=True) for first, end in falling)


@pytest.mark.parametrize(("name", "holes"), [("000-session-04", (8, 6, 4)), ("000-session-04-as-run", None)])
def test_the_phases_of_session_04_begin_at_their_epochs(name: str, holes: tuple[int, ...] | None) -> None:
    live, epoch = plan(name).live, plan(name).clock.steps_per_epoch
    expected = {  # first epoch, counted from 1: MixUp's alpha, dropout, label smoothing, operations
        1: (0.2, 0.3, 0.1, 5),
        41: (0.15, 0.3, 0.1, 4),
        51: (0.15, 0.2, 0.05, 4),
        71: (None, 0.2, 0.05, 2),
        81: (None, 0.1, 0.05, 2),
    }
    lasts = [*(first - 1 for first in list(expected)[1:]), 100]
    for (first, wanted), last in zip(expected.items(), lasts, strict=True):
        for step in ((first - 1) * epoch, last * epoch - 1):
            now = live.at(step)
            alphas = [method.alpha for method in now.mix.methods]
            assert (alphas[0] if alphas else None, now.dropout, now.label_smoothing, len(now.policy)) == wanted
    cut = [hole_sides(live.at(first * epoch).policy) for first in (0, 40, 70)]
    assert cut == ([{side} for side in holes] if holes else [{3, 4, 5, 6}] * 3)


def test_session_05_changes_once() -> None:
    live = plan("000-session-05").live
    assert [first for first, _ in live.changes] == [60 * 176]
    before, after = live.at(60 * 176 - 1), live.at(60 * 176)
    assert (before.dropout, after.dropout) == (0.3, 0.2)
    assert (before.mix.methods[0].alpha, after.mix.methods[0].alpha) == (0.2, 0.15)
    assert before.label_smoothing == after.label_smoothing == 0.1
    assert (hole_sides(before.policy), hole_sides(after.policy)) == ({8}, {6})


def batch(count: int = 2000) -> Batch:
    return Batch(torch.arange(count), 0, 0, 32, (0.5, 0.5, 0.5), torch.device("cpu"))


def flattened(policy: Any) -> list[Any]:
    """All operations, those inside of `one_of` too."""
    return [inner for outer in policy for inner in (outer.operations if isinstance(outer, OneOf) else (outer,))]


def hole_sides(policy: Any) -> set[int]:
    """Every side in px that a hole of the policy's coarse dropout has on images of 32 px."""
    (operation,) = [operation for operation in flattened(policy) if isinstance(operation, CoarseDropout)]
    drawn = operation.draw(batch(), generator("holes"))
    return set(torch.cat([drawn["height"], drawn["width"]]).unique().tolist()) - {0}


@pytest.mark.parametrize("name", AS_RUN)
def test_as_run_holes_are_those_of_the_library_and_not_those_of_the_notebook(name: str) -> None:
    policy = recipe(name).augment.policy
    assert hole_sides(policy) == {3, 4, 5, 6}
    (operation,) = [operation for operation in flattened(policy) if isinstance(operation, CoarseDropout)]
    assert (operation.holes, operation.fill) == ((1, 2), "black")


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("000-session-02", {8}),
        ("000-session-04", {8}),
        ("000-base-resnet18", {16}),
        ("000-base-wrn", {16}),
        ("001", set(range(8, 17))),
    ],
)
def test_corrected_recipes_cut_one_hole_of_the_size_in_the_notebook(name: str, sides: set[int]) -> None:
    policy = recipe(name).augment.policy
    assert hole_sides(policy) == sides
    (operation,) = [operation for operation in flattened(policy) if isinstance(operation, CoarseDropout)]
    assert operation.holes == (1, 1)


def test_the_noise_of_001_as_run_is_some_fifteen_times_as_strong_as_it_was_meant() -> None:
    ranges = []
    for name in ("001", "001-as-run"):
        (noise,) = [each for each in flattened(recipe(name).augment.policy) if isinstance(each, GaussianNoise)]
        ranges.append(noise.std)
    meant, ran = ranges
    assert meant == pytest.approx((math.sqrt(10) / 255, math.sqrt(50) / 255), rel=0.01)
    assert ran == (0.2, 0.44)
    assert 15 < ran[0] / meant[0] < ran[1] / meant[1] * 1.1 < 18


@pytest.mark.parametrize("name", [*SESSIONS, "001"])
def test_borders_were_black_as_run(name: str) -> None:
    for which, fill in ((name, "reflect"), (f"{name}-as-run", "black")):
        policies = [recipe(which).augment.policy, *(phase.set.policy or () for phase in recipe(which).phases)]
        maps = [each for policy in policies for each in policy if isinstance(each, ShiftScaleRotate)]
        assert {each.fill for each in maps} == {fill}


def test_the_first_notebook_turned_the_hue_which_nobody_had_asked_for() -> None:
    hues = []
    for name in ("000-base-resnet18", "000-base-resnet18-as-run"):
        (jitter,) = [each for each in recipe(name).augment.policy if isinstance(each, ColorJitter)]
        hues.append(jitter.hue)
    assert hues == [0.0, 0.5]


def test_the_first_notebook_cuts_windows_of_28_px() -> None:
    (crop,) = [each for each in recipe("000-base-resnet18").augment.policy if isinstance(each, RandomResizedCrop)]
    drawn = crop.draw(batch(), generator("windows"))
    assert set(drawn["height"].tolist()) == set(drawn["width"].tolist()) == {28}


def test_001_as_run_follows_its_closed_form_in_rate_and_momentum() -> None:
    step = np.arange(39_200)
    rising = step <= 11_759
    share = np.where(rising, step / 11_759, (step - 11_759) / 27_440)
    down = (1 + np.cos(np.pi * share)) / 2  # from 1 to 0 in each of the two parts
    lrs = np.where(rising, 0.012 + 0.288 * (1 - down), 1.2e-5 + (0.3 - 1.2e-5) * down)
    momenta = np.where(rising, 0.85 + 0.1 * down, 0.95 - 0.1 * down)
    ours = [plan("001-as-run").rates.at(number) for number in range(39_200)]
    np.testing.assert_allclose([rates.lr for rates in ours], lrs, rtol=1e-9)
    np.testing.assert_allclose(np.array([rates.momentum for rates in ours], float), momenta, rtol=1e-9)
    assert ours[11_759].lr == max(lrs) == 0.3
    assert ours[-1].lr == pytest.approx(1.2e-5)


def test_001_keeps_the_momentum_that_its_readme_names() -> None:
    corrected = plan("001")
    assert {corrected.rates.at(step).momentum for step in range(0, 39_200, 49)} == {None}
    assert getattr(corrected.recipe.optimizer, "momentum", None) == 0.9
    assert learning_rates("001")[::49] == learning_rates("001-as-run")[::49]


def test_the_first_notebook_as_run_follows_torchs_one_cycle_with_its_momentum() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=0.05, steps_per_epoch=391, epochs=40)
    group, theirs = optimizer.param_groups[0], []
    optimizer.step()  # once, so that torch does not warn
    for _ in range(391 * 40):
        theirs.append((group["lr"], group["momentum"]))
        if len(theirs) < 391 * 40:
            scheduler.step()
    ours = [plan("000-base-resnet18-as-run").rates.at(step) for step in range(391 * 40)]
    np.testing.assert_allclose(np.array([(rates.lr, rates.momentum) for rates in ours], float), theirs, rtol=1e-9)


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_recipes_choose_nothing_on_test_and_claim_no_figure(name: str) -> None:
    corrected = recipe(name)
    assert not corrected.evaluate.optimistic
    chooses = corrected.evaluate.model == "best" or bool(corrected.stop.metrics)
    assert chooses == (corrected.data.validation == 0.1) == name.startswith("000-session")
    assert corrected.claim is None


@pytest.mark.parametrize("name", [f"{name}-as-run" for name in (*SESSIONS, "001")])
def test_what_was_chosen_on_test_says_so(name: str) -> None:
    as_run = recipe(name)
    assert (as_run.evaluate.model, as_run.evaluate.optimistic, as_run.data.validation) == ("best", True, 0.0)
    assert as_run.claim is not None
    assert "chosen on test" in as_run.claim.source


@pytest.mark.parametrize(("name", "target"), [("000-session-02-as-run", 0.74), ("000-session-04-as-run", 0.75)])
def test_sessions_as_run_stop_at_their_target_or_after_15_epochs_without_gain(name: str, target: float) -> None:
    early, stop = recipe(name).stop.early, recipe(name).stop.target
    assert early is not None
    assert stop is not None
    assert (plan(name).clock.steps(early.patience), stop.value) == (15 * 196, target)


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("000-session-02-as-run", 0.712),
        ("000-session-04-as-run", 0.7298),
        ("000-base-resnet18-as-run", 0.5344),
        ("000-base-resnet34-as-run", 0.5117),
        ("000-base-wrn-as-run", None),  # in no log
        ("001-as-run", 0.8136),
    ],
)
def test_the_figures_as_run_are_those_of_their_logs_and_marked_as_theirs(name: str, top1: float | None) -> None:
    claim = recipe(name).claim
    assert claim is not None
    assert (claim.top1, claim.seeds) == (top1, 0)
    assert "log" in claim.source
    assert "not measured here" in claim.source


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("000-session-02", "stop.target=null"),
        ("000-base-resnet18-as-run", "model.head_dropout=0.4 train.epochs=100 optimizer.weight_decay=5e-4"),
    ],
)
def test_the_overrides_that_headers_name_are_accepted_and_end_the_claim(name: str, overrides: str) -> None:
    changed = load_recipe(name, overrides.split())
    assert changed.claim is None
    assert changed != recipe(name)


@pytest.mark.parametrize("name", CORRECTED + AS_RUN)
def test_all_are_about_cifar100_with_their_own_constants(name: str) -> None:
    data, constants = recipe(name).data, recipe(name).augment.normalize
    assert (data.source, data.image, data.label) == ("hub:uoft-cs/cifar100", "img", "fine_label")
    ours = {"000": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))}
    ours["001"] = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (constants.mean, constants.std) == ours[name[:3]]
