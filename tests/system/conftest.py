"""The command as a user starts it: a process of its own, in a folder of its own, with a cache of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Commands:
    """Starts `groundup` in `folder`. `cache`: where decoded images are kept."""

    folder: Path
    cache: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "GROUNDUP_CACHE": str(self.cache), "PYTHONUNBUFFERED": "1"}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """A running command; standard error goes into `folder`/stderr, to be watched."""
        with open(self.folder / "stderr", "w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "groundup", *map(str, arguments)],
                cwd=self.folder,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.started.append(process)
        return process

    def run(self, *arguments: str | Path, status: int = 0) -> str:
        """Standard output of a command that has to end with `status`."""
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=200)
        assert process.returncode == status, f"status {process.returncode}: {self.said()}"
        return out

    def said(self) -> str:
        """What the last command has written to standard error so far."""
        return (self.folder / "stderr").read_text()

    def wait(self, happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 100) -> None:
        """Until `happened`, which must be while the process lives."""
        end = time.monotonic() + seconds
        while not happened():
            assert process.poll() is None, f"the run ended first: {self.said()}"
            assert time.monotonic() < end, f"nothing for {seconds} s: {self.said()}"
            time.sleep(0.0005)

    def finish(self, process: subprocess.Popen[str]) -> int:
        """The exit status of a command that is about to end."""
        process.communicate(timeout=100)
        return process.returncode


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests but those about the cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def groundup(tmp_path: Path, shared_cache: Path) -> Iterator[Commands]:
    """Commands in the folder of this test; what still runs at its end is killed."""
    commands = Commands(tmp_path, shared_cache)
    yield commands
    for process in commands.started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def make_commands(shared_cache: Path) -> Callable[[Path], Commands]:
    """make_commands(folder), for fixtures that outlive a test."""
    return lambda folder: Commands(folder, shared_cache)


@dataclass(frozen=True)
class Watch:
    """What a run folder tells about the run in it."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def step(self) -> int:
        """The step of the newest whole checkpoint, -1 if there is none."""
        if not self.checkpoints.is_dir():
            return -1
        return max((int(name[5:]) for name in os.listdir(self.checkpoints) if name.startswith("step-")), default=-1)

    def is_saving(self) -> bool:
        """Whether a checkpoint is half written."""
        return self.checkpoints.is_dir() and any(name.startswith(".building-") for name in os.listdir(self.checkpoints))

    def weights(self) -> bytes:
        """The weights of the last checkpoint."""
        return (self.checkpoints / "last" / "model.safetensors").read_bytes()

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl without what depends on the clock."""
        lines = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.fixture
def watch() -> Callable[[Path], Watch]:
    """watch(folder): see `Watch`."""
    return Watch


# 24 steps in 4 epochs of 6 steps with a checkpoint after every step; validation takes many forward passes of one image,
# so that a signal can be sent while it is going on.
WATCHED = [
    "digits",
    "model.width=8",
    "data.limit=450",
    "data.validation=0.667",
    "evaluate.batch_size=1",
    "train={epochs: 4, batch_size: 25, threads: 1}",
    "checkpoint={every: 1step, keep: 3}",
    "track.tensorboard=false",
]
EPOCH = 6


@pytest.fixture(scope="session")
def watched() -> list[str]:
    """The arguments of a run that is slow where it is to be interrupted."""
    return WATCHED


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, make_commands: Callable[[Path], Commands]) -> Watch:
    """The watched run from start to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    make_commands(folder).run("train", *WATCHED, "--run", "run")
    return Watch(folder / "run")
