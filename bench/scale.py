"""From two cores to 1000 GPUs: how long, for how much money, and what holds it up. A model, not a measurement.

    python bench/scale.py                 the tables of docs/scale.md
    python bench/scale.py --check         the model against published runs
    python bench/scale.py --json FILE     both, with every assumption
    python bench/scale.py --machine A100 --cores 12 --dollars 1.5 --images 5e6 --image-kb 25 --failures 0.05 5 --gpus 8 32

The last form is one table for a machine and work of your own: an option for every number of `Machine` and `Work`, several
`--failures`. What is not given is that of ResNet-50 on ImageNet for 16 epochs on H200s.

A step is the slowest of what works side by side: the GPUs (FLOPs over the rate that they reach, less at small batches), the
gradient all-reduce as far as the backward pass does not hide it, the decoding threads, Python's lock, and the bytes from storage.
Before the first step lies a pass that decodes everything once (`data.cache: none`, not of streams), after the last the evaluation
of the test split. Failures come at a constant rate per GPU; each costs half a checkpoint interval and a restart. The interval is
Young's optimum, sqrt(2 x write time x time between failures) (J. W. Young, 1974). Every number that the model takes stands in
this file with where it is from.
"""

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from groundup.basis.files import write_json

IMAGENET = 1_281_167
HIDDEN = (
    0.6  # share of the step behind which an all-reduce can hide: the backward pass, but for its first bucket (assumed)
)
MOST_THREADS = 16  # of one process, one process per GPU (groundup/data/decoding_loader.py, decode.py)
HELD_OUT, EVALUATION_SIDE, EVALUATION_GFLOP = 50_000, 256, 10.7  # ResNet-50 with BlurPool, forward, an image
RESTART = 120.0  # seconds until a machine is back (assumed)
# Per GPU and 1000 hours: 419 in 54 days of 16,384 H100 (Llama 3, arXiv 2407.21783, section 3.3.4); ours; machines that are lent
# until somebody pays more (assumed).
RATES = (0.02, 0.05, 2.0)


@dataclass(frozen=True)
class Machine:
    """`peak`: dense bf16 TFLOP/s of the data sheet; `mfu`: share of it that a ResNet-50 reaches at a full batch; `half_batch`:
    images per GPU at which half of that is left (assumed); `cores`: for decoding, per GPU; `link_inside`, `link_between`: GB/s of
    all-reduce bus bandwidth per GPU inside a machine and between machines; `storage`: GB/s into a machine; `dollars`: per
    GPU-hour; `failures`: per GPU and 1000 hours."""

    name: str
    peak: float
    mfu: float
    cores: float
    link_inside: float
    link_between: float
    storage: float
    dollars: float
    half_batch: float = 12
    gpus_per_machine: int = 8
    failures: float = 0.05


@dataclass(frozen=True)
class Work:
    """`gflop`: forward FLOPs of an image, averaged over the run's input sizes; `parameters` in millions; `image_kb`: as stored;
    `side`: px of the input; `decoded`: images a second on one core, None: `decoding_ms` of the two before, inf: not held up by
    it; `state_bytes`: per parameter in a checkpoint; `evaluated`: images, in the whole run; `first_pass`: times that all is decoded
    before the first step; `start`: seconds."""

    name: str
    gflop: float
    images: float
    epochs: float
    batch: int
    parameters: float = 25.6
    image_kb: float = 110.0
    side: float = 168.0
    decoded: float | None = None
    state_bytes: float = 12.0
    evaluated: float = HELD_OUT
    first_pass: float = 1.0
    start: float = 60.0


# MFU: MLPerf v4.0 (7,950 images/s per H200), timm#1491 (2,600 images/s on an A100 at 224 px); an H100 has the H200's peak and
# slower memory (assumed: nine tenths). Links: NVLink, and network cards of 8 x 200 or 400 Gb/s per machine, at 80% of the data
# sheet (assumed). Prices: what clouds ask on demand, roughly (assumed).
A100 = Machine("A100", 312, 0.205, 16, 200, 20, 4, 2.0)
H100 = Machine("H100", 989, 0.177, 24, 350, 40, 8, 3.0)
H200 = Machine("H200", 989, 0.197, 24, 350, 40, 8, 4.0)
TWO_CORES = Machine(
    "AMD EPYC, 2 cores, fp32", 0.131, 0.75, 1, 1, 1, 0.5, 0.0, half_batch=1, gpus_per_machine=1, failures=0
)
MACHINES = {"A100": A100, "H100": H100, "H200": H200}


@cache
def measured() -> dict[str, Any]:
    """What `bench/decode.py` has measured, on one core of the machine that it names."""
    read: dict[str, Any] = json.loads((Path(__file__).parent / "results" / "decode.json").read_text())
    return read


def decoding_ms(kilobytes: float, side: float, decoder: str = "simplejpeg") -> float:
    """Milliseconds of one core for a training image of a JPEG of 500 x 375 px: the plane through what was measured at 41 and 59 kB
    and at 128 and 224 px, so an extrapolation at ImageNet's 110 kB."""
    points, found = [], []
    for kind, sizes in measured()["sizes"].items():
        for pixels, decoders in sizes.items():
            points.append([1.0, measured()["kilobytes"][kind], float(pixels)])
            found.append(decoders[decoder]["ms"])
    plane = np.linalg.lstsq(np.array(points), np.array(found), rcond=None)[0]
    return float(plane @ [1.0, kilobytes, side])


def gpu_rate(machine: Machine, work: Work, gpus: int) -> float:
    """Images a second that one GPU trains, at its share of the batch. Forward and backward are three forward passes."""
    per_gpu = work.batch / gpus
    return machine.peak * 1e3 * machine.mfu / (3 * work.gflop) * per_gpu / (per_gpu + machine.half_batch)


def loader_rates(machine: Machine, work: Work) -> tuple[float, float]:
    """Images a second that the threads of one process decode, and that Python's lock lets through."""
    if work.decoded == math.inf:
        return math.inf, math.inf
    one_core = work.decoded or 1000 / decoding_ms(work.image_kb, work.side)
    return min(MOST_THREADS, max(1.0, machine.cores - 1)) * one_core, 1000 / measured()["python_ms"]


def outside(machine: Machine, work: Work, gpus: int) -> tuple[float, float]:
    """Seconds of the pass before the first step, by one process of each machine, and of evaluation, by all of them."""
    compute = work.evaluated * EVALUATION_GFLOP / (gpus * machine.peak * 1e3 * machine.mfu)
    if work.decoded == math.inf:
        return 0.0, compute
    whole = decoding_ms(work.image_kb, EVALUATION_SIDE, "pillow") / 1e3
    here = min(gpus, machine.gpus_per_machine)
    first = work.first_pass * work.images * whole / min(MOST_THREADS, machine.cores * here)
    return first, max(compute, work.evaluated * whole / (gpus * min(MOST_THREADS, machine.cores)))


def lost_to(failures: float, work: Work, gpus: int) -> tuple[float, float | None]:
    """The share of the time that failures cost, and seconds between two checkpoints. `failures`: per GPU and 1000 hours."""
    write = work.parameters * 1e6 * work.state_bytes / 1e9  # at 1 GB/s
    failing = gpus * failures / 1000 / 3600
    if not failing:
        return 0.0, None
    interval = math.sqrt(2 * write / failing)
    return write / interval + failing * (interval / 2 + RESTART), interval


def predict(machine: Machine, work: Work, gpus: int) -> dict[str, Any]:
    """Seconds and dollars of a run, and its bottleneck. All rates are of the whole cluster."""
    machines = math.ceil(gpus / machine.gpus_per_machine)
    compute = work.batch / (gpus * gpu_rate(machine, work, gpus))
    link = machine.link_inside if machines == 1 else machine.link_between
    all_reduce = 2 * (gpus - 1) / gpus * work.parameters * 1e6 * 4 / (link * 1e9)
    exposed = max(0.0, all_reduce - HIDDEN * compute)
    threads, lock = loader_rates(machine, work)
    parts = {
        "the GPUs": compute,
        "the all-reduce": compute + exposed,
        "decoding": work.batch / (gpus * threads),
        "Python's lock": work.batch / (gpus * lock),
        "storage": work.batch * work.image_kb * 1e3 / (machines * machine.storage * 1e9),
    }
    step = max(parts.values())
    bottleneck = max(parts, key=lambda name: (parts[name], name == "the GPUs"))
    if bottleneck == "the all-reduce" and exposed == 0:
        bottleneck = "the GPUs"
    first, evaluation = outside(machine, work, gpus)
    seconds = work.epochs * work.images / work.batch * step + first + evaluation + work.start
    lost, interval = lost_to(machine.failures, work, gpus)
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
        "first_pass_seconds": first,
        "evaluation_seconds": evaluation,
        "lost_to_failures": lost,
        "checkpoint_every_minutes": None if interval is None else interval / 60,
        "pflop": 3 * work.gflop * work.images * work.epochs / 1e6,
    }


def published() -> list[dict[str, Any]]:
    """Runs that others have timed. The model knows one GPU's rate at 224 px, the FLOPs and the machine; not their times."""
    # ResNet-50 with BlurPool; 12 of 16 epochs at 160 px (4.18 GFLOP), the rest at 192 (6.01); after each epoch 50,000 images at
    # 256 px twice (mirrored). libffcv/ffcv-imagenet: 8 A100, 14.9 min; 88 epochs: 77.2 min.
    # Their loaders are not ours, and are taken to keep up: nothing here checks the model's decoding.
    small = Work(
        "FFCV, ResNet-50, 16 epochs",
        (12 * 4.18 + 4 * 6.01) / 16,
        IMAGENET,
        16,
        4096,
        decoded=math.inf,
        evaluated=16 * 2 * HELD_OUT,
    )
    share = 66 / 88  # theirs scale with the length
    gflop, evaluated = share * 4.18 + (1 - share) * 6.01, 88 * 2 * HELD_OUT
    long = replace(small, name="FFCV, ResNet-50, 88 epochs", gflop=gflop, epochs=88, evaluated=evaluated)
    # MLPerf Training v4.0, NVIDIA, 8 H200: 36 epochs at 224 px, 20.1 s each (mlcommons/training_results_v4.0). Its rate per GPU is
    # what H200.mfu was read from: this row checks the rest of the model, not that rate.
    mlperf = Work(
        "MLPerf v4.0, ResNet-50, 36 epochs", 8.18, IMAGENET, 36, 3264, decoded=math.inf, evaluated=0, start=20
    )
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


def recipes() -> dict[str, Work]:
    """The recipes for ImageNet, with the FLOPs that their claims and `groundup check` have; from `folder:` or `hub:`."""
    small = Work("imagenet-resnet50-16ep", 286e6 / (3 * IMAGENET * 16), IMAGENET, 16, 4096)
    made = [
        small,
        replace(small, name="imagenet-resnet50-40ep", gflop=700e6 / (3 * IMAGENET * 40), epochs=40),
        replace(small, name="imagenet-resnet50-88ep", gflop=1535e6 / (3 * IMAGENET * 88), epochs=88),
        Work("imagenet-resnet50-a3", 1603e6 / (3 * IMAGENET * 100), IMAGENET, 100, 2048, side=160),
        Work("004", 8.18, IMAGENET, 90, 400, side=224),
    ]
    return {work.name: work for work in made}


def tables() -> dict[str, list[dict[str, Any]]]:
    """ResNet-50 at 160 to 192 px for the FLOPs of 16 epochs of ImageNet per image seen; larger sets are seen fewer times and are
    streams."""
    first = recipes()["imagenet-resnet50-16ep"]
    made = {}
    for images, epochs in ((1.28e6, 16), (1e8, 4), (1e10, 1)):
        name = f"{images:.3g} images, {epochs} epochs"
        work = replace(first, name=name, images=images, epochs=epochs, first_pass=float(images < 1e7))
        rows = [predict(H200, work, gpus) for gpus in (1, 8, 64, 1024)]
        larger = replace(work, batch=32_768)
        rows += [predict(H200, larger, 1024) | {"batch": larger.batch}]
        made[work.name] = [{"batch": work.batch, **row} for row in rows]
    small = Work(
        "cifar100-speed",
        0.299e6 / 3 / (50_000 * 8.75),
        50_000,
        8.75,
        1024,
        8.6,
        3.1,
        decoded=math.inf,
        evaluated=0,
        start=5,
    )
    made["cifar100-speed on two cores (no failures)"] = [{"batch": 1024, **predict(TWO_CORES, small, 1)}]
    for work in recipes().values():
        made[f"{work.name} on 8 H100"] = [{"batch": work.batch, **predict(H100, work, 8)}]
    return made


def shown(rows: Iterable[dict[str, Any]], work: Work, rates: Iterable[float]) -> str:
    """A table of Markdown. The time is that at the machine's own rate of failures, the last column at each of `rates`."""
    rates = list(rates)
    head = "| GPUs | batch | time | GPU-hours | dollars | images/s | held up by | before the first step | "
    head += f"lost to failures at {', '.join(f'{rate:g}' for rate in rates)} |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in rows:
        lost = ", ".join(f"{min(1.0, lost_to(rate, work, row['gpus'])[0]):.1%}" for rate in rates)
        lines.append(
            f"| {row['gpus']} | {row['batch']:,} | {duration(row['hours'])} | {row['hours'] * row['gpus']:,.1f} | "
            f"{row['dollars']:,.0f} | {row['images_per_second']:,.0f} | {row['bottleneck']} | "
            f"{duration(row['first_pass_seconds'] / 3600)} | {lost} |"
        )
    return "\n".join(lines)


def duration(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def parser() -> argparse.ArgumentParser:
    """An option for every number of `Machine` and `Work`."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--check", action="store_true", help="Only the comparison with published runs.")
    made.add_argument("--json", type=Path, help="Write everything there.")
    made.add_argument("--machine", choices=MACHINES, help="What the other numbers of the machine are (H200).")
    made.add_argument("--gpus", type=int, nargs="+", help="How many (1 8 64 1024).")
    made.add_argument("--failures", type=float, nargs="+", help="Per GPU and 1000 hours; the time is at the first.")
    for kind in (Machine, Work):
        group = made.add_argument_group(kind.__name__, kind.__doc__)
        for field in fields(kind):
            if field.name not in ("name", "failures"):
                whole = field.name in ("batch", "gpus_per_machine")
                group.add_argument(f"--{field.name.replace('_', '-')}", type=int if whole else float)
    return made


def own_table(chosen: argparse.Namespace) -> str | None:
    """The table of the machine and the work that were asked for, None if none were."""
    given = {key: value for key, value in vars(chosen).items() if value is not None and key not in ("check", "json")}
    if not given:
        return None
    machine, work = MACHINES[given.get("machine", "H200")], recipes()["imagenet-resnet50-16ep"]
    rates = given.pop("failures", None) or [machine.failures]

    def own(base: Machine | Work) -> dict[str, Any]:
        return {field.name: given[field.name] for field in fields(base) if field.name in given}

    machine, work = replace(machine, **{"failures": rates[0], **own(machine)}), replace(work, **own(work))
    rows = [{"batch": work.batch, **predict(machine, work, gpus)} for gpus in given.get("gpus", (1, 8, 64, 1024))]
    return shown(rows, work, rates)


def main() -> None:
    chosen = parser().parse_args()
    if (own := own_table(chosen)) is not None:
        print(own)
        return
    for row in published():
        print(
            f"{row['run']:<34} {row['machine']:<7} published {row['published_minutes']:>5.1f} min, "
            f"model {row['model_minutes']:>5.1f} min ({row['ratio']:.2f}), held up by {row['bottleneck']}"
        )
    if not chosen.check:
        first = recipes()["imagenet-resnet50-16ep"]
        for name, rows in tables().items():
            print(f"\n{name}\n{shown(rows, first, RATES)}")
        one = decoding_ms(first.image_kb, first.side)
        print(
            f"\none core: {one:.2f} ms, {1000 / one:.0f} images/s; lock: {1000 / measured()['python_ms']:,.0f} images/s"
        )
    if chosen.json:
        machines = [asdict(machine) for machine in (A100, H100, H200, TWO_CORES)]
        write_json(chosen.json, {"published": published(), "tables": tables(), "machines": machines, "hidden": HIDDEN})
        print(json.dumps(str(chosen.json)))


if __name__ == "__main__":
    main()
