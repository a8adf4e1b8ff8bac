"""The store alone: what it hands out, proposes, and ends, without any training."""

import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError, UsageError
from groundup.compare.sweeps.status import is_over, result_lines, summary_of, table_of
from groundup.compare.sweeps.storages import JournalFile
from groundup.compare.sweeps.store import Lease, Outcome, Store
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin
from groundup.compare.sweeps.worker import Watch
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
    """A journal that can be out of reach, as a database is while it is started again, or that time can pass by."""

    away: Exception | bool = False
    later = 0.0  # seconds

    @contextmanager
    def locked(self) -> Iterator[float]:
        if self.away:
            raise self.away if isinstance(self.away, Exception) else GroundupError("the database does not answer")
        with super().locked() as now:
            yield now + self.later


def watched(store: Store) -> tuple[Lease, Watch, Trackers]:
    """A run of 20 steps in 4 epochs that has begun: its lease, its watch, and the trackers that tell the watch."""
    lease, _ = store.take("worker")
    assert lease is not None
    watch = Watch(store, lease)
    told = Trackers([watch])
    told.start({"total_steps": 20, "epochs": 4.0})
    return lease, watch, told


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

    lease, watch, told = watched(store)
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

    lease, watch, told = watched(store)
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


@pytest.mark.parametrize(("steps", "fails"), [([], True), ([5, 5], True), ([5, 10], False)])
def test_a_run_whose_workers_die_one_after_another_without_getting_on_has_failed(
    steps: list[int], fails: bool, sweep_file: Write, tmp_path: Path
) -> None:
    folder = begin(read_sweep(sweep_file(seeds=1)), tmp_path / "sweep").folder
    storage = Away(folder)
    store = Store(folder, storage, "small")
    for death in range(3):
        lease, _ = store.take(f"worker {death}")
        assert lease is not None
        assert lease.name == "000-seed0"
        if death < len(steps):
            assert store.report(lease, steps[death], 0.5, Clock(5, 20)) == "go on"
        storage.later += 1000
    lease, _ = store.take("the next")
    assert lease is not None
    first = store.runs()[0]
    if not fails:
        assert (lease.name, first.deaths) == ("000-seed0", 2)
        return
    assert lease.name == "001-seed0"
    assert (first.state, first.owner) == ("failed", None)
    assert (first.reason or "").startswith("its worker died 3 times")
    assert store.open_again(failed=True) == 1
    again, _ = store.take("another")
    assert again is not None
    assert (again.name, store.runs()[0].deaths) == ("000-seed0", 0)


def test_a_slow_worker_that_loses_its_lease_again_and_again_has_not_died(sweep_file: Write, tmp_path: Path) -> None:
    folder = begin(read_sweep(sweep_file(seeds=1)), tmp_path / "sweep").folder
    storage = Away(folder)
    store = Store(folder, storage, "small")
    for _ in range(5):
        slow = store.take("slow")[0]
        assert slow is not None
        storage.later += 1000
        other = store.take("other")[0]
        assert other is not None
        assert slow.name == other.name == "000-seed0"
        store.give_back(other, seconds=60.0)
        storage.later += 1000
    assert store.runs()[0].state == "waiting"


def test_a_search_of_which_every_run_fails_ends_and_can_be_tried_again(sweep_file: Write, tmp_path: Path) -> None:
    search = {"space": {"schedule.lr": LR}, "startup": 3}
    store = begin(read_sweep(sweep_file(grid=None, search=search, seeds=2, budget={"hours": 8.0})), tmp_path / "sweep")

    def carry_out(outcome: Outcome, most: int = 1000) -> list[str]:
        names: list[str] = []
        while len(names) < most and (lease := store.take("worker")[0]) is not None:
            assert store.finish(lease, outcome)
            names.append(lease.name)
        return names

    with pytest.raises(
        GroundupError, match="last 10 configurations have all failed; 009-seed1: no such thing"
    ) as caught:
        carry_out(Outcome("failed", "no such thing"))
    assert "--retry-failed" in (caught.value.hint or "")
    failed = store.runs()
    assert len(failed) == 20
    assert store.open_again(failed=True) == 20
    assert [(run.name, run.point, run.state, run.reason) for run in store.runs()] == [
        (run.name, run.point, "waiting", None) for run in failed
    ]
    names = carry_out(Outcome("done", None, 0.5), most=24)
    assert names == [f"{number:03d}-seed{seed}" for number in range(12) for seed in (0, 1)]
    assert {run.state for run in store.runs()} == {"done"}
    assert store.open_again(failed=True) == 0
    assert [run.name for run in Store(store.folder, JournalFile(store.folder), "small").runs()] == names


def test_a_sweep_is_gone_on_with_under_another_budget_and_more_seeds(sweep_file: Write, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    old = begin(read_sweep(sweep_file(seeds=2, budget={"runs": 3})), folder)
    done = 0
    while (lease := old.take("worker")[0]) is not None:
        done += 1
        assert old.finish(lease, Outcome("done", None, float(done)))
    assert done == 3
    assert is_over(old)
    new = begin(read_sweep(sweep_file(seeds=[0, 1, 5], workers=2, lease=7.0)), folder)
    before = {run.name: run.value for run in new.runs() if run.state == "done"}
    assert before == {"000-seed0": 1.0, "000-seed1": 2.0, "001-seed0": 3.0}
    names = []
    while (lease := old.take("worker")[0]) is not None:  # whoever is at it already goes by the new file
        names.append(lease.name)
        assert old.finish(lease, Outcome("done", None, 9.0))
    assert names == ["000-seed5", "001-seed1", "001-seed5"]
    assert [row["seeds"] for row in summary_of(new)["configurations"]] == [3, 3]
    assert is_over(new)


@pytest.mark.parametrize("error", [OSError("the disk does not answer"), GroundupError("nor does the database")])
def test_a_lease_is_renewed_again_after_the_store_was_away(error: Exception, sweep_file: Write, tmp_path: Path) -> None:
    folder = begin(read_sweep(sweep_file(lease=0.5)), tmp_path / "sweep").folder
    storage = Away(folder)
    store = Store(folder, storage, "small")
    lease, _ = store.take("worker")
    assert lease is not None
    before = store.runs()[0].deadline
    storage.away = error
    with Watch(store, lease).renewing():
        time.sleep(0.3)
        storage.away = False
        end = time.monotonic() + 5
        while store.runs()[0].deadline == before:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_live_table_fits_the_terminal_and_shows_what_runs_and_the_best(sweep_file: Write, tmp_path: Path) -> None:
    from rich.console import Console

    rates = [round(0.001 * number, 3) for number in range(1, 41)]
    store = begin(read_sweep(sweep_file(seeds=1, grid={"schedule.lr": rates})), tmp_path / "sweep")
    for number in range(30):
        lease, _ = store.take("worker")
        assert lease is not None
        assert store.finish(lease, Outcome("done", None, number / 100))
    assert store.take("worker")[0] is not None

    def shown(height: int | None, width: int = 60) -> list[str]:
        written = io.StringIO()
        Console(width=width, height=20, file=written).print(table_of(store, height))
        return written.getvalue().splitlines()

    lines = shown(20)
    assert len(lines) < 20
    names = [word for line in lines for word in line.split() if word.endswith("-seed0")]
    assert names[:3] == ["030-seed0", "029-seed0", "028-seed0"]
    assert any(f"{40 - len(names)} more" in line for line in lines)
    assert sum("-seed0" in line for line in shown(None, 120)) == 40
    assert sum("-seed0" in line for line in shown(60)) == 40
