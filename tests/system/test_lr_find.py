"""The range test as a user starts it: what it prints, what it leaves, and what it leaves when it is stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from groundup.recipe import load_recipe

QUICK = ["model.width=8", "train.threads=1", "train.batch_size=100"]


def test_what_is_suggested_can_be_pasted_and_nothing_but_the_picture_is_left(groundup: Any, tmp_path: Path) -> None:
    (tmp_path / "lr-find.png").write_text("mine")
    found = json.loads(groundup.run("lr-find", "digits", *QUICK, "--steps", "60", "--json"))
    assert sorted(os.listdir(tmp_path)) == ["lr-find-2.png", "lr-find.png", "stderr"]
    assert found["picture"] == "lr-find-2.png"
    assert (tmp_path / "lr-find.png").read_text() == "mine"
    assert (tmp_path / "lr-find-2.png").read_bytes().startswith(b"\x89PNG")
    assert "threads" in groundup.said()  # progress
    assert len(found["lrs"]) == len(found["losses"]) == len(found["smoothed"])
    # digits trains with rates from 0.001 to 0.1: the suggestion has to be of that size, and to arrive where it has an effect.
    assert 0.0005 < found["steepest"] < 0.2
    schedule = load_recipe("digits", [found["override"]]).schedule
    assert schedule.peak == float(f"{found['steepest']:.2g}")

    out = groundup.run("lr-find", "digits", *QUICK, "--steps", "20", "--from", "1e-3", "--to", "0.1", "--out", "b.png")
    lines = out.splitlines()
    assert lines[0].startswith("steepest fall of the loss")
    assert lines[1].startswith("one-tenth of divergence    none")
    assert lines[2].startswith("lowest loss")
    assert "starting point, not a tuned value" in lines[-2]
    assert lines[-1] == "b.png"
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_it_with_130_and_leaves_nothing_behind(groundup: Any, tmp_path: Path) -> None:
    process = groundup.start("lr-find", "digits", *QUICK, "--steps", "100000", "--to", "1e-5")
    groundup.wait(lambda: "threads" in groundup.said(), process)
    process.send_signal(signal.SIGINT)
    assert groundup.finish(process) == 130
    assert "stopped: SIGINT" in groundup.said()
    assert os.listdir(tmp_path) == ["stderr"]
