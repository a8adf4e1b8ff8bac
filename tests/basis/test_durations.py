"""Durations carry their unit, survive being written down, and the clock turns them into whole steps."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from groundup.basis.duration import Clock, Duration
from groundup.basis.settings import Settings


class Section(Settings):
    length: Duration


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5ep", 5.0, "ep"),
        ("0.25ep", 0.25, "ep"),
        (" 3 ep ", 3.0, "ep"),
        ("0.3dur", 0.3, "dur"),
        ("0dur", 0.0, "dur"),
        ("1dur", 1.0, "dur"),
        ("1000step", 1000.0, "step"),
        ("1e3step", 1000.0, "step"),
        ("1e-05ep", 1e-5, "ep"),
    ],
)
def test_every_unit_is_read(text: str, value: float, unit: str) -> None:
    assert Duration.parse(text) == Duration(value, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "meant"),
    [
        (5, "'5ep'"),
        (1.5, "'1.5ep'"),
        (1, "'1ep' or '1dur' (a share of the run)"),
        (0.3, "'0.3dur' (a share of the run) or '0.3ep'"),
        (0, "'0dur' (a share of the run) or '0ep'"),
    ],
)
def test_a_bare_number_is_refused_with_what_was_probably_meant(number: float, meant: str) -> None:
    with pytest.raises(ValueError, match=r"bare number.*5ep \(epochs\)") as refused:
        Duration.parse(number)  # type: ignore[arg-type]
    assert str(refused.value).endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize("number", [-1, math.inf, math.nan])
def test_a_number_that_no_unit_would_mend_gets_no_proposal(number: float) -> None:
    with pytest.raises(ValueError, match="bare number") as refused:
        Duration.parse(number)  # type: ignore[arg-type]
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize("text", ["5", "ep", "-1ep", "5 epochs", "5epp", "", "inf ep", "nanep", True, None, ["5ep"]])
def test_what_is_no_duration_is_refused_with_what_is_allowed(text: Any) -> None:
    with pytest.raises(ValueError, match="not a duration; write a number with its unit"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1.01dur", "between 0dur and 1dur, got 1.01dur"), ("2.5step", "whole numbers, got 2.5step")]
    + [(f"1e400{unit}", "a duration is finite") for unit in ("ep", "dur", "step")],
)
def test_values_that_their_unit_does_not_allow_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Duration.parse(text)


@pytest.mark.parametrize("unit", ["ep", "dur", "step"])
@pytest.mark.parametrize("value", [0.0, 1.0, 7.0, 1 / 3, 0.1 + 0.2, 1e-7, 123456789.0, 1e16])
def test_writing_and_reading_gives_the_same_duration_to_the_last_digit(value: float, unit: Any) -> None:
    if (unit == "dur" and value > 1) or (unit == "step" and value % 1):
        value = 1.0
    duration = Duration(value, unit)
    assert Duration.parse(str(duration)) == duration
    section = Section(length=duration)
    assert Section.model_validate(section.model_dump(mode="json")) == section
    assert Section.model_validate_json(section.model_dump_json()) == section


def test_a_whole_number_is_written_without_a_point() -> None:
    assert [str(Duration(value, "ep")) for value in (5.0, 0.5, 1000.0)] == ["5ep", "0.5ep", "1000ep"]


def test_settings_say_where_the_bad_duration_is() -> None:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"length": 5})
    (problem,) = caught.value.errors()
    assert problem["loc"] == ("length",)
    assert "did you mean '5ep'?" in problem["msg"]


def test_the_clock_turns_every_unit_into_steps() -> None:
    clock = Clock.of(Duration.parse("10ep"), steps_per_epoch=7)
    assert clock == Clock(7, 70)
    steps = {text: clock.steps(Duration.parse(text)) for text in ("2ep", "0.5ep", "0.5dur", "1dur", "13step", "0ep")}
    assert steps == {"2ep": 14, "0.5ep": 4, "0.5dur": 35, "1dur": 70, "13step": 13, "0ep": 0}


def test_a_run_may_last_part_of_an_epoch_but_never_less_than_one_step() -> None:
    assert Clock.of(Duration.parse("1.5ep"), 7).total_steps == 10
    assert Clock.of(Duration.parse("0.001ep"), 7).total_steps == 1
    assert Clock.of(Duration.parse("30step"), 7).total_steps == 30


def test_the_length_of_a_run_is_no_share_of_itself() -> None:
    with pytest.raises(ValueError, match=r"share of itself: 0\.5dur"):
        Clock.of(Duration.parse("0.5dur"), 7)


def test_steps_are_rounded_to_the_nearest() -> None:
    clock = Clock(steps_per_epoch=3, total_steps=30)
    assert [clock.steps(Duration(third, "ep")) for third in (0.3, 0.34, 0.6, 1.1)] == [1, 1, 2, 3]


def test_the_position_in_epochs_follows_from_the_step() -> None:
    clock = Clock(steps_per_epoch=4, total_steps=12)
    assert [clock.epoch(step) for step in (0, 1, 4, 12)] == [0, 0.25, 1, 3]
    assert math.isclose(clock.epoch(clock.steps(Duration(2, "ep"))), 2)
