"""The metric of a sweep is that of the weights that its runs report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import GroundupError, UsageError
from groundup.compare.sweeps.sweep_file import read_sweep
from groundup.compare.sweeps.sweeping import begin
from groundup.compare.sweeps.worker import metric_of
from groundup.recipe import load_recipe
from groundup.runs.folder import RunFolder

from ..conftest import FIXED

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("metric", "model", "expected"),
    [("validation_loss", "best", 1.2), ("validation_loss", "last", 1.5), ("validation_top1", "best", 0.9)],
)
def test_the_metric_is_that_of_the_weights_that_the_run_reports(
    metric: str, model: str, expected: float, sweep_file: Write, tmp_path: Path
) -> None:
    lines = [(10, 0.5, 0.9), (20, 0.9, 1.2), (30, 0.9, 1.3), (40, 0.7, 1.5)]
    rows = [{"step": step, "validation_top1": top1, "validation_loss": loss} for step, top1, loss in lines]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sweep = read_sweep(sweep_file(metric=metric))
    assert metric_of(sweep, RunFolder(tmp_path), load_recipe("digits", [f"evaluate.model={model}"])) == expected


def test_a_last_evaluation_that_is_no_number_is_no_result(sweep_file: Write, tmp_path: Path) -> None:
    rows = [{"step": 10, "validation_loss": 1.0}, {"step": 20, "validation_loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(GroundupError, match="is not a number at step 20"):
        metric_of(read_sweep(sweep_file(metric="validation_loss")), RunFolder(tmp_path), load_recipe("digits"))


def test_a_metric_of_other_weights_than_the_run_reports_is_refused(sweep_file: Write, tmp_path: Path) -> None:
    averaged = {**FIXED, "average": {"name": "ema", "horizon": "2step"}}
    with pytest.raises(UsageError, match="reports the average of its weights"):
        begin(read_sweep(sweep_file(fixed=averaged)), tmp_path / "sweep")
    raw = {**averaged, "evaluate.weights": "model"}
    with pytest.raises(UsageError, match="reports the trained weights"):
        begin(read_sweep(sweep_file(fixed=raw, metric="average_validation_top1")), tmp_path / "sweep")
