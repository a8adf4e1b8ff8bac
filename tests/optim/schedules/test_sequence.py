"""Sequences: each part on its own clock, memory of the parts, what does not fit, and two published schedules."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError
from torch.optim import lr_scheduler

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim.schedules import LiveRates, ScheduleSettings, curve

ADAPTER = TypeAdapter(ScheduleSettings)
CLOCK = Clock(steps_per_epoch=10, total_steps=100)
PLATEAU = {"name": "plateau", "lr": 0.1, "patience": "0ep"}


def schedule(name, **settings):
    return ADAPTER.validate_python({"name": name, **settings})


def sequence(*parts):
    """`parts`: (length, schedule); the length None for the last."""
    return schedule("sequence", parts=[{"schedule": settings, "length": length} for length, settings in parts])


def constant(lr, **settings):
    return {"name": "constant", "lr": lr, **settings}


def ramp(start_lr, lr):
    return {"name": "ramp", "start_lr": start_lr, "lr": lr}


def cosine(lr, **settings):
    return {"name": "cosine", "lr": lr, **settings}


def lrs(settings, clock=CLOCK):
    return [rates.lr for rates in curve(settings, clock)]


def test_sequence_equals_torchs_value_for_value(torch_rates):
    def torchs(optimizer):
        parts = [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20),
            lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=7, eta_min=0.01),
            lr_scheduler.MultiStepLR(optimizer, [4, 9], gamma=0.5),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[20, 70])

    expected, _ = torch_rates(torchs, 0.4, 100)
    restarts = {"name": "cosine_restarts", "lr": 0.4, "final_lr": 0.01, "period": "7step"}
    drops = {"name": "step", "lr": 0.4, "milestones": ["4step", "9step"], "gamma": 0.5}
    settings = sequence(("2ep", ramp(0.04, 0.4)), ("0.5dur", restarts), (None, drops))
    settings.check(CLOCK)
    assert lrs(settings) == pytest.approx(expected, rel=1e-12, abs=0)


def test_each_part_runs_on_its_own_clock():
    warmed = cosine(0.2, warmup="0.25dur")
    settings = sequence(("4ep", warmed), (None, warmed))
    alone = schedule(**warmed)
    assert lrs(settings) == lrs(alone, Clock(10, 40)) + lrs(alone, Clock(10, 60))


def test_a_share_is_one_of_the_part_also_two_sequences_deep():
    inner = {
        "name": "sequence",
        "parts": [{"schedule": constant(0.2), "length": "0.5dur"}, {"schedule": constant(0.1)}],
    }
    settings = sequence(("0.4dur", constant(0.3)), (None, inner))
    settings.check(CLOCK)
    assert lrs(settings) == [0.3] * 40 + [0.2] * 30 + [0.1] * 30
    assert settings.peak == 0.3
    assert ADAPTER.validate_python(json.loads(settings.model_dump_json())) == settings


def test_ramp_reaches_its_rate_at_the_first_step_of_the_next_part():
    drawn = lrs(sequence(("10step", ramp(0.1, 0.3)), (None, constant(0.3))))
    assert drawn[9] == pytest.approx(0.28, rel=1e-12)
    assert drawn[10] == 0.3


def test_published_rates_of_a_ramp_and_restarts_every_25_updates_are_reproduced():
    # A WRN-28-10 on CIFAR-100, 196 updates per epoch, 100 epochs: the rates that its log has after these epochs. The last
    # is that of an update which was never made; neither part knows the length of the run, so a longer clock shows it.
    restarts = {"name": "cosine_restarts", "lr": 0.01, "final_lr": 1e-4, "period": "25step"}
    settings = sequence(("5ep", ramp(0.01, 0.1)), (None, restarts))
    settings.check(Clock(196, 196 * 100))
    clock = Clock(196, 196 * 101)
    logged = {
        6: "0.000712",
        7: "0.002398",
        8: "0.004739",
        10: "0.009055",
        30: "0.010000",
        99: "0.000139",
        100: "0.001045",
    }
    assert {epoch: f"{settings.at(epoch * 196, clock).lr:.6f}" for epoch in logged} == logged
    assert [settings.at(k, clock).lr for k in (0, 490)] == pytest.approx([0.01, 0.055], rel=1e-12)
    assert max(lrs(settings, clock)[980:]) == 0.01


def test_sequence_of_pure_schedules_remembers_nothing():
    settings = sequence(("1ep", constant(0.1)), (None, cosine(0.1)))
    assert settings.memory() == {}
    assert settings.metrics_needed == ()
    assert not settings.stateful
    assert settings.observe({}, {}, 50, CLOCK) == {}


def test_only_the_part_in_force_observes_and_on_its_own_clock():
    watching = PLATEAU | {"metric": "train_loss"}
    settings = sequence(("2ep", constant(0.2)), ("4ep", PLATEAU), (None, watching))
    memory = settings.memory()
    fresh = {"lr": 0.1, "best": None, "since": 0}
    assert memory == {"1": fresh, "2": fresh}
    assert settings.metrics_needed == ("validation_loss", "train_loss")
    assert settings.stateful
    assert settings.observe(memory, {}, 10, CLOCK) == memory
    memory = settings.observe(memory, {"validation_loss": 1.0}, 30, CLOCK)
    assert memory == {"1": {"lr": 0.1, "best": 1.0, "since": 10}, "2": fresh}
    memory = settings.observe(memory, {"validation_loss": 2.0}, 40, CLOCK)
    assert memory == {"1": {"lr": 0.1 * 0.1, "best": 1.0, "since": 20}, "2": fresh}
    assert [settings.at(step, CLOCK, memory).lr for step in (10, 40, 59, 60)] == [0.2, 0.1 * 0.1, 0.1 * 0.1, 0.1]
    memory = settings.observe(memory, {"train_loss": 3.0}, 100, CLOCK)
    assert memory["2"] == {"lr": 0.1, "best": 3.0, "since": 40}


def test_plateau_in_a_sequence_equals_the_same_plateau_in_a_run_of_its_own():
    values = [1.0, 0.9, 0.95, 0.8, 0.81, 0.82, 0.83, 0.7]
    alone, inside = schedule(**PLATEAU), sequence(("2ep", constant(0.2)), (None, PLATEAU))
    memory, nested, clock = alone.memory(), inside.memory(), Clock(10, 80)
    for epoch, value in enumerate(values[:-1], 1):
        memory = alone.observe(memory, {"validation_loss": value}, 10 * epoch, clock)
        nested = inside.observe(nested, {"validation_loss": value}, 10 * epoch + 20, CLOCK)
        assert nested == {"1": memory}
        assert inside.at(10 * epoch + 20, CLOCK, nested) == alone.at(10 * epoch, clock, memory)
    assert memory["lr"] < 0.001


def test_memory_is_nested_as_the_sequences_are():
    inner = {"name": "sequence", "parts": [{"schedule": constant(0.2), "length": "1ep"}, {"schedule": PLATEAU}]}
    settings = sequence(("1ep", constant(0.3)), (None, inner))
    assert settings.memory() == {"1": {"1": {"lr": 0.1, "best": None, "since": 0}}}
    seen = settings.observe(settings.memory(), {"validation_loss": 1.0}, 50, CLOCK)
    assert seen == {"1": {"1": {"lr": 0.1, "best": 1.0, "since": 30}}}
    assert settings.at(50, CLOCK, {"1": {"1": {"lr": 0.007, "best": 1.0, "since": 30}}}).lr == 0.007


def test_missing_metric_of_a_part_is_refused():
    settings = sequence(("1ep", constant(0.3)), (None, PLATEAU))
    with pytest.raises(UsageError, match="'validation_loss' is not in the record"):
        settings.observe(settings.memory(), {"train_loss": 1.0}, 50, CLOCK)


def test_momentum_stays_where_a_part_left_it():
    cycle = {"name": "one_cycle", "max_lr": 0.3, "cycle_momentum": True, "anneal": "linear"}
    drawn = curve(sequence(("1ep", constant(0.1)), ("4ep", cycle), (None, constant(0.01))), CLOCK)
    assert {rates.momentum for rates in drawn[:10]} == {None}
    assert min(rates.momentum for rates in drawn[10:50]) == pytest.approx(0.85, rel=1e-2)
    assert drawn[50:] == [LiveRates(0.01, drawn[49].momentum)] * 50


@pytest.mark.parametrize(("length", "steps"), [("0ep", 0), ("0step", 0), ("0.001dur", 0)])
def test_part_without_a_step_is_refused_by_name(length, steps):
    settings = sequence(("1ep", constant(0.3)), (length, constant(0.2)), (None, constant(0.1)))
    with pytest.raises(UsageError) as error:
        settings.check(CLOCK)
    assert error.value.message == f"schedule.parts.1.length={length}: {steps} steps; allowed: at least one"
    assert "schedule.parts.1" in (error.value.hint or "")


@pytest.mark.parametrize("length", ["6ep", "0.6dur", "61step"])
def test_parts_that_leave_nothing_for_the_last_are_refused(length):
    settings = sequence(("4ep", constant(0.3)), (length, constant(0.2)), (None, constant(0.1)))
    with pytest.raises(UsageError, match=rf"schedule\.parts: the lengths 4ep \+ {length} are 1\d\d steps.*at most 99"):
        settings.check(CLOCK)


def test_parts_that_leave_one_step_for_the_last_fit():
    settings = sequence(("4ep", constant(0.3)), ("59step", constant(0.2)), (None, constant(0.1)))
    settings.check(CLOCK)
    assert lrs(settings)[98:] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            constant(0.1, warmup="5ep"),
            "schedule.parts.1.schedule.warmup=5ep: 50 steps of warm-up in a part of 40 steps",
        ),
        (
            {"name": "one_cycle", "max_lr": 1, "rise": "5ep"},
            "schedule.parts.1.schedule.rise=5ep: 50 steps in a part of 40",
        ),
        ({"name": "step", "lr": 1, "milestones": ["4ep"]}, "schedule.parts.1.schedule.milestones=[4ep]: steps [40]"),
        ({"name": "trapezoid", "lr": 1, "cooldown": "4ep"}, "schedule.parts.1.schedule.cooldown=4ep: 40 steps after"),
        (PLATEAU | {"patience": "4ep"}, "schedule.parts.1.schedule.patience=4ep: 40 steps, but the part has 40 steps"),
        (
            {"name": "cosine_restarts", "lr": 1, "period": "0ep"},
            "schedule.parts.1.schedule.period=0ep: less than one step",
        ),
        ({"name": "exponential", "lr": 1, "gamma": 0.5, "per": "0ep"}, "schedule.parts.1.schedule.per=0ep: less than"),
        ({"name": "inverse_sqrt", "lr": 1, "timescale": "4ep"}, "schedule.parts.1.schedule.timescale=4ep: 40 steps"),
    ],
)
def test_part_that_does_not_fit_its_length_is_refused_under_its_own_key(part, said):
    settings = sequence(("6ep", constant(0.3)), (None, part))
    with pytest.raises(UsageError) as error:
        settings.check(CLOCK)
    assert error.value.message.startswith(said)
    assert "schedule.parts.1.schedule." in (error.value.hint or "")


def test_sequence_whose_parts_do_not_say_how_long_is_refused():
    with pytest.raises(ValidationError, match="part 0 has no length; every part but the last needs one"):
        sequence((None, constant(0.3)), (None, constant(0.1)))
    with pytest.raises(ValidationError, match="part 1, the last, has length=5ep; it takes the rest of the run"):
        sequence(("5ep", constant(0.3)), ("5ep", constant(0.1)))
    with pytest.raises(ValidationError, match="a sequence of 1 parts; allowed: two or more"):
        sequence((None, constant(0.3)))


def test_mistake_inside_a_part_is_told_at_its_place():
    with pytest.raises(ValidationError) as error:
        sequence(("5ep", constant(0.3, wormup="1ep")), (None, {"name": "cosin", "lr": 0.1}))
    places = [finding["loc"] for finding in error.value.errors()]
    assert places == [("sequence", "parts", 0, "schedule", "constant", "wormup"), ("sequence", "parts", 1, "schedule")]
