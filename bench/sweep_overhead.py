"""What a sweep costs beside its training: the share of the wall clock of `groundup sweep run` that no run trains in.

    python bench/sweep_overhead.py --out bench/results/sweep_overhead.json

50 runs of digits of about two seconds each, in one worker, as a user starts them: a process of its own, so that the start of
Python, the imports and the opening of the data count as overhead. A run's seconds are those of its summary: from the
first step to the last result.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from kept import keep

from groundup.compare.report.collect import read_sweep
from groundup.runs.folder import environment


def measured(folder: Path, runs: int, epochs: float) -> dict[str, Any]:
    """One sweep, timed from outside."""
    sweep = {
        "name": "overhead",
        "base": "digits",
        "fixed": {"train.epochs": epochs, "data.validation": 0.1, "track.tensorboard": False},
        "random": {"count": runs, "space": {"schedule.max_lr": {"low": 0.05, "high": 0.2, "log": True}}},
        "seeds": 1,
    }
    file = folder / "overhead.yaml"
    file.write_text(yaml.safe_dump(sweep))
    command = [sys.executable, "-m", "groundup", "sweep", "run", str(file), "--folder", str(folder / "sweep")]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    seconds = sorted(run.seconds or 0.0 for run in read_sweep(folder / "sweep").runs)
    assert len(seconds) == runs
    return {
        "runs": runs,
        "wall_seconds": wall,
        "training_seconds": sum(seconds),
        "median_run_seconds": seconds[runs // 2],
        "overhead": 1 - sum(seconds) / wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="runs of the sweep")
    parser.add_argument("--epochs", type=float, default=2.5, help="length of a run")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="groundup-") as folder:
        result = {**measured(Path(folder), chosen.count, chosen.epochs), **environment()}
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
