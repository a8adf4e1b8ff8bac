"""Serving several trackers: everyone is told, and one that fails cannot hurt the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from groundup.tracking import Picture, Record, Tracker, Trackers, TrackSettings


class Notes(Tracker):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def start(self, info: Record) -> None:
        self.heard.append(("start", info))

    def step(self, record: Record) -> None:
        self.heard.append(("step", record))

    def evaluation(self, record: Record) -> None:
        self.heard.append(("evaluation", record))

    def result(self, record: Record) -> None:
        self.heard.append(("result", record))

    def image(self, name: str, picture: Picture, step: int) -> None:
        self.heard.append(("image", name))

    def message(self, text: str) -> None:
        self.heard.append(("message", text))

    def close(self) -> None:
        self.heard.append(("close", None))


class Failing(Notes):
    """Fails at every step, and at closing too."""

    def step(self, record: Record) -> None:
        raise OSError("no space left")

    def close(self) -> None:
        super().close()
        raise OSError("still no space left")


def test_every_member_is_told_everything() -> None:
    first, second = Notes(), Notes()
    trackers = Trackers([first, second])
    trackers.start({"total_steps": 2})
    trackers.step({"step": 1})
    trackers.evaluation({"step": 2})
    trackers.image("samples", np.zeros((2, 2, 3), np.uint8), 2)
    trackers.message("hello")
    trackers.result({"step": 2, "test_top1": 0.5})
    trackers.close()
    assert [what for what, _ in first.heard] == ["start", "step", "evaluation", "image", "message", "result", "close"]
    assert first.heard == second.heard


def test_a_failing_tracker_is_reported_once_closed_and_dropped_and_the_others_go_on() -> None:
    reports: list[str] = []
    failing, healthy = Failing(), Notes()
    trackers = Trackers([failing, healthy], report=reports.append)
    for step in (1, 2, 3):
        trackers.step({"step": step})
    assert reports == ["Failing failed and is dropped: OSError: no space left"]
    assert trackers.members == [healthy]
    assert failing.heard == [("close", None)]
    assert [record["step"] for what, record in healthy.heard if what == "step"] == [1, 2, 3]


def test_without_a_report_function_the_failure_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Trackers([Failing()]).step({"step": 1})
    captured = capsys.readouterr()
    assert captured.err == "Failing failed and is dropped: OSError: no space left\n"
    assert captured.out == ""


def test_an_interruption_by_keyboard_passes_through() -> None:
    class Pressed(Tracker):
        def step(self, record: Record) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers([Pressed()]).step({"step": 1})


def test_a_tracker_that_defines_one_method_ignores_the_rest(tmp_path: Path) -> None:
    class OnlyMessages(Tracker):
        def message(self, text: str) -> None:
            (tmp_path / "said").write_text(text)

    tracker = OnlyMessages()
    tracker.start({})
    tracker.step({"step": 1})
    tracker.message("yes")
    tracker.close()
    assert (tmp_path / "said").read_text() == "yes"


def test_settings_have_defaults_and_refuse_a_step_interval_of_zero() -> None:
    assert TrackSettings() == TrackSettings(tensorboard=True, step_every=10)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        TrackSettings(step_every=0)
