"""The learning rate of a run: its schedule, the schedules that phases put in its place, SWA's own rate."""

from itertools import pairwise
from typing import Any

import pytest
from pydantic import TypeAdapter

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim import Schedule, ScheduleSettings
from groundup.training import Phase, Rates, SWASettings

CLOCK = Clock(steps_per_epoch=10, total_steps=100)
PLATEAU = {"name": "plateau", "lr": 0.1, "factor": 0.5, "patience": "1ep", "metric": "validation_loss"}


def schedule(**settings: Any) -> Schedule:
    parsed: Schedule = TypeAdapter(ScheduleSettings).validate_python(settings)
    return parsed


def phase(start: str, **settings: Any) -> Phase:
    return Phase.model_validate({"from": start, "set": {"schedule": settings}})


def test_without_phases_they_are_those_of_the_schedule() -> None:
    cosine = schedule(name="cosine", lr=0.1)
    rates = Rates.of(cosine, [], CLOCK)
    assert [rates.at(step) for step in range(100)] == [cosine.at(step, CLOCK) for step in range(100)]
    assert rates.memory() == {}


def test_the_schedule_of_a_phase_has_a_clock_that_begins_with_it_and_ends_with_the_run() -> None:
    cosine, linear = schedule(name="cosine", lr=0.1), schedule(name="linear", lr=0.05)
    rates = Rates.of(cosine, [phase("6ep", name="linear", lr=0.05)], CLOCK)
    assert rates.at(59) == cosine.at(59, CLOCK)
    assert [rates.at(step) for step in range(60, 100)] == [linear.at(step, Clock(10, 40)) for step in range(40)]
    assert rates.at(60).lr == 0.05


def test_phases_take_over_one_after_the_other_whatever_their_order_in_the_recipe() -> None:
    phases = [phase("5ep", name="constant", lr=0.3), phase("2ep", name="constant", lr=0.2)]
    rates = Rates.of(schedule(name="constant", lr=0.1), phases, CLOCK)
    assert [rates.at(step).lr for step in (0, 19, 20, 49, 50, 99)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_a_schedule_that_does_not_fit_into_its_phase_is_refused() -> None:
    rates = Rates.of(schedule(name="constant", lr=0.1), [phase("6ep", name="cosine", lr=0.1, warmup="5ep")], CLOCK)
    with pytest.raises(UsageError, match="50 steps of warm-up in a part of 40 steps"):
        rates.check()


def test_swa_goes_from_the_rate_of_the_schedule_at_its_start_to_its_own_and_stays_there() -> None:
    swa = SWASettings.model_validate({"name": "swa", "start": "0.8dur", "lr": 0.02, "anneal": "1ep"})
    cosine = schedule(name="cosine", lr=0.1)
    rates = Rates.of(cosine, [], CLOCK, swa)
    assert rates.at(79) == cosine.at(79, CLOCK)
    assert rates.at(80).lr == pytest.approx(cosine.at(80, CLOCK).lr)
    annealed = [rates.at(step).lr for step in range(80, 100)]
    assert annealed[10:] == [0.02] * 10
    assert all((a - 0.02) * (b - 0.02) >= 0 for a, b in pairwise(annealed)), "no overshoot"


def test_the_schedule_of_a_phase_is_named_by_its_place_in_the_recipe() -> None:
    phases = [phase("1ep", name="constant", lr=0.1), phase("6ep", name="cosine", lr=0.1, warmup="5ep")]
    with pytest.raises(UsageError) as caught:
        Rates.of(schedule(name="constant", lr=0.1), phases, CLOCK).check()
    assert caught.value.message.startswith("phases.1.set.schedule.warmup=5ep")
    watching = Rates.of(schedule(name="constant", lr=0.1), [phase("5ep", **PLATEAU)], CLOCK)
    assert watching.watched == [("phases.0.set.schedule.metric", "validation_loss")]


def test_an_anneal_from_a_rate_that_may_change_meanwhile_is_refused() -> None:
    swa = SWASettings.model_validate({"name": "swa", "start": "0.8dur", "lr": 0.02, "anneal": "1ep"})
    with pytest.raises(UsageError, match=r"average\.anneal=1ep: .*follows validation_loss"):
        Rates.of(schedule(**PLATEAU), [], CLOCK, swa).check()
    Rates.of(schedule(**PLATEAU), [], CLOCK, swa.model_copy(update={"anneal": swa.every.parse("0step")})).check()


def test_a_plateau_in_a_phase_remembers_from_its_phase_on() -> None:
    rates = Rates.of(schedule(name="constant", lr=0.3), [phase("5ep", **PLATEAU)], CLOCK)
    assert rates.metrics_needed == ("validation_loss",)
    memory = rates.memory()
    for epoch in (1, 2, 3, 4):  # before the phase nobody watches
        memory = rates.observe(memory, {"validation_loss": 1.0}, 10 * epoch)
    assert memory == rates.memory()
    for epoch in (6, 7, 8):
        memory = rates.observe(memory, {"validation_loss": 1.0}, 10 * epoch)
    assert rates.at(80, memory).lr == pytest.approx(0.05)
    assert rates.at(80).lr == pytest.approx(0.1), "without memory it is drawn as if nothing had happened"
    assert rates.at(40, memory).lr == 0.3
