"""What fails a run alone, and what ends the worker and leaves its run as it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin, run_workers

from ..conftest import FIXED, write_arrays
from .conftest import carried_out

Write = Callable[..., Path]


def test_failing_runs_are_recorded_with_their_reason_and_the_sweep_goes_on(sweep_file: Write, tmp_path: Path) -> None:
    bundles = {
        "diverges": {"schedule.lr": 1e30},
        "too_small_a_batch": {"train.batch_size": 4000},
        "learns": {"schedule.lr": 0.05},
    }
    store = carried_out(sweep_file(grid={"how": bundles}, seeds=1), tmp_path / "sweep")
    first, second, third = store.runs()
    assert first.state == "failed"
    assert (first.reason or "").startswith("NonFiniteLoss: the loss")
    assert second.state == "failed"
    assert (second.reason or "").startswith("UsageError: ")
    assert "batch_size" in (second.reason or "")
    assert third.state == "done"
    told = json.loads((store.folder / "sweep.json").read_text())
    assert [run["state"] for run in told["runs"]] == ["failed", "failed", "done"]
    assert told["runs"][0]["reason"] == first.reason
    assert told["mode"] == "max"
    # The same command again has nothing to do.
    carried_out(sweep_file(grid={"how": bundles}, seeds=1), tmp_path / "sweep")
    assert store.runs() == [first, second, third]


def test_the_number_of_a_run_of_another_recipe_is_not_taken(sweep_file: Write, tmp_path: Path) -> None:
    other = carried_out(sweep_file(seeds=1, fixed={**FIXED, "train.epochs": 1.5}), tmp_path / "other")
    store = begin(read_sweep(sweep_file(seeds=1)), tmp_path / "sweep")
    (store.folder / "runs").mkdir(exist_ok=True)
    name = store.runs()[0].name
    (other.folder / "runs" / name).rename(store.folder / "runs" / name)
    run_workers(store, StopRequest(), lambda line: None)
    first = next(run for run in store.runs() if run.name == name)
    assert (first.state, first.value) == ("failed", None)
    assert "holds a run of another recipe; what differs: train" in (first.reason or "")


def test_missing_data_ends_the_worker_and_no_run(sweep_file: Write, tmp_path: Path) -> None:
    photos, moved = tmp_path / "photos.npz", tmp_path / "moved.npz"
    file = sweep_file(seeds=1, fixed={**FIXED, "data.source": f"arrays:{photos}"})
    with pytest.raises(UsageError, match=r"there is no file .*photos\.npz"):
        begin(read_sweep(file), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()  # so that the path can be mended
    write_arrays(photos)
    store = begin(read_sweep(file), tmp_path / "sweep")
    photos.rename(moved)
    with pytest.raises(UsageError, match=r"there is no file .*photos\.npz"):
        run_workers(store, StopRequest(), lambda line: None)
    assert [(run.state, run.reason, run.owner) for run in store.runs()] == [("waiting", None, None)] * 2
    moved.rename(photos)
    run_workers(store, StopRequest(), lambda line: None)
    assert [run.state for run in store.runs()] == ["done"] * 2


def test_data_that_the_sweep_varies_may_fail_its_run_alone(sweep_file: Write, tmp_path: Path) -> None:
    write_arrays(tmp_path / "photos.npz")
    sources = [f"arrays:{tmp_path}/missing.npz", f"arrays:{tmp_path}/photos.npz"]
    store = carried_out(sweep_file(seeds=1, grid={"data.source": sources}), tmp_path / "sweep")
    assert [run.state for run in store.runs()] == ["failed", "done"]


def test_a_device_that_this_machine_has_not_ends_the_worker_and_no_run(sweep_file: Write, tmp_path: Path) -> None:
    import torch

    missing = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    store = begin(read_sweep(sweep_file(seeds=1, fixed={**FIXED, "train.device": missing})), tmp_path / "sweep")
    with pytest.raises(UsageError, match="this machine and this torch do not have it"):
        run_workers(store, StopRequest(), lambda line: None)
    assert [run.state for run in store.runs()] == ["waiting"] * 2
