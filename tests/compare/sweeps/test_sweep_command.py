"""`groundup sweep` as a command: a dry run, its cost, and failed runs that are tried again."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import FIXED

Write = Callable[..., Path]


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
