"""Live settings are a function of the step: phases set them, later ones win, unknown ones are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from groundup.augment.flip import Flip
from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.training import LiveSchedule, LiveValues, Phase

CLOCK = Clock(steps_per_epoch=10, total_steps=100)
BASE = LiveValues(resolution=32, policy=(), label_smoothing=0.1)


def schedule(*phases: tuple[str, dict[str, Any]]) -> LiveSchedule:
    parsed = [Phase.model_validate({"from": start, "set": changes}) for start, changes in phases]
    return LiveSchedule.of(BASE, parsed, CLOCK)


def test_without_phases_the_values_stay() -> None:
    live = schedule()
    assert [live.at(step) for step in (0, 50, 99)] == [BASE] * 3
    assert live.resolutions() == [32]


def test_a_phase_begins_at_its_step_and_lasts_until_another_sets_the_same_key() -> None:
    live = schedule(
        ("2ep", {"train.resolution": 16}), ("0.5dur", {"loss.label_smoothing": 0}), ("70step", {"train.resolution": 24})
    )
    seen = [(live.at(step).resolution, live.at(step).label_smoothing) for step in (0, 19, 20, 49, 50, 69, 70, 99)]
    assert seen == [(32, 0.1), (32, 0.1), (16, 0.1), (16, 0.1), (16, 0), (16, 0), (24, 0), (24, 0)]
    assert live.resolutions() == [32, 16, 24]


def test_the_order_in_the_recipe_does_not_matter() -> None:
    early, late = ("1ep", {"train.resolution": 16}), ("5ep", {"train.resolution": 24})
    assert schedule(late, early).changes == schedule(early, late).changes


@pytest.mark.parametrize(("here", "there"), [("1ep", "1ep"), ("1ep", "10step"), ("0.3dur", "3ep")])
def test_two_phases_that_set_one_key_at_one_point_are_refused(here: str, there: str) -> None:
    with pytest.raises(UsageError) as caught:
        schedule((here, {"train.resolution": 8, "model.dropout": 0.1}), (there, {"train.resolution": 12}))
    assert f"phases.1.from={there!r}: phases.0, from {here}, begins at the same step" in caught.value.message
    assert "sets train.resolution too" in caught.value.message
    cosine = {"schedule": {"name": "cosine", "lr": 0.1}}
    with pytest.raises(UsageError, match="sets schedule too"):
        schedule((here, cosine), (there, cosine))


def test_two_phases_at_one_point_may_set_different_keys() -> None:
    live = schedule(("1ep", {"train.resolution": 8}), ("10step", {"loss.label_smoothing": 0}))
    assert (live.at(10).resolution, live.at(10).label_smoothing) == (8, 0)


def test_of_two_points_that_a_short_run_rounds_to_one_step_the_later_one_counts() -> None:
    early, late = ("0.302dur", {"train.resolution": 8}), ("0.304dur", {"train.resolution": 12})
    assert schedule(early, late).at(30).resolution == schedule(late, early).at(30).resolution == 12


def test_a_phase_from_the_first_step_on_replaces_the_base() -> None:
    live = schedule(("0ep", {"train.resolution": 16}))
    assert live.at(0).resolution == 16
    assert live.resolutions() == [16]


def test_a_policy_can_change() -> None:
    live = schedule(("5ep", {"augment.policy": [{"name": "flip"}]}), ("9ep", {"augment.policy": []}))
    assert [live.at(step).policy for step in (0, 50, 90)] == [(), (Flip(name="flip"),), ()]


@pytest.mark.parametrize("start", ["10ep", "1dur", "100step", "12ep"])
def test_a_phase_that_begins_after_the_end_is_refused(start: str) -> None:
    with pytest.raises(UsageError) as caught:
        schedule(("1ep", {"train.resolution": 16}), (start, {"train.resolution": 24}))
    assert f"phases.1.from='{start}'" in caught.value.message
    assert "the run has 100 steps" in caught.value.message
    assert caught.value.hint is not None


def test_an_unknown_live_key_is_refused_with_the_nearest_one(lab: Any) -> None:
    with pytest.raises(UsageError) as caught:
        lab.recipe({"phases": [{"from": "1ep", "set": {"train.resolutoin": 16}}]})
    assert "train.resolutoin" in caught.value.message
    assert "loss.label_smoothing" in caught.value.message
    assert caught.value.hint is not None
    assert "train.resolution" in caught.value.hint


def test_a_setting_that_is_not_live_is_refused(lab: Any) -> None:
    with pytest.raises(UsageError, match=r"train\.batch_size"):
        lab.recipe({"phases": [{"from": "1ep", "set": {"train.batch_size": 16}}]})


@pytest.mark.parametrize("key", ["train.resolution", "augment.policy", "loss.label_smoothing"])
def test_null_is_refused_because_it_says_nothing(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key}: null; write a value"):
        schedule(("1ep", {key: None}))


def test_a_phase_that_sets_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="sets nothing; allowed"):
        schedule(("1ep", {}))


def test_training_follows_the_phases(lab: Any, tmp_path: Any) -> None:
    phases = [{"from": "3step", "set": {"train.resolution": 12}}, {"from": "6step", "set": {"train.resolution": 10}}]
    part = lab.run(tmp_path, {"phases": phases})
    assert [record["resolution"] for record in part.steps] == [8] * 3 + [12] * 3 + [10] * 4
    assert [line["resolution"] for line in part.lines] == [12, 10, 10]
