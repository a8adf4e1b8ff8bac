"""`groundup bench` as a user stops it."""

import os
import signal
from pathlib import Path
from typing import Any


def test_sigterm_ends_a_bench_with_143_and_leaves_nothing_behind(groundup: Any, tmp_path: Path) -> None:
    groundup.cache = tmp_path / "cache"
    process = groundup.start("bench", "digits", "model.width=8", "train.threads=1", "--steps", "1000000")
    groundup.wait(groundup.cache.exists, process)
    process.send_signal(signal.SIGTERM)
    assert groundup.finish(process) == 143
    assert "stopped: SIGTERM" in groundup.said()
    assert sorted(os.listdir(tmp_path)) == ["cache", "stderr"]
