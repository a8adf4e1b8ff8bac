"""A run ends early when a metric has stopped getting better, or has reached a target; not a step earlier."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.basis.settings import Settings
from groundup.training import CheckpointSettings, EMASettings, EvaluateSettings, StopSettings, SWASettings
from groundup.training.stopping import observe

CLOCK = Clock(steps_per_epoch=10, total_steps=1000)


def ends(settings: dict[str, Any], values: list[float], metric: str = "validation_top1") -> tuple[int, str] | None:
    """The evaluation (from 1, one per epoch) that ends the run, and why."""
    watched: dict[str, float] = {}
    for epoch, value in enumerate(values, 1):
        watched, reason = observe(StopSettings.model_validate(settings), watched, {metric: value}, 10 * epoch, CLOCK)
        if reason:
            return epoch, reason
    return None


def test_patience_is_the_time_since_the_best_value() -> None:
    settings = {"early": {"patience": "3ep"}}
    assert ends(settings, [0.1, 0.2, 0.2, 0.15, 0.19]) == (
        5,
        "early: validation_top1 has not got better than 0.2 at step 20 for 3ep",
    )
    assert ends(settings, [0.1, 0.2, 0.2, 0.15, 0.21, 0.2, 0.2]) is None


def test_a_loss_gets_better_by_falling() -> None:
    settings = {"early": {"metric": "validation_loss", "patience": "2ep"}}
    assert ends(settings, [2.0, 1.0, 1.5, 1.5], "validation_loss") is not None
    assert ends(settings, [2.0, 1.0, 0.9, 0.8, 0.7], "validation_loss") is None


def test_a_gain_that_is_too_small_does_not_count() -> None:
    rising = [0.1 + 0.001 * epoch for epoch in range(20)]
    assert ends({"early": {"patience": "3ep"}}, rising) is None
    found = ends({"early": {"patience": "3ep", "min_gain": 0.01}}, rising)
    assert found is not None
    assert found[0] == 4


def test_what_is_not_a_number_is_never_better_and_any_number_is_better_than_it() -> None:
    settings = {"early": {"patience": "2ep"}}
    assert ends(settings, [0.5, math.nan, math.nan]) is not None
    assert ends(settings, [math.nan, 0.1, 0.2, math.nan]) is None


def test_a_target_ends_the_run_at_the_first_evaluation_that_reaches_it() -> None:
    settings = {"target": {"value": 0.74}}
    assert ends(settings, [0.7, 0.7399, 0.74]) == (3, "target: validation_top1 0.74 has reached 0.74")
    assert ends({"target": {"metric": "train_loss", "value": 0.5}}, [0.6, 0.4], "train_loss") is not None


@pytest.mark.parametrize("value", [73, 0, -0.1])
def test_an_accuracy_in_percent_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        StopSettings.model_validate({"target": {"value": value}})


def test_a_gain_in_percent_of_an_accuracy_is_refused_and_of_a_loss_taken() -> None:
    for metric in ("validation_top1", "train_top1", "average_validation_top1"):
        with pytest.raises(ValidationError, match=f"min_gain=74: {metric} is a fraction .* below 1; .* write 0.74"):
            StopSettings.model_validate({"early": {"metric": metric, "patience": "5ep", "min_gain": 74}})
        StopSettings.model_validate({"early": {"metric": metric, "patience": "5ep", "min_gain": 0.01}})
    StopSettings.model_validate({"early": {"metric": "train_loss", "patience": "5ep", "min_gain": 74}})


def test_a_loss_of_zero_is_no_target() -> None:
    with pytest.raises(ValidationError, match="value=0: validation_loss stays above 0"):
        StopSettings.model_validate({"target": {"metric": "validation_loss", "value": 0}})
    StopSettings.model_validate({"target": {"metric": "validation_loss", "value": 0.01}})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (EvaluateSettings, {"every": "0step"}),
        (CheckpointSettings, {"every": "0ep"}),
        (CheckpointSettings, {"keep_every": "0dur"}),
        (CheckpointSettings, {"mirror_every": "0step"}),
        (EMASettings, {"horizon": "1ep", "every": "0step"}),
        (SWASettings, {"start": "1ep", "every": "0ep"}),
    ],
)
def test_an_interval_of_no_length_is_refused(section: type[Settings], values: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="an interval of no length; allowed: 1step or more"):
        section.model_validate(values)
    section.model_validate({**values, next(key for key in values if key.endswith("every")): "1step"})


def test_a_bare_number_is_no_patience() -> None:
    with pytest.raises(ValidationError, match="did you mean '15ep'"):
        StopSettings.model_validate({"early": {"patience": 15}})


def test_a_metric_that_is_not_measured_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError) as caught:
        observe(
            StopSettings.model_validate({"early": {"patience": "1ep"}}), {}, {"train_loss": 1.0, "lr": 1.0}, 10, CLOCK
        )
    assert "stop.early.metric='validation_top1'" in caught.value.message
    assert "allowed here: train_loss" in caught.value.message


def test_a_run_that_ends_early_is_saved_says_why_and_makes_no_step_more(lab: Any, tmp_path: Path) -> None:
    part = lab.run(
        tmp_path, {"stop": {"target": {"metric": "train_loss", "value": 100}}, "checkpoint": {"every": "9ep"}}
    )
    assert part.state.step == 4, "the first evaluation comes after the first epoch"
    assert part.state.ended == f"target: train_loss {part.lines[0]['train_loss']:.4g} has reached 100"
    assert [folder.name for folder in lab.store(tmp_path).all()] == ["step-0000004"]
    again = lab.run(
        tmp_path, {"stop": {"target": {"metric": "train_loss", "value": 100}}, "checkpoint": {"every": "9ep"}}
    )
    assert (again.state.step, again.steps) == (4, [])
