"""`torchrun ... -m groundup train` and `resume` as a person starts them: two processes, told to stop, killed, started again.

Starting two processes takes many seconds on a busy machine, so each chain asks several things of the same run.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# 24 steps; validation takes long enough for a signal to arrive while something is under way.
RUN = [
    *("digits", "model.width=8", "data.limit=300", "data.validation=0.5", "evaluate.batch_size=2"),
    *("train={epochs: 4, batch_size: 25, threads: 1, collective_timeout: 60}", "checkpoint={every: 1step, keep: 3}"),
    *("track.tensorboard=false", "mix.methods=[{name: mixup}]"),
]
LAST = 24


class Torchrun:
    """Starts torchrun in `folder`; what it says goes to `folder`/said."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self._environment = folder, {**environment, "OMP_NUM_THREADS": "1"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        *arguments: str,
        options: tuple[str, ...] = (),
        machine: tuple[str, ...] = ("--standalone", "--nproc-per-node", "2"),
        said: str = "said",
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "torch.distributed.run", *machine, *options]
        with open(self.folder / said, "wb") as written:
            process = subprocess.Popen(
                [*command, "-m", "groundup", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdout=written,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def said(self, said: str = "said") -> str:
        return (self.folder / said).read_text()

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        process = self.start(*arguments, options=options)
        process.wait(timeout=200)
        assert process.returncode == 0, self.said()
        return self.said()

    def wait(self, happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 150
        while not happened():
            assert process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.001)

    def rank(self, number: int, process: subprocess.Popen[bytes]) -> psutil.Process:
        """The process of that rank."""
        for child in psutil.Process(process.pid).children():
            if child.environ().get("RANK") == str(number):
                return child
        raise AssertionError(f"no process has rank {number}")

    def close(self) -> None:
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def torchrun(tmp_path: Path, groundup: Any) -> Iterator[Torchrun]:
    """torchrun in the folder of this test."""
    started = Torchrun(tmp_path, groundup.environment())
    yield started
    started.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_commands: Any, shared_cache: Path) -> Path:
    """The run of two processes that nobody disturbed."""
    folder = tmp_path_factory.mktemp("two")
    started = Torchrun(folder, make_commands(folder).environment())
    try:
        said = started.run("train", *RUN, "--run-folder", "run")
    finally:
        started.close()
    assert said.count("test top-1") == 1, "process 0 alone speaks"
    assert "2 processes (gloo)" in said
    return folder / "run"


def test_what_the_files_of_a_run_say_of_two_processes(whole: Path) -> None:
    engine = json.loads((whole / "environment.json").read_text())["engine"]
    assert (engine["processes"], engine["backend"], engine["device"]) == (2, "gloo", "cpu")
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["processes"] == 2
    assert summary["steps"] == LAST
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12, 18, 24]


def test_sigterm_stops_both_and_the_run_goes_on_bit_for_bit_or_with_one_process(
    torchrun: Torchrun, groundup: Any, watch: Any, whole: Path, tmp_path: Path
) -> None:
    run = watch(tmp_path / "run")
    process = torchrun.start("train", *RUN, "--run-folder", "run")
    torchrun.wait(lambda: run.step() >= 8, process)
    pids = [torchrun.rank(number, process).pid for number in (0, 1)]
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=100)
    assert torchrun.said().count("stopped: SIGTERM; `groundup resume run` goes on") == 1
    assert not any(psutil.pid_exists(pid) for pid in pids)
    stopped_at = run.step()
    assert 8 <= stopped_at < LAST
    assert not (tmp_path / "run" / "summary.json").exists()
    subprocess.run(["cp", "-a", "run", "copy"], cwd=tmp_path, check=True)

    torchrun.run("resume", "run")
    assert run.weights() == watch(whole).weights()
    assert run.metrics() == watch(whole).metrics()

    groundup.run("resume", "copy")
    assert "2 processes trained the run; 1 go on, but not bit for bit" in groundup.said()
    one = watch(tmp_path / "copy")
    assert one.step() == LAST
    assert [line["step"] for line in one.metrics()] == [line["step"] for line in watch(whole).metrics()]
    machines = json.loads((tmp_path / "copy" / "environment.json").read_text())["resumed_on"]
    assert [machine["engine"]["processes"] for machine in machines] == [1]


def test_a_killed_process_ends_the_other_with_a_message_and_torchrun_starts_the_same_run_again(
    torchrun: Torchrun, watch: Any, whole: Path, tmp_path: Path
) -> None:
    run = watch(tmp_path / "runs" / "digits-001")
    process = torchrun.start("train", *RUN, options=("--max-restarts", "2"))
    torchrun.wait(lambda: run.step() >= 3, process)
    torchrun.rank(1, process).send_signal(signal.SIGKILL)
    torchrun.wait(lambda: run.step() >= 15, process)
    assert "another process of this run has died" in torchrun.said()
    torchrun.rank(0, process).send_signal(signal.SIGKILL)
    process.wait(timeout=150)
    assert process.returncode == 0, torchrun.said()
    assert "process 1: error: another process of this run has died" in torchrun.said()
    assert sorted(os.listdir(tmp_path / "runs")) == ["digits-001"], "every start went on with the same run"
    assert run.step() == LAST
    assert run.weights() == watch(whole).weights()
    assert run.metrics() == watch(whole).metrics()


def test_another_job_does_not_train_into_the_folder_and_a_mistake_is_told_once(torchrun: Torchrun, whole: Path) -> None:
    process = torchrun.start("train", *RUN, "--run-folder", str(whole))
    process.wait(timeout=150)
    assert process.returncode != 0
    assert torchrun.said().count("exists already, and a run is never overwritten") == 1


@pytest.mark.slow
def test_a_machine_that_vanishes_leaves_the_run_to_the_other_which_goes_on_alone(
    groundup: Any, watch: Any, tmp_path: Path
) -> None:
    """Two torchruns that have met, as on two machines; the second is killed with its process, and nobody says goodbye."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    torchrun = Torchrun(tmp_path, {**groundup.environment(), "GLOO_SOCKET_IFNAME": "lo"})
    machine = ("--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-id", "two-machines")
    machine += ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-conf", "last_call_timeout=20")
    run = watch(tmp_path / "runs" / "digits-001")
    try:
        first = torchrun.start("train", *RUN, machine=machine, said="first")
        end = time.monotonic() + 100
        while not any(c.status == "LISTEN" and c.laddr.port == port for c in psutil.net_connections("tcp")):
            assert time.monotonic() < end, torchrun.said("first")
            time.sleep(0.1)
        second = torchrun.start("train", *RUN, machine=machine, said="second")
        torchrun.wait(lambda: run.step() >= 3, first)
        for process in (second, *psutil.Process(second.pid).children()):
            process.send_signal(signal.SIGKILL)
        first.wait(timeout=250)
        said = torchrun.said("first") + torchrun.said("second")
        assert first.returncode == 0, said
    finally:
        torchrun.close()
    assert "2 processes (gloo)" in said
    assert "2 processes trained the run; 1 go on" in said
    assert os.listdir(tmp_path / "runs") == ["digits-001"]
    assert run.step() == LAST
    assert [line["step"] for line in run.metrics()] == [6, 12, 18, 24]
