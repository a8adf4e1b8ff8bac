"""A stream's memory, and what a kill loses: images in tar shards, read for an epoch and a half by a process that is killed.

Every image carries its own number in its pixels. The reader writes down the numbers of each batch that it decoded; it is killed
(SIGKILL) at random moments and started again at the step after the last one that it wrote, as a run goes on from a checkpoint. At
the end every image must have come exactly once per epoch, in the order of a reader that was never killed.

    python bench/stream_memory.py [--images 100000] [--shards 100] [--kills 3] [--out bench/results/stream_memory.json]
"""

import argparse
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from kept import keep
from PIL import Image

from groundup.data import DataSettings, WindowedOrder, load_splits, windowed_order
from groundup.runs.folder import environment
from groundup.training import SampleOrder

SIDE, BATCH, WINDOW, SEED = 32, 256, 8, 11


def numbered(number: int) -> bytes:
    """An image that holds its number in its first pixels, below noise: PNG."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[0, 0] = list(number.to_bytes(3, "little"))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def generate(folder: Path, images: int, shards: int) -> int:
    """Shards of slightly different sizes; the bytes in all."""
    cuts = np.linspace(0, images, shards + 1).astype(int)
    cuts[1:-1] += np.random.default_rng(0).integers(-5, 6, shards - 1)
    for shard, (first, last) in enumerate(pairwise(cuts)):
        save_shard(folder / f"train-{shard:05d}.tar", range(first, last))
    save_shard(folder / "test-00000.tar", range(20))  # else a part of train would become the test split
    return sum(file.stat().st_size for file in folder.iterdir())


def save_shard(path: Path, numbers: range) -> None:
    """A tar of numbered images."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for extension, content in (("png", numbered(number)), ("cls", str(number % 10).encode())):
                entry = tarfile.TarInfo(f"{number:08d}.{extension}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def opened(source: str) -> tuple[Any, SampleOrder]:
    """The training split and its order."""
    import torch

    splits = load_splits(DataSettings(source=source, shuffle_window=WINDOW, resolution=SIDE))
    windows: WindowedOrder | None = windowed_order(splits.train, WINDOW)
    labels = torch.from_numpy(splits.train.labels)
    order = SampleOrder(SEED, labels, batch_size=BATCH, drop_last=False, balanced=False, windows=windows)
    return splits.train, order


def read(source: str, log: Path, steps: int) -> None:
    """Go on after the last step in `log`; one line per step: [step, epoch, numbers, KiB resident, seconds]."""
    first = len(log.read_bytes().splitlines()) if log.exists() else 0
    train, order = opened(source)
    with open(log, "a") as stream:
        for step in range(first, steps):
            epoch, positions = order.at(step)
            images = train.read(positions.numpy()).numpy()
            numbers = [int.from_bytes(bytes(pixel), "little") for pixel in images[:, 0, 0]]
            stream.write(json.dumps([step, epoch, numbers, resident(), time.time()]) + "\n")
            stream.flush()


def resident() -> int:
    """Resident memory now, KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def lines_of(log: Path) -> list[Any]:
    """The whole lines of the log; a kill may have cut the last one, which is removed: its step is made again."""
    content = log.read_bytes() if log.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        log.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def read_with_kills(source: str, log: Path, steps: int, kills: int) -> list[dict[str, float]]:
    """Start the reader, kill it at random steps, start it again; what each restart cost."""
    moments = sorted(random.Random(0).sample(range(1, steps - 1), kills))
    restarts = []
    for moment in [*moments, steps]:
        started, before = time.time(), len(lines_of(log))
        command = [sys.executable, __file__, "--read", source, "--log", str(log), "--steps", str(steps)]
        reader = subprocess.Popen(command)
        while reader.poll() is None and (moment == steps or len(log_lines(log)) < moment):
            time.sleep(0.002)
        if moment < steps and reader.poll() is None:
            os.kill(reader.pid, signal.SIGKILL)
        code = reader.wait()
        assert code in (0, -signal.SIGKILL), code
        done = lines_of(log)
        if len(done) > before:
            restarts.append({"from_step": before, "first_batch_after_s": round(done[before][4] - started, 2)})
    return restarts


def log_lines(log: Path) -> list[bytes]:
    """The log as it is just now."""
    return log.read_bytes().splitlines() if log.exists() else []


def main() -> None:
    """Generate, read with kills, compare, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", help="used by the measurement itself")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    if asked.read:
        read(asked.read, asked.log, asked.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GROUNDUP_CACHE"] = f"{folder}/cache"
        shards = Path(folder, "shards")
        shards.mkdir()
        size = generate(shards, asked.images, asked.shards)
        source = f"webdataset:{shards}"
        began = time.time()
        train, order = opened(source)
        indexed = time.time() - began
        steps = order.steps_per_epoch * 3 // 2
        restarts = read_with_kills(source, Path(folder, "log"), steps, asked.kills)
        done = lines_of(Path(folder, "log"))
    result = {
        "images": len(train),
        "shards": asked.shards,
        "bytes": size,
        "steps": steps,
        **compared(done, order, len(train)),
        "indexing_s": round(indexed, 2),
        "restarts": restarts,
        "environment": environment(),
    }
    keep(result, asked.out)


def compared(done: list[Any], order: SampleOrder, images: int) -> dict[str, Any]:
    """What the reader saw against what it should have seen, its memory, its speed."""
    expected = [order.at(step)[1].tolist() for step in range(len(done))]
    seen = [line[2] for line in done]
    first = [number for line in done for number in line[2] if line[1] == 0]
    last_part = done[-max(1, len(done) // 4) :]
    early, late = (max(line[3] for line in part) for part in (done[: max(1, len(done) // 10)], last_part))
    rates = [len(now[2]) / (now[4] - before[4]) for before, now in pairwise(done) if now[4] > before[4]]
    return {
        "seen_twice": len(first) - len(set(first)),
        "missed": images - len(set(first)),
        "in_the_order_of_an_unkilled_reader": seen == expected,
        "resident_MiB_first_tenth": round(early / 1024, 1),
        "resident_MiB_largest": round(max(line[3] for line in done) / 1024, 1),
        "resident_MiB_last_quarter": round(late / 1024, 1),
        "images_per_second": round(float(np.median(rates)), 1),
    }


if __name__ == "__main__":
    main()
