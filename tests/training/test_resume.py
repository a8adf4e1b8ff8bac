"""A run that was stopped and resumed equals the uninterrupted one bit for bit: weights, optimizer, metrics.

A new method adds one line to METHODS.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL_SPEED_NET = {"name": "speed_net", "widths": [8, 12, 16], "middles": [8, 8, 12]}
GROWING = [{"from": "3step", "set": {"train.resolution": 12}}, {"from": "0.6dur", "set": {"train.resolution": 14}}]

MIXUP_AND_CUTMIX = [{"name": "mixup", "alpha": 0.5}, {"name": "cutmix", "alpha": 1.0}]

METHODS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": {"name": "adamw"}, "schedule": {"name": "cosine", "lr": 1e-3}},
    "muon on speed_net": {
        "data": {"resolution": 12},
        "model": SMALL_SPEED_NET,
        "optimizer": {"name": "muon"},
        "augment": {"policy": [{"name": "pad_crop", "mode": "reflect"}, {"name": "flip", "alternate": True}]},
    },
    "micro-batches": {"train": {"micro_batch": 12}},
    "balanced sampling": {"train": {"sampling": "balanced"}},
    "phases": {
        "train": {"resolution": 10},
        "phases": [*GROWING, {"from": "5step", "set": {"augment.policy": [], "loss.label_smoothing": 0.2}}],
    },
    "dropout": {"model": {"name": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.3}},
    "short last batch": {"train": {"drop_last": False, "epochs": 2}},
    "class weights": {"loss": {"class_weights": "balanced", "label_smoothing": 0.1}},
    "clipping": {"train": {"clip_norm": 0.5}},
    "cycled momentum": {"schedule": {"cycle_momentum": True}},
    "all operations": {"augment": {"policy": [{"name": "cutout", "size": 3}, {"name": "flip"}]}},
    "bf16": {"train": {"precision": "bf16"}},
    "contiguous": {"train": {"channels_last": False}},
    "mixing per batch": {"mix": {"methods": MIXUP_AND_CUTMIX, "clean": 0.2}},
    "mixing per sample": {
        "mix": {"methods": MIXUP_AND_CUTMIX, "per": "sample"},
        "train": {"drop_last": False, "epochs": 2},
    },
    "phases of everything": {
        "model": {"name": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.3},
        "mix": {"methods": MIXUP_AND_CUTMIX},
        "phases": [
            {"from": "3step", "set": {"model.dropout": 0.1, "mix": {"methods": [{"name": "mixup", "alpha": 0.2}]}}},
            {"from": "5step", "set": {"mix": {"methods": []}, "model.dropout": 0}},
            {"from": "7step", "set": {"schedule": {"name": "cosine", "lr": 0.01}}},
        ],
    },
    "stochastic depth": {"model": {"stochastic_depth": 0.5}},
    "ema": {"average": {"name": "ema", "horizon": "3step"}},
    "ema every two steps, late": {"average": {"name": "ema", "horizon": "4step", "every": "2step", "start": "3step"}},
    "swa": {"average": {"name": "swa", "start": "4step", "every": "2step", "lr": 0.01, "anneal": "2step"}},
    "sam": {"optimizer": {"sam": {"rho": 0.1}}},
    "sam every second step, late, in micro-batches with dropout": {
        "model": {"name": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.3},
        "optimizer": {"sam": {"rho": 0.1, "every": "2step", "from": "3step"}},
        "train": {"micro_batch": 12},
    },
    "plateau and early stopping in flight": {
        "schedule": {
            "name": "plateau",
            "lr": 0.05,
            "factor": 0.5,
            "patience": "0step",
            "threshold": 10.0,
            "threshold_mode": "abs",
        },
        "evaluate": {"every": "3step"},
        "stop": {"early": {"patience": "9step"}, "target": {"value": 1.0}},
    },
    "best of an average": {
        "average": {"name": "ema", "horizon": "2step"},
        "evaluate": {"model": "best", "every": "3step"},
        "checkpoint": {"keep_every": "4step"},
    },
    "restarts in a sequence": {
        "schedule": {
            "name": "sequence",
            "parts": [
                {"schedule": {"name": "ramp", "start_lr": 0.01, "lr": 0.05}, "length": "3step"},
                {"schedule": {"name": "cosine_restarts", "lr": 0.05, "period": "3step"}},
            ],
        }
    },
    "own intervals": {"evaluate": {"every": "7step"}, "checkpoint": {"every": "3step"}},
}
every_method = pytest.mark.parametrize("changes", METHODS.values(), ids=METHODS.keys())


@every_method
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    changes: dict[str, Any], lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    whole = lab.run(tmp_path / "whole", changes)
    assert whole.state.step == whole.job.clock.total_steps == 10
    # In the middle of an epoch, in an evaluation, on an epoch boundary (of four steps), one step before the end.
    stopped = tmp_path / "stopped"
    assert lab.run(stopped, changes, stop_after=2).state.step == 2
    evaluating = lab.run(stopped, changes, stop_in_evaluation=0).state
    assert (evaluating.step > 2, evaluating.evaluated_at) == (True, -1)
    assert lab.run(stopped, changes, stop_after=8 - evaluating.step).state.step == 8
    assert lab.run(stopped, changes, stop_after=1).state.step == 9
    resumed = lab.run(stopped, changes)
    assert differences(whole.outcome, resumed.outcome) == []


def test_a_run_that_was_killed_between_checkpoints_goes_on_from_the_last_one(
    lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    whole = lab.run(tmp_path / "whole")
    killed = tmp_path / "killed"
    lab.run(killed, stop_after=7)
    newest = lab.store(killed).all()[0]
    assert newest.name == "step-0000007"
    for file in newest.iterdir():  # as if the kill had come before the checkpoint of step 7
        file.unlink()
    newest.rmdir()
    lab.store(killed).clean()
    assert differences(whole.outcome, lab.run(killed).outcome) == []


@pytest.mark.parametrize("stops", [[0], [0, 0, 10], [1] * 10, [4, 4], [8]])
def test_it_does_not_matter_where_and_how_often_a_run_is_stopped(
    stops: list[int], lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    whole = lab.run(tmp_path / "whole")
    for steps in stops:
        lab.run(tmp_path / "stopped", stop_after=steps)
    assert differences(whole.outcome, lab.run(tmp_path / "stopped").outcome) == []


def test_interrupted_in_the_last_evaluation_it_only_evaluates_again(
    lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    whole = lab.run(tmp_path / "whole")
    assert len(whole.lines) == 3
    stopped = lab.run(tmp_path / "stopped", stop_in_evaluation=2)
    assert (stopped.state.step, stopped.state.evaluated_at) == (10, 8)
    resumed = lab.run(tmp_path / "stopped")
    assert resumed.steps == []
    assert differences(whole.outcome, resumed.outcome) == []


AVERAGED: dict[str, Any] = {"average": {"name": "ema", "horizon": "3step"}, "evaluate": {"every": "4step"}}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_average_whose_evaluation_was_interrupted_is_saved_with_its_own_statistics(
    number: int, lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    whole = lab.run(tmp_path / "whole", AVERAGED)
    stopped = lab.run(tmp_path / "stopped", AVERAGED, stop_in_evaluation=number)
    assert stopped.state.evaluated_at < stopped.state.step, "interrupted before anything was measured"
    resumed = lab.run(tmp_path / "stopped", AVERAGED)
    assert differences(whole.outcome, resumed.outcome) == []


def test_two_runs_of_one_recipe_are_equal_and_another_seed_is_not(
    lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    first, again, other = (lab.run(tmp_path / name, {"seed": seed}) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert differences(first.outcome, again.outcome) == []
    found = differences(first.outcome["weights"], other.outcome["weights"])
    assert ".fc.weight" in found
    assert differences(first.outcome["metrics"], other.outcome["metrics"]) != []


@pytest.mark.parametrize(
    "method",
    [
        *(
            "dropout",
            "balanced sampling",
            "all operations",
            "mixing per batch",
            "mixing per sample",
            "stochastic depth",
        ),
        *("sam", "phases of everything", "plateau and early stopping in flight", "restarts in a sequence"),
    ],
)
def test_randomness_that_is_switched_on_shows_in_the_weights(
    method: str, lab: Any, tmp_path: Path, differences: Callable[[Any, Any], list[str]]
) -> None:
    """Without this, the tests above would pass for a method that is never applied."""
    off: dict[str, dict[str, Any]] = {
        "mixing per batch": {},
        "mixing per sample": {"train": {"drop_last": False, "epochs": 2}},
        "stochastic depth": {},
        "sam": {},
        "phases of everything": {
            key: value for key, value in METHODS["phases of everything"].items() if key != "phases"
        },
        "plateau and early stopping in flight": {"schedule": {"name": "constant", "lr": 0.05}},
        "restarts in a sequence": {"schedule": {"name": "constant", "lr": 0.05}},
        "dropout": {"model": {"name": "wide_resnet", "depth": 10, "width": 1, "dropout": 0}},
        "balanced sampling": {},
        "all operations": {"augment": {"policy": []}},
    }
    on, without = lab.run(tmp_path / "on", METHODS[method]), lab.run(tmp_path / "off", off[method])
    assert differences(on.outcome["weights"], without.outcome["weights"]) != []
