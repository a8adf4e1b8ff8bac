"""The store alone: what it hands out, proposes, and ends, without any training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.basis.duration import Clock
from groundup.compare.store import Outcome, Store
from groundup.compare.sweep_file import read_sweep
from groundup.compare.sweeping import begin

Write = Callable[..., Path]
LR = {"low": 1e-4, "high": 1.0, "log": True}


def searched(file: Path, folder: Path, value_of: Callable[[dict[str, Any]], float]) -> Store:
    """A search whose runs cost 1 PFLOP each and end at once with `value_of` their point."""
    store = begin(read_sweep(file), folder)
    while (lease := store.take("worker")[0]) is not None:
        assert store.finish(lease, Outcome("done", None, value_of(lease.point), pflop=1.0, seconds=36.0))
    return store


def quality(point: dict[str, Any]) -> float:
    return -((math.log10(point["schedule.lr"]) + 1.5) ** 2)


@pytest.mark.parametrize("sampler", ["tpe", "cma_es"])
def test_a_search_gets_nearer_to_the_best(sweep_file: Write, tmp_path: Path, sampler: str) -> None:
    space = {"schedule.lr": LR, "optimizer.momentum": {"low": 0.0, "high": 0.99}}
    search = {"sampler": sampler, "startup": 5, "space": space}
    file = sweep_file(grid=None, search=search, seeds=1, budget={"runs": 30})
    values = [run.value or 0.0 for run in searched(file, tmp_path / "sweep", quality).runs()]
    assert len(values) == 30
    assert sum(values[-8:]) / 8 > sum(values[:8]) / 8
    assert max(values) > -0.05


def test_a_conditional_axis_is_proposed_only_where_it_is_active(sweep_file: Write, tmp_path: Path) -> None:
    space = {
        "optimizer": {"sgd": {"optimizer.name": "sgd"}, "adamw": {"optimizer.name": "adamw"}},
        "optimizer.momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
        "schedule.lr": LR,
    }
    file = sweep_file(grid=None, search={"space": space, "startup": 3}, seeds=1, budget={"runs": 12})
    points = [run.point for run in searched(file, tmp_path / "sweep", quality).runs()]
    assert {point["optimizer"] for point in points} == {"sgd", "adamw"}
    assert all(("optimizer.momentum" in point) == (point["optimizer"] == "sgd") for point in points)


@pytest.mark.parametrize(("budget", "runs"), [({"runs": 4}, 4), ({"pflop": 2.5}, 3), ({"hours": 0.05}, 5)])
def test_no_run_is_begun_beyond_the_budget(
    sweep_file: Write, tmp_path: Path, budget: dict[str, Any], runs: int
) -> None:
    search = {"space": {"schedule.lr": LR}}
    store = searched(sweep_file(grid=None, search=search, seeds=1, budget=budget), tmp_path / "search", quality)
    assert len(store.runs()) == runs
    grid = {"schedule.lr": [0.01 * number for number in range(1, 9)]}
    store = searched(sweep_file(grid=grid, seeds=1, budget=budget), tmp_path / "grid", quality)
    assert [run.state for run in store.runs()] == ["done"] * runs + ["waiting"] * (8 - runs)


def test_a_pruned_configuration_takes_its_waiting_seeds_with_it(sweep_file: Write, tmp_path: Path) -> None:
    prune = {"name": "median", "start": "1step", "finished": 1}
    file = sweep_file(grid=None, search={"space": {"schedule.lr": LR}}, seeds=3, budget={"runs": 6}, prune=prune)
    store = begin(read_sweep(file), tmp_path / "sweep")
    clock = Clock(5, 20)
    for _ in range(3):
        lease, _ = store.take("worker")
        assert lease is not None
        assert store.report(lease, 5, 0.5, clock) == "go on"
        assert store.finish(lease, Outcome("done", None, 0.5))
    first, second = store.take("worker")[0], store.take("other")[0]
    assert first is not None
    assert second is not None
    assert first.number == second.number == 1
    assert store.report(second, 5, 0.9, clock) == "go on"
    assert store.report(first, 5, 0.05, clock) == "prune"
    assert store.finish(first, Outcome("pruned", "fell behind"))
    assert store.report(second, 10, 0.9, clock) == "prune"
    assert store.finish(second, Outcome("pruned", "fell behind"))
    assert [run.state for run in store.runs()] == ["done"] * 3 + ["pruned"] * 3
    assert "seed 0" in (store.runs()[-1].reason or "")


def test_who_has_lost_its_lease_changes_nothing_any_more(sweep_file: Write, tmp_path: Path) -> None:
    store = begin(read_sweep(sweep_file()), tmp_path / "sweep")
    lease, _ = store.take("worker")
    assert lease is not None
    store.give_back(lease)
    before = store.runs()
    assert not store.renew(lease)
    assert store.report(lease, 1, 0.5, Clock(1, 2)) == "lost"
    assert not store.finish(lease, Outcome("done", None, 0.5))
    assert store.runs() == before
    again, _ = store.take("another")
    assert again is not None
    assert again.name == lease.name
