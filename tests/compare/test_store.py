"""The store alone: what it hands out, proposes, and ends, without any training."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError, UsageError
from groundup.compare.status import is_over, result_lines, summary_of
from groundup.compare.storages import JournalFile
from groundup.compare.store import Outcome, Store
from groundup.compare.sweep_file import read_sweep
from groundup.compare.sweeping import begin
from groundup.compare.worker import Watch
from groundup.tracking import Trackers

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


def test_a_sweep_is_over_when_its_budget_lets_no_other_run_begin(sweep_file: Write, tmp_path: Path) -> None:
    store = begin(read_sweep(sweep_file(seeds=1, budget={"runs": 1})), tmp_path / "sweep")
    assert not is_over(store)
    lease, _ = store.take("worker")
    assert lease is not None
    assert not is_over(store)  # it runs
    store.give_back(lease)
    assert not is_over(store)  # it has begun, and is gone on with
    lease, _ = store.take("worker")
    assert lease is not None
    assert store.finish(lease, Outcome("done", None, 0.5))
    assert [run.state for run in store.runs()] == ["done", "waiting"]
    assert is_over(store)
    assert store.take("worker") == (None, True)


def test_a_search_is_not_over_while_its_budget_has_room(sweep_file: Write, tmp_path: Path) -> None:
    file = sweep_file(grid=None, search={"space": {"schedule.lr": LR}}, seeds=1, budget={"runs": 2})
    store = begin(read_sweep(file), tmp_path / "sweep")
    for begun in range(2):
        assert not is_over(store), begun
        lease, _ = store.take("worker")
        assert lease is not None
        assert store.finish(lease, Outcome("done", None, 0.5))
    assert is_over(store)


def test_a_configuration_with_failed_seeds_stands_after_the_complete_ones_and_is_never_the_best(
    sweep_file: Write, tmp_path: Path
) -> None:
    store = begin(read_sweep(sweep_file(seeds=2)), tmp_path / "sweep")
    outcomes = {"000-seed0": 0.9, "000-seed1": None, "001-seed0": 0.5, "001-seed1": 0.6}
    while (lease := store.take("worker")[0]) is not None:
        value = outcomes[lease.name]
        assert store.finish(lease, Outcome("failed" if value is None else "done", "diverged", value))
        if lease.number == 0:
            assert summary_of(store)["best"] is None
    said = summary_of(store)
    assert [(row["configuration"], row["complete"]) for row in said["configurations"]] == [
        ("001", True),
        ("000", False),
    ]
    assert said["best"]["configuration"] == "001"
    assert said["configurations"][1]["missing"] == {"1": "failed"}
    assert "(INCOMPLETE: seed 1 failed)" in result_lines(store)[1]


class Away(JournalFile):
    """A journal that can be out of reach, as a database is while it is started again."""

    away = False

    @contextmanager
    def locked(self) -> Iterator[float]:
        if self.away:
            raise GroundupError("the database does not answer")
        with super().locked() as now:
            yield now


def test_a_report_that_did_not_get_through_is_told_later_and_pruning_goes_on(sweep_file: Write, tmp_path: Path) -> None:
    prune = {"name": "median", "start": "1step", "finished": 1}
    search = {"space": {"schedule.lr": LR}}
    file = sweep_file(grid=None, search=search, seeds=1, budget={"runs": 3}, prune=prune)
    folder = begin(read_sweep(file), tmp_path / "sweep").folder
    storage = Away(folder)
    store = Store(folder, storage, "small")
    lease, _ = store.take("worker")
    assert lease is not None
    for step in (5, 10, 15, 20):
        assert store.report(lease, step, 0.5, Clock(5, 20)) == "go on"
    assert store.finish(lease, Outcome("done", None, 0.5))

    lease, _ = store.take("worker")
    assert lease is not None
    watch = Watch(store, lease)
    told = Trackers([watch])
    told.start({"total_steps": 20, "epochs": 4.0})
    storage.away = True
    told.evaluation({"step": 5, "validation_top1": 0.8})
    told.evaluation({"step": 10, "validation_top1": 0.6})
    assert watch.stop.pending is None
    storage.away = False
    told.evaluation({"step": 15, "validation_top1": 0.1})
    own = store._study.get_trials(deepcopy=False)[lease.number]
    assert own.user_attrs["reports:0"] == {"5": 0.8, "10": 0.6, "15": 0.1}
    assert watch.verdict == "go on"  # its best so far counts, by the rule of the median
    storage.away = True
    told.evaluation({"step": 20, "validation_top1": 0.2})
    storage.away = False
    assert watch.catch_up() == "go on"
    assert store.runs()[lease.number].step == 20

    lease, _ = store.take("worker")
    assert lease is not None
    watch = Watch(store, lease)
    told = Trackers([watch])
    told.start({"total_steps": 20, "epochs": 4.0})
    storage.away = True
    told.evaluation({"step": 5, "validation_top1": 0.1})
    assert watch.verdict == "go on"
    storage.away = False
    told.evaluation({"step": 10, "validation_top1": 0.1})
    assert watch.verdict == "prune"


@pytest.mark.parametrize("content", ["notes", "another sweep", "another base"])
def test_a_sweep_in_a_database_does_not_write_into_a_folder_that_is_not_its_own(
    content: str, sweep_file: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    if content == "notes":
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    else:
        begin(read_sweep(sweep_file()), folder)
    if content == "another base":
        (folder / "base.yaml").write_text("name: mine\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match=r"is (not the folder of a|the folder of another) sweep") as caught:
        begin(read_sweep(sweep_file(storage="postgresql://nobody@127.0.0.1:9/none")), folder)
    assert "--folder" in (caught.value.hint or "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
