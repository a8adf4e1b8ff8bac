"""`groundup evaluate` as a user starts it: one run in depth, two runs against each other."""

import json
from typing import Any

TINY = ("model={name: resnet18, stem: small, width: 8}", "train={epochs: 2, threads: 1}", "data.validation=0.1")


def test_two_runs_are_evaluated_in_depth_and_compared(groundup: Any) -> None:
    for seed in (0, 1):
        groundup.run("train", "digits", *TINY, f"seed={seed}", "--run", f"run-{seed}")
    summary = json.loads((groundup.folder / "run-0" / "summary.json").read_text())
    said = groundup.run(
        "evaluate", "run-0", "--calibration", "--generalisation", "--recalibrate", "--duplicates", "--mistakes"
    )
    assert f"{summary['top1']:.2%}" in said
    for part in ("Calibration (test)", "temperature", "Generalisation", "Near-duplicates in train", "hardest classes"):
        assert part in said
    assert said.rstrip().endswith("run-0/evaluation.html")
    found = json.loads(groundup.run("evaluate", "run-0", "run-1", "--ensemble", "--json"))
    assert found["runs"][0]["top1"] == summary["top1"]
    assert found["comparison"]["ensemble"]["members"] == 2
    assert found["comparison"]["groups"][0]["seeds"] == [0, 1]
    known = json.loads((groundup.folder / "run-0" / "evaluation.json").read_text())["sections"]
    assert set(known) >= {"accuracy", "comparison", "calibration", "mistakes"}
    assert str(groundup.folder) not in (groundup.folder / "run-0" / "evaluation.html").read_text()
    assert not list((groundup.folder / "run-0").glob(".*.tmp"))


def test_a_mistake_of_the_caller_is_told_before_anything_is_measured(groundup: Any) -> None:
    groundup.run("train", "digits", *TINY, "--run", "run")
    groundup.run("evaluate", "run", "--ensemble", status=2)
    assert "--ensemble: needs at least 2 runs, got 1" in groundup.said()
    assert not (groundup.folder / "run" / "evaluation.json").exists()
