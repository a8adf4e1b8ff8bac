"""The recipes of systems 002, 003 and 004: what their code did ("as run") differs from what was meant where the headers say so,
and their learning rates are those of their logs."""

import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from groundup.augment import Batch, OneOf
from groundup.augment.coarse_dropout import CoarseDropout
from groundup.basis.duration import Clock
from groundup.recipe import Recipe, library, load_recipe, source_text
from groundup.training import NoAverage, Rates, SWASettings

SWEEP = [
    f"003-{model}-{optimizer}-{policy}"
    for model in ("resnet18", "preact")
    for optimizer in ("sgd", "adamw")
    for policy in ("basic", "advanced")
]
CORRECTED = ["002-constant", "002-cosine", "002-plateau", *SWEEP, "004", "004-swa"]
AS_RUN = [f"{name}-as-run" for name in CORRECTED]

# Updates per epoch as their loaders gave them: 50,000 images at 256 or 128, the short last batch kept (002) or left over (003);
# 1,281,167 images at 400, the short last batch dropped (004).
STEPS = {"002-constant-as-run": 391, "002": 196, "003": 195, "004": 3202}

# Top-1 in percent, of the epoch that the header names.
LOGGED = {
    "002-constant": 67.89,
    "002-cosine": 71.55,
    "002-plateau": 74.08,
    "003-resnet18-sgd-basic": 54.10,
    "003-resnet18-sgd-advanced": 42.99,
    "003-resnet18-adamw-basic": 49.86,
    "003-resnet18-adamw-advanced": 38.84,
    "003-preact-sgd-basic": 70.11,
    "003-preact-sgd-advanced": 57.81,
    "003-preact-adamw-basic": 62.44,
    "003-preact-adamw-advanced": 50.25,
    "004": 73.32,
    "004-swa": 75.15,
}

# Test loss after each of the 50 epochs of 002's final notebook.
LOSSES_OF_002 = [
    *(3.8226, 3.2060, 2.8436, 2.5371, 2.3055, 2.0368, 1.9502, 4.8463, 1.6968, 1.6019),
    *(1.5650, 1.4646, 1.5265, 5.7199, 1.4132, 1.4181, 1.3082, 1.3150, 1.2663, 1.2844),
    *(1.4036, 1.2777, 1.2556, 1.2145, 1.2638, 1.1936, 1.2262, 1.2124, 1.2626, 1.2024),
    *(1.0906, 1.0997, 1.1272, 1.1053, 1.1400, 1.0797, 1.0832, 1.0965, 1.1034, 1.1082),
    *(1.0980, 1.1016, 1.1149, 1.1141, 1.1086, 1.1167, 1.1177, 1.1245, 1.1152, 1.1202),
]

NOTEBOOK = {"data.validation", "augment.policy", "augment.normalize", "train.precision"}
SELECTION = {"data.validation", "evaluate.optimistic"}
IMAGENET = {"mix.clean", "mix.methods", "optimizer.decay_norm_and_bias", "evaluate.optimistic", "evaluate.model"}
DIFFERENCES = {
    "002-constant": NOTEBOOK | {"optimizer.weight_decay", "train.batch_size", "train.epochs", "loss.label_smoothing"},
    "002-cosine": NOTEBOOK | {"schedule"},
    "002-plateau": NOTEBOOK | {"evaluate.optimistic"},
    **{name: SELECTION | {"schedule", "model.stem" if "resnet18" in name else "model.final_norm"} for name in SWEEP},
    "004": IMAGENET | {"average"},
    "004-swa": IMAGENET | {"schedule", "average.lr", "average.every"},
}


def clock_of(name: str, recipe: Recipe) -> Clock:
    return recipe.clock(STEPS.get(name) or STEPS[name[:3]])


def rates_of(name: str) -> Rates:
    recipe = load_recipe(name)
    swa = recipe.average if isinstance(recipe.average, SWASettings) else None
    return Rates.of(recipe.schedule, recipe.phases, clock_of(name, recipe), swa)


def lr_in_epoch(rates: Rates, epoch: int, memory: dict[str, Any] | None = None) -> tuple[float, float]:
    """The rates of the first and the last update of an epoch, counted from 1 as in their logs."""
    steps = rates.clock.steps_per_epoch
    return rates.at((epoch - 1) * steps, memory).lr, rates.at(epoch * steps - 1, memory).lr


def differences(one: Recipe, other: Recipe) -> set[str]:
    """Keys `section.key` in which two recipes differ, `section` where they chose another method; not what they are called."""
    left, right = (recipe.model_dump(exclude={"name", "about", "claim"}) for recipe in (one, other))
    found: set[str] = set()
    for section in left:
        a, b = left[section], right[section]
        if not isinstance(a, dict):
            found |= {section} if a != b else set()
        elif section in ("schedule", "average", "optimizer") and a["name"] != b["name"]:
            found.add(section)
        else:
            found |= {f"{section}.{key}" for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    return found


def torch_rates(scheduler: Any, optimizer: torch.optim.Optimizer, epochs: int, values: list[float]) -> list[float]:
    """The rate of each epoch under a scheduler of torch that is stepped after every epoch."""
    seen = []
    for epoch in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*values[epoch : epoch + 1])
    return seen


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_every_recipe_of_the_three_systems_is_in_the_library_once_as_meant_and_once_as_run() -> None:
    theirs = {name for name in library() if name[:4] in ("002-", "003-", "004-") or name == "004"}
    assert theirs == {*CORRECTED, *AS_RUN}
    assert set(LOGGED) == set(DIFFERENCES) == set(CORRECTED)


@pytest.mark.parametrize("name", CORRECTED)
def test_as_run_and_corrected_differ_in_the_named_keys_alone(name: str) -> None:
    assert differences(load_recipe(name), load_recipe(f"{name}-as-run")) == DIFFERENCES[name]


@pytest.mark.parametrize("name", CORRECTED)
def test_figures_are_theirs_and_stand_at_what_was_run(name: str) -> None:
    assert load_recipe(name).claim is None
    claim = load_recipe(f"{name}-as-run").claim
    assert claim is not None
    assert claim.top1 is not None
    assert math.isclose(claim.top1, LOGGED[name] / 100)
    assert claim.seeds == 0
    assert claim.source.startswith("system's own log")


def header_of(name: str) -> list[str]:
    return [line for line in source_text(name).splitlines() if line.startswith("#")]


@pytest.mark.parametrize("name", [*CORRECTED, *AS_RUN])
def test_the_header_says_how_to_start_it_what_was_claimed_and_why_it_differs(name: str) -> None:
    header, system = header_of(name), name[:3]
    assert header[0].startswith(f"# System {system}")
    assert header[1].startswith(f"#   groundup train {name} data.source=")
    # Its own claim and its own entries of seeds.md, even where the reasons stand in the header of another recipe.
    (claimed,) = [line for line in header if line.startswith("# Claimed: ")]
    assert any(letter.isdigit() for letter in claimed) or '"' in claimed
    assert f"({system}, bug" in " ".join(header)


@pytest.mark.parametrize("name", [*CORRECTED, *AS_RUN])
def test_schedules_and_averages_fit_into_the_run(name: str) -> None:
    recipe = load_recipe(name)
    rates_of(name).check()
    if not isinstance(recipe.average, NoAverage):
        recipe.average.check(clock_of(name, recipe))


@pytest.mark.parametrize("name", [*CORRECTED, *AS_RUN])
def test_what_watches_validation_has_a_split_for_it_and_never_both(name: str) -> None:
    recipe = load_recipe(name)
    watched = [*recipe.stop.metrics.values(), *rates_of(name).metrics_needed]
    has_one = recipe.data.validation > 0 or recipe.evaluate.optimistic
    assert has_one or not (watched or recipe.evaluate.model == "best")
    assert not (recipe.data.validation > 0 and recipe.evaluate.optimistic)


@pytest.mark.parametrize("name", CORRECTED)
def test_nothing_corrected_selects_on_the_test_split(name: str) -> None:
    assert not load_recipe(name).evaluate.optimistic


# 002


def test_the_cosine_of_002_was_a_constant_rate_and_is_a_cosine_when_corrected() -> None:
    as_run, corrected = rates_of("002-cosine-as-run"), rates_of("002-cosine")
    steps = range(0, as_run.clock.total_steps, 49)
    assert {as_run.at(step).lr for step in steps} == {1e-3}
    assert lr_in_epoch(corrected, 1)[0] == 1e-3
    assert math.isclose(lr_in_epoch(corrected, 26)[0], 5e-4)
    assert lr_in_epoch(corrected, 50)[1] < 1e-9


def test_the_plateau_of_002_fell_when_the_logged_losses_say() -> None:
    rates = rates_of("002-plateau-as-run")
    memory, fallen = rates.memory(), {}
    for epoch, loss in enumerate(LOSSES_OF_002, start=1):
        before = rates.at((epoch - 1) * 196, memory).lr
        memory = rates.observe(memory, {"validation_loss": loss}, step=epoch * 196)
        after = rates.at(min(epoch * 196, rates.clock.total_steps - 1), memory).lr
        if after != before:
            fallen[epoch] = after
    assert fallen == {30: 5e-4, 35: 2.5e-4, 40: 1.25e-4, 44: 1e-4}


def test_the_first_notebook_of_002_had_adam_without_decay_and_no_label_smoothing() -> None:
    recipe = load_recipe("002-constant-as-run")
    assert (recipe.optimizer.name, recipe.optimizer.weight_decay) == ("adamw", 0)
    assert (recipe.train.batch_size, recipe.train.epochs, recipe.loss.label_smoothing) == (128, 100, 0)
    assert [operation.name for operation in recipe.augment.policy] == [
        "pad_crop",
        "flip",
        "shift_scale_rotate",
        "one_of",
    ]
    assert {rates_of("002-constant-as-run").at(step).lr for step in (0, 10_000, 39_099)} == {1e-3}


@pytest.mark.parametrize(
    ("name", "sides", "most"),
    [("002-plateau-as-run", (3, 6), 2), ("002-constant-as-run", (3, 6), 2), ("002-plateau", (8, 16), 1)],
)
def test_holes_of_002_have_the_sides_that_were_drawn_or_written(name: str, sides: tuple[int, int], most: int) -> None:
    one_of = load_recipe(name).augment.policy[-1]
    assert isinstance(one_of, OneOf)
    holes = one_of.operations[0]
    assert isinstance(holes, CoarseDropout)
    batch = Batch(torch.arange(512), 0, seed=0, size=32, mean=(0.5, 0.5, 0.5), device=torch.device("cpu"))
    drawn = holes.draw(batch, torch.Generator().manual_seed(0))
    there = drawn["height"] > 0
    assert drawn["chosen"].all()
    assert {1, most} == set(there.sum(1).tolist())
    assert (int(drawn["height"][there].min()), int(drawn["height"][there].max())) == sides
    assert bool(drawn["fill"].any()) == (name == "002-plateau")


# 003


@pytest.mark.parametrize("name", SWEEP)
def test_every_run_of_003_fell_after_epochs_12_23_and_34_whatever_the_loss_did(name: str) -> None:
    rates, lr = rates_of(f"{name}-as-run"), 0.001 if "adamw" in name else 0.1
    optimizer = sgd(lr)
    scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.2, patience=10, threshold=1e-3)
    falling = [4.0 * 0.98**epoch for epoch in range(44)]
    expected = torch_rates(scheduler, optimizer, 44, falling)
    assert [epoch for epoch in range(1, 44) if expected[epoch] != expected[epoch - 1]] == [12, 23, 34]
    for epoch, theirs in enumerate(expected, start=1):
        assert lr_in_epoch(rates, epoch) == pytest.approx((theirs, theirs))


@pytest.mark.parametrize("name", SWEEP)
def test_the_corrected_003_falls_only_when_validation_stalls(name: str) -> None:
    rates = rates_of(name)
    start, memory = rates.at(0).lr, rates.memory()
    for epoch in range(1, 41):
        memory = rates.observe(memory, {"validation_loss": 4.0 * 0.98**epoch}, step=epoch * 195)
    assert rates.at(40 * 195, memory).lr == start == (0.001 if "adamw" in name else 0.1)
    for epoch in range(41, 52):
        memory = rates.observe(memory, {"validation_loss": 2.0}, step=epoch * 195)
    assert rates.at(51 * 195, memory).lr == pytest.approx(0.2 * start)


@pytest.mark.parametrize("name", [*SWEEP, *(f"{name}-as-run" for name in SWEEP)])
def test_the_sweep_of_003_has_one_batch_one_length_and_the_parts_in_its_names(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.train.batch_size, recipe.train.micro_batch, recipe.train.clip_norm) == (256, 128, 1.0)
    assert recipe.train.epochs == 150
    assert recipe.stop.early is not None
    assert str(recipe.stop.early.patience) == "15ep"
    _, model, optimizer, policy, *_ = name.split("-")
    assert recipe.model.name.startswith(model)
    assert (recipe.optimizer.name, recipe.optimizer.weight_decay) == (
        ("sgd", 5e-4) if optimizer == "sgd" else ("adamw", 0.05)
    )
    operations = [operation.name for operation in recipe.augment.policy]
    assert operations == ["pad_crop", "flip", *(["random_rotation", "random_erasing"] if policy == "advanced" else [])]


# 004


def test_the_rate_of_004_begins_every_epoch_at_the_one_that_torch_gives_it() -> None:
    rates, optimizer = rates_of("004-as-run"), sgd(0.1)
    expected = torch_rates(CosineAnnealingLR(optimizer, T_max=90, eta_min=0.001), optimizer, 90, [])
    for epoch, theirs in enumerate(expected, start=1):
        first, last = lr_in_epoch(rates, epoch)
        assert first == pytest.approx(theirs, rel=1e-6)
        # Theirs is constant within an epoch: the steepest one goes down by 0.099 * pi / 2 / 90.
        assert 0 <= theirs - last < 0.00175


def test_the_rate_of_004_in_epoch_34_is_the_logged_one() -> None:
    assert lr_in_epoch(rates_of("004-as-run"), 34)[0] == pytest.approx(0.0706, abs=5e-5)
    assert lr_in_epoch(rates_of("004-swa-as-run"), 34)[0] == pytest.approx(0.0706, abs=5e-5)


@pytest.mark.parametrize(("epoch", "logged"), [(92, 0.003169), (93, 0.003928), (94, 0.004687), (95, 0.005446)])
def test_the_rate_of_the_average_of_004_climbed_as_logged(epoch: int, logged: float) -> None:
    first, last = lr_in_epoch(rates_of("004-swa-as-run"), epoch)
    assert first == pytest.approx(logged, abs=1e-6)
    # SWALR is constant within an epoch; the line goes on to the next epoch's rate.
    assert 0 < last - logged < 0.00076


def test_the_corrected_average_of_004_never_raises_the_rate() -> None:
    rates = rates_of("004-swa")
    seen = [rates.at(step).lr for step in range(0, rates.clock.total_steps, 1601)]
    assert seen == sorted(seen, reverse=True)
    assert lr_in_epoch(rates, 90)[1] == pytest.approx(0.00342, abs=1e-5)
    assert lr_in_epoch(rates, 91)[0] == lr_in_epoch(rates, 100)[1] == 0.003


def test_004_took_a_sample_at_every_step_of_the_last_ten_epochs() -> None:
    recipe = load_recipe("004-swa-as-run")
    assert isinstance(recipe.average, SWASettings)
    clock = clock_of("004-swa-as-run", recipe)
    assert recipe.average.first_sample(clock) == 90 * 3202
    assert clock.steps(recipe.average.every) == 1


def test_004_mixed_two_batches_in_five_and_meant_four() -> None:
    as_run, meant = load_recipe("004-as-run").mix, load_recipe("004").mix
    assert ([method.name for method in as_run.methods], as_run.clean) == (["mixup"], 0.6)
    assert ([method.name for method in meant.methods], meant.clean) == (["mixup", "cutmix"], 0.2)
