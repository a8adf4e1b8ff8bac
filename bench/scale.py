"""From one laptop core to 1000 GPUs: how long, for how much money, and what holds it up. A model, not a measurement.

    python bench/scale.py                 the tables of docs/scale.md
    python bench/scale.py --check         the model against published runs
    python bench/scale.py --json FILE     both, with every assumption

A step is the slowest of what works side by side: the GPUs (FLOPs over the rate that they reach, less at small batches), the
gradient all-reduce as far as the backward pass does not hide it, the decoding cores, and the bytes from storage. Failures come at
a constant rate per GPU; each costs half a checkpoint interval and a restart, and the interval is Young's optimum, sqrt(2 x write
time x time between failures) (J. W. Young, 1974). Every number that the model takes stands in this file with where it is from.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groundup.basis.files import write_json

IMAGENET = 1_281_167
HIDDEN = (
    0.6  # share of the step behind which an all-reduce can hide: the backward pass, but for its first bucket (assumed)
)


@dataclass(frozen=True)
class Machine:
    """`peak`: dense bf16 TFLOP/s of the data sheet; `mfu`: share of it that a ResNet-50 reaches at a full batch; `half_batch`:
    images per GPU at which half of that is left (assumed); `cores`: for decoding, per GPU; `link`: GB/s of all-reduce bus
    bandwidth per GPU inside a machine and between machines; `storage`: GB/s into a machine; `dollars`: per GPU-hour;
    `failures`: per GPU and 1000 hours."""

    name: str
    peak: float
    mfu: float
    cores: float
    link: tuple[float, float]
    storage: float
    dollars: float
    half_batch: float = 12
    gpus_per_machine: int = 8
    failures: float = 0.05


@dataclass(frozen=True)
class Work:
    """`gflop`: forward FLOPs of an image, averaged over the run's input sizes; `parameters` in millions; `image_kb`: as stored;
    `decoded`: images a second on one core (bench/decode.py); `state_bytes`: per parameter in a checkpoint; `tail`: seconds per
    epoch outside training (evaluation)."""

    name: str
    gflop: float
    images: float
    epochs: float
    batch: int
    parameters: float = 25.6
    image_kb: float = 110.0
    decoded: float = 350.0
    state_bytes: float = 12.0
    tail: float = 0.0
    start: float = 60.0


# MFU: MLPerf v4.0 (7,950 images/s per H200), timm#1491 (2,600 images/s on an A100 at 224 px). Links: NVLink, and network cards of
# 8 x 200 or 400 Gb/s per machine, at 80% of the data sheet (assumed). Prices: what clouds ask on demand, roughly (assumed).
# Failures: 419 in 54 days of 16,384 H100 (Llama 3, arXiv 2407.21783, section 3.3.4) are 0.02 per GPU and 1000 hours; ours is 0.05.
A100 = Machine("A100", 312, 0.205, 16, (200, 20), 4, 2.0)
H200 = Machine("H200", 989, 0.197, 24, (350, 40), 8, 4.0)
LAPTOP = Machine(
    "laptop CPU, 2 cores, fp32", 0.126, 0.75, 1, (1, 1), 0.5, 0.0, half_batch=1, gpus_per_machine=1, failures=0
)


def gpu_rate(machine: Machine, work: Work, gpus: int) -> float:
    """Images a second that one GPU trains, at its share of the batch. Forward and backward are three forward passes."""
    per_gpu = work.batch / gpus
    return machine.peak * 1e3 * machine.mfu / (3 * work.gflop) * per_gpu / (per_gpu + machine.half_batch)


def predict(machine: Machine, work: Work, gpus: int) -> dict[str, Any]:
    """Seconds and dollars of a run, and its bottleneck. All rates are of the whole cluster."""
    machines = math.ceil(gpus / machine.gpus_per_machine)
    compute = work.batch / (gpus * gpu_rate(machine, work, gpus))
    link = machine.link[0] if machines == 1 else machine.link[1]
    all_reduce = 2 * (gpus - 1) / gpus * work.parameters * 1e6 * 4 / (link * 1e9)
    exposed = max(0.0, all_reduce - HIDDEN * compute)
    here = gpus / machines
    parts = {
        "the GPUs": compute,
        "the all-reduce": compute + exposed,
        "decoding": work.batch / (machines * here * machine.cores * work.decoded),
        "storage": work.batch * work.image_kb * 1e3 / (machines * machine.storage * 1e9),
    }
    step = max(parts.values())
    bottleneck = max(parts, key=lambda name: (parts[name], name == "the GPUs"))
    if bottleneck == "the all-reduce" and exposed == 0:
        bottleneck = "the GPUs"
    steps = work.epochs * work.images / work.batch
    seconds = steps * step + work.epochs * work.tail + work.start
    write = work.parameters * 1e6 * work.state_bytes / 1e9  # at 1 GB/s
    failing = gpus * machine.failures / 1000 / 3600
    lost, interval = 0.0, None
    if failing:
        interval = math.sqrt(2 * write / failing)
        lost = write / interval + failing * (interval / 2 + 120)  # two minutes until a machine is back
        seconds /= max(1e-9, 1 - lost)
    return {
        "gpus": gpus,
        "hours": seconds / 3600,
        "dollars": seconds / 3600 * gpus * machine.dollars,
        "images_per_second": work.batch / step,
        "bottleneck": bottleneck,
        "images_per_gpu_and_step": work.batch / gpus,
        "all_reduce_seconds": all_reduce,
        "step_seconds": step,
        "lost_to_failures": lost,
        "checkpoint_every_minutes": None if interval is None else interval / 60,
        "pflop": 3 * work.gflop * work.images * work.epochs / 1e6,
    }


def published() -> list[dict[str, Any]]:
    """Runs that others have timed. The model knows one GPU's rate at 224 px, the FLOPs and the machine; not their times."""
    # ResNet-50 with BlurPool; 12 of 16 epochs at 160 px (4.18 GFLOP), the rest at 192 (6.01); after each epoch 50,000 images at
    # 256 px twice (mirrored): 10.7 GFLOP each. libffcv/ffcv-imagenet: 8 A100, 14.9 min; 88 epochs: 77.2 min.
    tail = 2 * 50_000 * 10.7 / (8 * A100.peak * 1e3 * A100.mfu)
    small = Work("FFCV, ResNet-50, 16 epochs", (12 * 4.18 + 4 * 6.01) / 16, IMAGENET, 16, 4096, decoded=1500, tail=tail)
    share = 66 / 88  # theirs scale with the length
    long = replace(small, name="FFCV, ResNet-50, 88 epochs", gflop=share * 4.18 + (1 - share) * 6.01, epochs=88)
    # MLPerf Training v4.0, NVIDIA, 8 H200: 36 epochs at 224 px, 20.1 s each (mlcommons/training_results_v4.0). Its rate per GPU is
    # what H200.mfu was read from: this row checks the rest of the model, not that rate.
    mlperf = Work("MLPerf v4.0, ResNet-50, 36 epochs", 8.18, IMAGENET, 36, 3264, decoded=1500, start=20)
    rows = []
    for machine, work, minutes in ((A100, small, 14.9), (A100, long, 77.2), (H200, mlperf, 12.2)):
        model = predict(machine, work, 8)
        rows.append(
            {
                "run": work.name,
                "machine": f"8 {machine.name}",
                "published_minutes": minutes,
                "model_minutes": 60 * model["hours"],
                "ratio": 60 * model["hours"] / minutes,
                "bottleneck": model["bottleneck"],
            }
        )
    return rows


def tables() -> dict[str, list[dict[str, Any]]]:
    """ResNet-50 at 160 to 192 px for the FLOPs of 16 epochs of ImageNet per image seen; larger sets are seen fewer times."""
    gflop = (12 * 4.18 + 4 * 6.01) / 16
    made = {}
    for images, epochs in ((1.28e6, 16), (1e8, 4), (1e10, 1)):
        work = Work(f"{images:.3g} images, {epochs} epochs", gflop, images, epochs, 4096)
        rows = [predict(H200, work, gpus) for gpus in (1, 8, 64, 1024)]
        larger = replace(work, batch=32_768)
        rows += [predict(H200, larger, 1024) | {"batch": larger.batch}]
        made[work.name] = [{"batch": work.batch, **row} for row in rows]
    laptop = Work("cifar100-speed", 0.33e6 / 3 / (50_000 * 8.75), 50_000, 8.75, 1024, 8.6, 3.1, 1e6, start=5)
    made["cifar100-speed on two laptop cores (no failures)"] = [{"batch": 1024, **predict(LAPTOP, laptop, 1)}]
    return made


HEAD = "| GPUs | batch | time | dollars | images/s | held up by | lost to failures |"


def duration(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only the comparison with published runs.")
    parser.add_argument("--json", type=Path, help="Write everything there.")
    chosen = parser.parse_args()
    for row in published():
        print(
            f"{row['run']:<34} {row['machine']:<7} published {row['published_minutes']:>5.1f} min, "
            f"model {row['model_minutes']:>5.1f} min ({row['ratio']:.2f}), held up by {row['bottleneck']}"
        )
    if not chosen.check:
        for name, rows in tables().items():
            print(f"\n{name}\n{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
            for row in rows:
                print(
                    f"| {row['gpus']} | {row['batch']:,} | {duration(row['hours'])} | {row['dollars']:,.0f} | "
                    f"{row['images_per_second']:,.0f} | {row['bottleneck']} | {row['lost_to_failures']:.1%} |"
                )
    if chosen.json:
        machines = [asdict(machine) for machine in (A100, H200, LAPTOP)]
        write_json(chosen.json, {"published": published(), "tables": tables(), "machines": machines, "hidden": HIDDEN})
        print(json.dumps(str(chosen.json)))


if __name__ == "__main__":
    main()
