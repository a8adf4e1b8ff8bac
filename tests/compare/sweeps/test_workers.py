"""Workers that are killed, interrupted or lose their lease: every run is done once, and as a serial sweep does it."""

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

from groundup.basis.interruption import Interrupted, StopRequest
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin, join
from groundup.compare.sweeps.worker import Watch, work

from ..conftest import FIXED
from .conftest import carried_out

Write = Callable[..., Path]


Start = Callable[[Path], "subprocess.Popen[bytes]"]


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
