"""A disk that is full when a checkpoint is to be written: a clear error, the older checkpoint, a run that goes on."""

import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def small_disk(load_bench: Callable[[str], ModuleType], tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 7 MB, None where this user may not mount one."""
    with load_bench("full_disk").small_disk(tmp_path / "disk", 7) as place:
        yield place


def fill_up(file: Path) -> None:
    """Write until there is no room left."""
    with open(file, "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))


def test_a_disk_that_fills_up_while_saving_keeps_the_older_checkpoint(
    groundup: Any,
    watch: Callable[[Path], Any],
    watched: list[str],
    uninterrupted: Any,
    small_disk: Path | None,
    tmp_path: Path,
) -> None:
    run = watch((small_disk or tmp_path) / "run")
    process = groundup.start("train", *watched, "--run", run.path)
    groundup.wait(lambda: run.step() >= 2, process)
    if small_disk:
        fill = small_disk / "filling"
        with pytest.raises(OSError, match="No space left"):
            fill_up(fill)
        # A little room is left: the folder of the checkpoint can be made, its weights cannot be written.
        os.truncate(fill, fill.stat().st_size - 200_000)
    else:
        assert sys.platform == "linux"
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert groundup.finish(process) == 1
    said = groundup.said()
    assert "the checkpoint could not be written" in said
    assert "older checkpoints are untouched" in said
    assert "Traceback" not in said
    assert run.step() >= 2
    assert not run.is_saving()
    assert os.readlink(run.checkpoints / "last") == f"step-{run.step():07d}"
    if small_disk:
        fill.unlink()
    groundup.run("resume", run.path)
    assert run.weights() == uninterrupted.weights()
    assert run.metrics() == uninterrupted.metrics()
