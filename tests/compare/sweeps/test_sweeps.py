"""Whole sweeps of tiny runs: serial, by several workers that are killed, with failures, with pruning."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from groundup.basis.errors import UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.compare.sweeps.status import summary_of
from groundup.compare.sweeps.store import Store
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin, join, run_workers
from groundup.compare.sweeps.worker import Watch, work

from ..conftest import FIXED, write_arrays

Write = Callable[..., Path]
Start = Callable[[Path], "subprocess.Popen[bytes]"]


def carried_out(file: Path, folder: Path) -> Store:
    """A sweep by one worker in this process."""
    store = begin(read_sweep(file), folder)
    run_workers(store, StopRequest(), lambda line: None)
    return store


def results(folder: Path) -> dict[str, Any]:
    """What every run has learned: its weights, and its metrics without what depends on the clock."""
    found = {}
    for run in sorted((folder / "runs").iterdir()):
        if run.name.startswith("."):
            continue
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        numbers = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]
        found[run.name] = ((run / "checkpoints" / "last" / "model.safetensors").read_bytes(), numbers)
    return found


def done_in(journal: Path) -> Counter[tuple[int, str]]:
    """How often each run was taken down as done."""
    count: Counter[tuple[int, str]] = Counter()
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        for key, value in entry.get("user_attr", {}).items():
            if key.startswith("seed:") and value.get("state") == "done":
                count[entry["trial_id"], key] += 1
    return count


@pytest.fixture
def start() -> Iterator[Start]:
    """start(folder): a worker process; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def call(folder: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "groundup", "sweep", "work", str(folder), "--quiet"]
        started.append(subprocess.Popen(command, env={**os.environ}, stderr=subprocess.PIPE))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def run_of(process: "subprocess.Popen[bytes]", folder: Path) -> str | None:
    """The run that the worker is in the middle of: it holds its lock, and has saved two steps."""
    try:
        opened = [Path(file.path) for file in psutil.Process(process.pid).open_files()]
    except psutil.Error:
        return None
    names = [path.name[1:-5] for path in opened if path.parent.name == "runs" and path.name.endswith(".lock")]
    return next((name for name in names if (folder / "runs" / name / "checkpoints" / "step-0000002").exists()), None)


def test_two_workers_killed_twice_do_every_run_once_and_as_a_serial_sweep_does(
    sweep_file: Write, tmp_path: Path, start: Start
) -> None:
    file = sweep_file(lease=2.0)
    carried_out(file, tmp_path / "serial")
    expected = results(tmp_path / "serial")
    assert len(expected) == 4
    folder = tmp_path / "shared"
    begin(read_sweep(file), folder)
    workers = [start(folder), start(folder)]
    killed = []
    for _ in range(2):
        end = time.monotonic() + 120
        while (name := run_of(workers[0], folder)) is None:
            assert time.monotonic() < end
            assert workers[0].poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        workers[0].kill()
        killed.append(name)
        workers = [workers[1], start(folder)] if len(killed) == 1 else workers[1:]
    said = b"".join(worker.communicate(timeout=120)[1] for worker in workers)
    assert all(worker.returncode == 0 for worker in workers), said
    store = join(str(folder))
    assert [run.state for run in store.runs()] == ["done"] * 4
    assert set(done_in(folder / "journal.jsonl").values()) == {1}
    assert results(folder) == expected


def test_two_workers_of_one_command_equal_a_serial_sweep(sweep_file: Write, tmp_path: Path) -> None:
    expected = carried_out(sweep_file(seeds=1), tmp_path / "serial")
    store = carried_out(sweep_file(seeds=1, workers=2), tmp_path / "two")
    assert results(store.folder) == results(expected.folder)
    assert [(run.name, run.value) for run in store.runs()] == [(run.name, run.value) for run in expected.runs()]


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


def test_a_search_prunes_what_falls_behind_and_keeps_to_its_budget(sweep_file: Write, tmp_path: Path) -> None:
    file = sweep_file(
        grid=None,
        search={"space": {"schedule.lr": {"low": 1e-7, "high": 0.1, "log": True}}, "startup": 3},
        seeds=1,
        budget={"runs": 7},
        metric="validation_loss",
        prune={"name": "successive_halving", "start": "2step", "reduction": 2},
    )
    file.write_text(file.read_text().replace("checkpoint.every: 1step", "evaluate.every: 2step"))
    store = carried_out(file, tmp_path / "sweep")
    runs = store.runs()
    states = Counter(run.state for run in runs)
    assert len(runs) == 7
    assert states["pruned"] >= 1
    assert states["done"] >= 1
    assert states["pruned"] + states["done"] == 7
    whole = max(run.pflop for run in runs)
    assert all(0 < run.pflop < whole and run.value is None and run.reason for run in runs if run.state == "pruned")
    best = summary_of(store)["best"]
    assert best["mean"] == min(run.value for run in runs if run.value is not None)


def test_an_interrupted_sweep_gives_its_run_back_and_goes_on_with_it(
    sweep_file: Write, tmp_path: Path, start: Start
) -> None:
    file = sweep_file(seeds=1, fixed={**FIXED, "train.epochs": 6})
    expected = results(carried_out(file, tmp_path / "serial").folder)
    store = begin(read_sweep(file), tmp_path / "sweep")
    worker = start(store.folder)
    run = store.folder / "runs" / "000-seed0"
    end = time.monotonic() + 120
    while not (run / "checkpoints" / "step-0000004").exists():  # behind the first evaluation, at step 3 of 18
        assert time.monotonic() < end
        assert worker.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.002)
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=120)[1]
    assert worker.returncode == 143, said
    # Given back at once: nobody has to wait until the lease is over.
    assert [(one.state, one.owner, one.begun) for one in store.runs()] == [
        ("waiting", None, True),
        ("waiting", None, False),
    ]
    assert not (run / "summary.json").exists()
    learned = (run / "metrics.jsonl").read_text()
    assert learned
    work(store, StopRequest(), lambda line: None)
    assert [(one.state, one.reason) for one in store.runs()] == [("done", None)] * 2
    # It went on: the lines of before, their seconds included, are still there, and the result is that of a serial sweep.
    assert (run / "metrics.jsonl").read_text().startswith(learned)
    assert results(store.folder) == expected


def test_a_run_has_one_owner_until_its_lease_is_over(sweep_file: Write, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    one = begin(read_sweep(sweep_file(seeds=1, lease=0.5)), folder)
    other = join(str(folder))
    first, second = one.take("a")[0], other.take("b")[0]
    assert first is not None
    assert second is not None
    assert first.name != second.name
    assert other.take("c") == (None, False)
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        assert one.renew(first)
        time.sleep(0.1)
    taken, _ = other.take("c")
    assert taken is not None
    assert taken.name == second.name
    assert not one.renew(second)


def test_another_sweep_does_not_get_into_the_folder(sweep_file: Write, tmp_path: Path) -> None:
    from groundup.basis.errors import UsageError

    begin(read_sweep(sweep_file()), tmp_path / "sweep")
    with pytest.raises(UsageError, match="exists already"):
        begin(read_sweep(sweep_file(seeds=[1, 2])), tmp_path / "sweep")


def test_a_folder_belongs_to_the_sweep_that_made_it(sweep_file: Write, tmp_path: Path) -> None:
    from groundup.basis.errors import UsageError

    store = carried_out(sweep_file(seeds=1), tmp_path / "sweep")
    with pytest.raises(UsageError, match="is the folder of the sweep"):
        begin(read_sweep(sweep_file(name="another")), store.folder)
    (store.folder / "journal.jsonl").unlink()
    with pytest.raises(UsageError, match=r"has runs, but its store journal\.jsonl is gone"):
        begin(read_sweep(sweep_file(seeds=1)), store.folder)


@pytest.mark.parametrize(
    ("metric", "model", "expected"),
    [("validation_loss", "best", 1.2), ("validation_loss", "last", 1.5), ("validation_top1", "best", 0.9)],
)
def test_the_metric_is_that_of_the_weights_that_the_run_reports(
    metric: str, model: str, expected: float, sweep_file: Write, tmp_path: Path
) -> None:
    from groundup.compare.sweeps.worker import metric_of
    from groundup.recipe import load_recipe
    from groundup.runs.folder import RunFolder

    lines = [(10, 0.5, 0.9), (20, 0.9, 1.2), (30, 0.9, 1.3), (40, 0.7, 1.5)]
    rows = [{"step": step, "validation_top1": top1, "validation_loss": loss} for step, top1, loss in lines]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sweep = read_sweep(sweep_file(metric=metric))
    assert metric_of(sweep, RunFolder(tmp_path), load_recipe("digits", [f"evaluate.model={model}"])) == expected


def test_a_last_evaluation_that_is_no_number_is_no_result(sweep_file: Write, tmp_path: Path) -> None:
    from groundup.basis.errors import GroundupError
    from groundup.compare.sweeps.worker import metric_of
    from groundup.recipe import load_recipe
    from groundup.runs.folder import RunFolder

    rows = [{"step": 10, "validation_loss": 1.0}, {"step": 20, "validation_loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(GroundupError, match="is not a number at step 20"):
        metric_of(read_sweep(sweep_file(metric="validation_loss")), RunFolder(tmp_path), load_recipe("digits"))


def test_a_metric_of_other_weights_than_the_run_reports_is_refused(sweep_file: Write, tmp_path: Path) -> None:
    from groundup.basis.errors import UsageError

    averaged = {**FIXED, "average": {"name": "ema", "horizon": "2step"}}
    with pytest.raises(UsageError, match="reports the average of its weights"):
        begin(read_sweep(sweep_file(fixed=averaged)), tmp_path / "sweep")
    raw = {**averaged, "evaluate.weights": "model"}
    with pytest.raises(UsageError, match="reports the trained weights"):
        begin(read_sweep(sweep_file(fixed=raw, metric="average_validation_top1")), tmp_path / "sweep")


def test_a_batch_that_the_machine_chooses_is_refused(sweep_file: Write, tmp_path: Path) -> None:
    from groundup.basis.errors import UsageError

    with pytest.raises(UsageError, match=r"configuration 000 .*: train\.batch_size=auto"):
        begin(read_sweep(sweep_file(fixed={**FIXED, "train.batch_size": "auto"})), tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_what_a_sweep_writes_does_not_name_the_home_of_its_user(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "somebody"))
    write_arrays(tmp_path / "people" / "somebody" / "photos.npz")
    place = f"arrays:{tmp_path}/people/somebody/photos.npz"
    store = begin(read_sweep(sweep_file(seeds=1, fixed={**FIXED, "data.source": place})), tmp_path / "sweep")
    written = "".join(file.read_text() for file in store.folder.iterdir() if file.is_file())
    assert "arrays:~/photos.npz" in written
    assert "somebody" not in written


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


@pytest.mark.parametrize(
    "address",
    ["postgresql://me:secret@h/db", "postgresql://me@h/db?password=secret", "postgresql:///db?password=secret"],
)
def test_an_address_with_a_password_is_refused_without_repeating_it(address: str) -> None:
    from groundup.basis.errors import UsageError

    with pytest.raises(UsageError, match="no password in it") as caught:
        join(address)
    assert "secret" not in str(caught.value)


def test_half_a_line_of_a_killed_writer_is_no_harm(sweep_file: Write, tmp_path: Path) -> None:
    store = begin(read_sweep(sweep_file()), tmp_path / "sweep")
    with open(store.folder / "journal.jsonl", "a") as journal:
        journal.write('{"op_code": 8, "trial')
    other = join(str(store.folder))
    assert other.take("a")[0] is not None
    assert len(join(str(store.folder)).runs()) == 4


def test_a_signal_at_the_end_of_a_run_ends_the_sweep(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The result is told when the run has looked for a signal for the last time.
    monkeypatch.setattr(Watch, "result", lambda self, record: os.kill(os.getpid(), signal.SIGTERM))
    store = begin(read_sweep(sweep_file(seeds=1)), tmp_path / "sweep")
    with pytest.raises(Interrupted) as caught, StopRequest().listening() as stop:
        work(store, stop, lambda line: None)
    assert caught.value.exit_code == 143
    assert [run.state for run in store.runs()] == ["done", "waiting"]


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


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, status: int = 0) -> None:
    from groundup.cli.main import main

    monkeypatch.setattr(sys, "argv", ["groundup", "sweep", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code or 0) == status


def test_a_sweep_without_a_result_has_failed_and_its_runs_are_tried_again_on_request(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = sweep_file(seeds=1, fixed={**FIXED, "train": {"epochs": 2, "batch_size": 4000, "threads": 1}})
    command(monkeypatch, "run", file, status=1)
    said = capsys.readouterr().err
    assert "no run has a result" in said
    assert "--retry-failed" in said
    command(monkeypatch, "run", file, status=1)
    assert "begins" not in capsys.readouterr().err
    command(monkeypatch, "run", file, "--retry-failed", status=1)
    said = capsys.readouterr().err
    assert "2 failed runs wait again" in said
    assert said.count("begins") == 2


def test_a_dry_run_lists_runs_and_cost_and_starts_nothing(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = sweep_file(grid={"model.width": [8, 16]}, fixed={**FIXED, "model": {"name": "resnet18", "stem": "small"}})
    command(monkeypatch, "run", file, "--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in told["runs"]] == ["000-seed0", "000-seed1", "001-seed0", "001-seed1"]
    costs = [run["pflop"] for run in told["runs"]]
    assert costs[0] == costs[1] < costs[2] / 3
    assert told["pflop"] == pytest.approx(sum(costs))
    assert not (tmp_path / "runs").exists()
    command(monkeypatch, "run", file, "--dry-run")
    assert "4 runs" in capsys.readouterr().out


def test_the_cost_of_a_dry_run_is_that_of_the_run(
    sweep_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = sweep_file(grid={"schedule.lr": [0.05]}, seeds=1, fixed={**FIXED, "track.tensorboard": True})
    command(monkeypatch, "run", file, "--dry-run", "--json")
    planned = json.loads(capsys.readouterr().out)["pflop"]
    command(monkeypatch, "run", file, "--json")
    done = json.loads(capsys.readouterr().out)
    assert done["runs"]["done"] == 1
    assert done["pflop"] == pytest.approx(planned)
    assert not list(Path("runs/small/runs/000-seed0").glob("*.png"))
    [*_, hparams] = sorted(Path("runs/small/runs/000-seed0/tensorboard").iterdir())
    assert b"schedule.lr" in hparams.read_bytes()
    assert b"hparams" in hparams.read_bytes()
    command(monkeypatch, "status", "runs/small")
    shown = capsys.readouterr().out
    assert "1 done" in shown
    assert "schedule.lr=0.05" in shown
