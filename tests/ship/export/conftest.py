"""What the tests of `groundup export` share: a finished run on digits, and the command."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import groundup
from groundup.cli.main import main

TINY = [
    "model={name: wide_resnet, depth: 10, width: 1}",
    "schedule={name: one_cycle, max_lr: 0.1}",
    "train={epochs: 6, batch_size: 50, threads: 1}",
    "data={limit: 600, validation: 0.25}",
]


@pytest.fixture(scope="module", autouse=True)
def _quiet_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # How fast an export is is not what these tests ask.
        patch.setattr("groundup.ship.export.check._ROUNDS", {1: 3, 32: 3})
        patch.setattr("groundup.ship.export.check._SECONDS", 0.1)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on digits. Tests that change it take `run`."""
    return groundup.train("digits", TINY, run=tmp_path_factory.mktemp("runs") / "tiny").folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """command("export", run): exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["groundup", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call
