"""Real CIFAR-100 and the whole digits run: minutes long."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from groundup.tracking import read

pytestmark = pytest.mark.slow


def test_digits_ends_at_98_percent(groundup: Any) -> None:
    assert json.loads(groundup.run("train", "digits", "--run", "run", "--json"))["top1"] >= 0.98


def test_cifar100_speed_learns_from_real_images_in_less_than_3_gb(groundup: Any, datasets_folder: Path) -> None:
    """All 60,000 images; the whole batch at every resolution; a twelfth of the recipe's length."""
    source = f"data.source=parquet:{datasets_folder / 'cifar100'}"
    process = groundup.start(
        "train", "cifar100-speed", source, "train.epochs=0.6", "evaluate.every=0.2ep", "--run", "run", "--json"
    )
    peak = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, watched.memory_info().rss)
        time.sleep(0.2)
    assert process.returncode == 0, groundup.said()
    summary = json.loads(process.stdout.read())
    assert summary["train_images"] == 50_000
    assert summary["images"] == 10_000
    assert peak < 3e9, f"{peak / 1e9:.2f} GB"
    losses = [line["train_loss"] for line in read(groundup.folder / "run" / "metrics.jsonl")]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3
    assert summary["top1"] > 0.03  # three times chance
