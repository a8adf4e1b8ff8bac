"""What a newcomer does first: the embedded digits, from a checkout and from an installed wheel, twice at once."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]


def test_digits_reaches_90_percent_after_3_epochs(groundup: Any, tmp_path: Path) -> None:
    # One thread: a machine that is busy elsewhere slows two threads down a hundredfold.
    out = groundup.run("train", "digits", "train.epochs=3", "train.threads=1", "--json")
    summary = json.loads(out)
    assert summary["top1"] >= 0.9
    assert summary["images"] == 359
    assert (tmp_path / summary["run"] / "README.md").is_file()


def test_two_runs_that_need_the_same_images_at_once_decode_them_once(groundup: Any, tmp_path: Path) -> None:
    groundup.cache = tmp_path / "cache"
    small = ["model.width=8", "data.limit=100", "data.resolution=32", "evaluate.batch_size=50"]
    small += ["train={epochs: 1, batch_size: 50, threads: 1}", "track.tensorboard=false"]
    both = [groundup.start("train", "digits", *small, "--run", f"run-{number}", "--json") for number in range(2)]
    results = [json.loads(process.communicate(timeout=150)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert results[0]["top1"] == results[1]["top1"]
    kept = [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")]
    assert len(kept) == 1
    assert kept[0].startswith("digits-")
    weights = "checkpoints/last/model.safetensors"
    assert (tmp_path / "run-0" / weights).read_bytes() == (tmp_path / "run-1" / weights).read_bytes()


def test_the_wheel_installs_elsewhere_and_trains_a_library_recipe(groundup: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "src" / "groundup", source / "src" / "groundup", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=150)
    (wheel,) = tmp_path.glob("groundup-*.whl")

    home = tmp_path / "elsewhere"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=150)
    (site,) = home.glob("lib/python*/site-packages")
    # The other packages come from this environment; its own editable groundup is not reached through a plain path.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = [str(python), "-c", "import groundup; print(groundup.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip()
    assert Path(found).is_relative_to(site)
    small = ["model.width=8", "train.epochs=1", "train.threads=1", "--run", "run", "--json"]
    trained = subprocess.run(
        [str(home / "bin" / "groundup"), "train", "digits", *small],
        cwd=tmp_path,
        env=groundup.environment(),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["epochs"] == 1
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["commit"] is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_epochs(groundup: Any, tmp_path: Path) -> None:
    small = [
        "model.width=8",
        "data.limit=200",
        "data.validation=0.25",
        "train={epochs: 200, batch_size: 50, threads: 1}",
    ]
    process = groundup.start("train", "digits", *small, "--run", "run")
    metrics = tmp_path / "run" / "metrics.jsonl"

    def lines() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    child = psutil.Process(process.pid)
    used: list[int] = []
    for epoch in range(20, 200, 10):
        groundup.wait(lambda epoch=epoch: lines() >= epoch, process, seconds=600)
        used.append(child.memory_info().rss)
    assert groundup.finish(process) == 0
    early, late = sum(used[:4]) / 4, sum(used[-4:]) / 4
    assert late - early < 16e6, [size >> 20 for size in used]
    assert late < 3e9
