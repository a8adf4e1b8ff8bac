"""metrics.jsonl: lines that survive a kill, a resume that cuts them back."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.basis.errors import GroundupError
from groundup.tracking import MetricsFile, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


def filled(path: Path, steps: int) -> MetricsFile:
    metrics = MetricsFile(path)
    for step in range(1, steps + 1):
        metrics.append({"step": step * 10, "epoch": step, "train_loss": 1 / 3 / step})
    return metrics


def test_each_evaluation_is_one_line_that_reads_back_exactly(path: Path) -> None:
    filled(path, 3).close()
    assert len(path.read_text().splitlines()) == 3
    assert read(path)[2] == {"step": 30, "epoch": 3, "train_loss": 1 / 3 / 3}


def test_a_line_is_in_the_file_before_append_returns(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.evaluation({"step": 1})
    assert path.read_text() == '{"step": 1}\n'
    metrics.close()


def test_a_resume_drops_the_lines_after_its_checkpoint_and_goes_on(path: Path) -> None:
    metrics = filled(path, 5)
    metrics.cut_back(30)
    metrics.append({"step": 35})
    metrics.close()
    assert [record["step"] for record in read(path)] == [10, 20, 30, 35]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_cutting_back_a_file_that_does_not_exist_does_nothing(path: Path) -> None:
    MetricsFile(path).cut_back(10)
    assert not path.exists()


def test_what_is_not_finite_becomes_null(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.append({"step": 1, "train_loss": float("nan"), "top": [float("inf"), 1.5], "deep": {"x": -float("inf")}})
    metrics.close()
    assert path.read_text() == '{"step": 1, "train_loss": null, "top": [null, 1.5], "deep": {"x": null}}\n'


def test_numbers_of_torch_and_numpy_are_written_as_numbers(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.append({"step": torch.tensor(4), "lr": np.float64(0.5), "loss": torch.tensor(float("nan"))})
    metrics.close()
    assert read(path) == [{"step": 4, "lr": 0.5, "loss": None}]


@pytest.mark.parametrize("torn", ['{"step": 40, "ep', '{"step"', "{", "\x00\x00\x00"])
def test_a_half_written_last_line_is_dropped_and_the_next_append_is_whole(path: Path, torn: str) -> None:
    filled(path, 3).close()
    with path.open("a") as stream:
        stream.write(torn)
    assert [record["step"] for record in read(path)] == [10, 20, 30]
    again = MetricsFile(path)
    again.append({"step": 40})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30, 40]


def test_a_last_line_that_lacks_only_its_end_is_kept(path: Path) -> None:
    filled(path, 2).close()
    path.write_bytes(path.read_bytes()[:-1])
    again = MetricsFile(path)
    again.append({"step": 30})
    again.close()
    assert [record["step"] for record in read(path)] == [10, 20, 30]


def test_a_damaged_line_in_the_middle_is_named_and_not_skipped(path: Path) -> None:
    filled(path, 3).close()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:9], lines[2]]) + "\n")
    with pytest.raises(GroundupError, match=r"metrics\.jsonl: line 2 of 3 is not a JSON object"):
        read(path)


def test_lines_survive_a_kill(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from groundup.tracking import MetricsFile\n"
        "metrics = MetricsFile(Path(sys.argv[1])); step = 0\n"
        "while True:\n"
        "    step += 1; metrics.append({'step': step, 'epoch': step / 7}); print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if int(line) == 20:
                os.kill(process.pid, signal.SIGKILL)
                break
        told = [int(line) for line in process.stdout.read().split()] or [20]
    steps = [record["step"] for record in read(path)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= told[-1]


def test_a_line_that_does_not_fit_on_the_disk_is_an_error_and_leaves_whole_lines(path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from groundup.tracking import MetricsFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)); metrics = MetricsFile(Path(sys.argv[1]))\n"
        "for step in range(10): metrics.append({'step': step, 'x': 1.25})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert path.read_text() == '{"step": 0, "x": 1.25}\n{"step": 1, "x": 1.25}\n'
