"""What the costliest mistakes of the five systems cost: each trained as it was run and as it was meant, at one length, over seeds.

    python bench/mistakes.py parquet:PATH/TO/cifar100 --seeds 0 1 2 --out bench/results/mistakes.json

Real CIFAR-100, nets and lengths cut down so that a run takes minutes on two cores. The rows differ in nothing but the mistake.
What the table can show: that a mistake costs more than about 0.7 points, the least that three seeds resolve at this scale. What it
cannot: the size of the loss at the systems' own length and width, nor any difference smaller than its interval.

Nothing is selected: every run reports its last step on the test split. The command goes on where it stopped: a run that is in
--out is not made again, one that was interrupted is resumed. `cached` (system 003: augmented samples kept for ever) and `ema`
(system 004: an average without batch-norm statistics) are no legal settings of the product and are emulated here.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundup import augment
from groundup.basis.files import write_json
from groundup.basis.interruption import StopRequest
from groundup.data import ImageSet, MemoryLoader, Splits
from groundup.evaluation import mean_interval
from groundup.models import build_model
from groundup.recipe import load_recipe
from groundup.runs.folder import environment, open_run_folder
from groundup.runs.load import load
from groundup.runs.prepare import evaluation_batches, open_data
from groundup.runs.train import Run, resume, train

VIEWS = 4  # a worker that caches keeps one view of an image for ever, and system 003 had four workers

NET = ["model={name: wide_resnet, depth: 10, width: 2}", "optimizer={name: sgd, weight_decay: 5.0e-4}"]
PLAIN = ["augment.policy=[{name: pad_crop, pad: 4}, {name: flip}]"]
COMMON = [
    *("phases=[]", "loss={label_smoothing: 0}", "checkpoint.every=2ep", "track.tensorboard=false"),
    *("evaluate.every=1ep", "schedule={name: cosine, lr: 0.1, warmup: 0.05dur}"),
]
TEN = ["data.limit=10000", "train={epochs: 6, batch_size: 128}"]
# At 128, 468 steps leave the network under 18%, too far from what it can learn for the end of a schedule to matter (seed 0: 17.4%
# constant, 17.1% cosine).
MANY_STEPS = ["data.limit=10000", "train={epochs: 6, batch_size: 32}", "schedule.lr=0.05"]
STEM = ["model={name: resnet18, width: 16, stem: small}", "optimizer={name: sgd, weight_decay: 5.0e-4}"]
AUGMENTED = ["augment.policy=[{name: pad_crop, pad: 4}, {name: flip}, {name: cutout, size: 8}]"]


@dataclass(frozen=True)
class Row:
    """One mistake: overrides of cifar100-resnet18 that both runs share, and those that make it."""

    name: str
    says: str
    shared: list[str]
    as_run: list[str]
    corrected: list[str]


ROWS = [
    Row(
        "restarts",
        "000: warm restarts stepped per batch, period 25 iterations, peak 0.01, after a warm-up to 0.1",
        [*COMMON, *NET, *PLAIN, *TEN],
        [
            "schedule={name: sequence, parts: [{schedule: {name: ramp, start_lr: 0.01, lr: 0.1}, length: 0.05dur}, "
            "{schedule: {name: cosine_restarts, lr: 0.01, final_lr: 1.0e-4, period: 25step}}]}"
        ],
        ["schedule={name: cosine_restarts, lr: 0.1, final_lr: 1.0e-4, warmup: 0.05dur, period: 112step}"],
    ),
    Row(
        "stem",
        "000 and 003: an ImageNet stem on 32-pixel images (same epochs; it also costs less per image)",
        [*COMMON, *STEM, *PLAIN, *TEN],
        ["model.stem=imagenet"],
        [],
    ),
    Row(
        "cached",
        f"003: augmented samples cached, {VIEWS} frozen views of each image (emulated)",
        [*COMMON, *NET, *AUGMENTED, "data.limit=5000", "schedule.lr=0.05"],
        [f"train={{epochs: {12 / VIEWS:g}, batch_size: 32}}", "augment.policy=[]"],
        ["train={epochs: 12, batch_size: 32}"],
    ),
    Row(
        "cosine",
        "002: a cosine schedule that was never stepped, so a constant rate",
        [*COMMON, *NET, *PLAIN, *MANY_STEPS],
        ["schedule={name: constant, lr: 0.05, warmup: 0.05dur}"],
        [],
    ),
    Row(
        "ema",
        "004: an average of the parameters evaluated with the batch-norm buffers of the start (emulated)",
        [*COMMON, *NET, *PLAIN, *TEN, "average={name: ema, horizon: 0.5ep}"],
        [],
        [],
    ),
]


def frozen_views(splits: Splits, policy: list[Any], seed: int) -> Splits:
    """The training split as a cache of augmented samples leaves it: VIEWS fixed views of every image."""
    images, labels = splits.train.to_device("cpu")
    pixels = images.permute(0, 3, 1, 2)
    mean, _ = augment.measure([images])
    views = []
    for view in range(VIEWS):
        indices = torch.arange(len(pixels))
        batch = augment.Batch(indices, view, seed, splits.image_size, mean, torch.device("cpu"))
        views.append(augment.augment(policy, pixels, batch, step=view).permute(0, 2, 3, 1).numpy())
    train_split = ImageSet.whole(np.concatenate(views), np.tile(labels.numpy(), VIEWS))
    name = f"{splits.fingerprint}-{VIEWS}-views-{seed}"
    return Splits(train_split, splits.validation, splits.test, splits.classes, splits.image_size, name)


def without_buffers(run: Run) -> float:
    """Test accuracy of the averaged parameters in a network whose batch-norm buffers are those of the start (system 004, bug 1)."""
    folder = open_run_folder(run.folder)
    recipe, classifier = folder.recipe(), load(run.folder)
    start = build_model(recipe.model, num_classes=len(classifier.classes), seed=recipe.seed).eval()
    with torch.no_grad():
        for wrong, averaged in zip(start.parameters(), classifier.model.parameters(), strict=True):
            wrong.copy_(averaged)
    splits = open_data(recipe, StopRequest())
    assert splits.test is not None
    right = 0
    with torch.no_grad():
        for images, labels in evaluation_batches(MemoryLoader(splits.test, torch.device("cpu")), recipe):
            right += int((start(images).argmax(1) == labels).sum())
    return right / len(splits.test)


def trained(row: Row, variant: str, source: str, seed: int, runs: Path) -> Run:
    """One run, made or gone on with."""
    changes = row.as_run if variant == "as_run" else row.corrected
    overrides = [f"name={row.name}-{variant}", f"data.source={source}", *row.shared, *changes, f"seed={seed}"]
    folder = runs / f"{row.name}-{variant}-seed{seed}"
    data: Splits | None = None
    if row.name == "cached" and variant == "as_run":
        meant = load_recipe("cifar100-resnet18", [f"data.source={source}", *row.shared])
        data = frozen_views(open_data(meant, StopRequest()), list(meant.augment.policy), seed)
    if (folder / "recipe.yaml").exists():
        return resume(folder, data=data)
    return train("cifar100-resnet18", overrides, run=folder, data=data)


def measure(row: Row, source: str, seed: int, runs: Path) -> dict[str, Any]:
    """Test accuracies of one seed, as run and corrected, and what they cost."""
    corrected = trained(row, "corrected", source, seed, runs)
    if row.name == "ema":
        top1, cost = without_buffers(corrected), corrected.summary
    else:
        as_run = trained(row, "as_run", source, seed, runs)
        top1, cost = as_run.summary["top1"], as_run.summary
    return {
        "seed": seed,
        "as_run": top1,
        "corrected": corrected.summary["top1"],
        "pflop_as_run": cost["pflop"],
        "pflop_corrected": corrected.summary["pflop"],
        "steps": corrected.summary["steps"],
        "steps_as_run": cost["steps"],
        "seconds": [round(cost["seconds"]), round(corrected.summary["seconds"])],
    }


def summarized(row: Row, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the paired difference with its 95% t interval."""
    gains = [seed["corrected"] - seed["as_run"] for seed in seeds]
    gain, low, high = mean_interval(gains) if len(gains) > 1 else (gains[0], -math.inf, math.inf)
    return {
        "mistake": row.says,
        "as_run": sum(seed["as_run"] for seed in seeds) / len(seeds),
        "corrected": sum(seed["corrected"] for seed in seeds) / len(seeds),
        "difference": gain,
        "interval": [low, high] if len(gains) > 1 else None,
        "seeds": seeds,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown, in percent and points."""
    lines = ["| mistake | as run | corrected | difference (95% interval) | seeds |", "|---|---|---|---|---|"]
    for row in rows.values():
        interval = (
            "" if row["interval"] is None else f" ({100 * row['interval'][0]:+.1f} to {100 * row['interval'][1]:+.1f})"
        )
        lines.append(
            f"| {row['mistake']} | {row['as_run']:.1%} | {row['corrected']:.1%} | "
            f"{100 * row['difference']:+.1f}{interval} | {len(row['seeds'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="CIFAR-100, such as parquet:DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--runs", type=Path, default=Path("runs/mistakes"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    result: dict[str, Any] = {"rows": {}, **environment()}
    if chosen.out and chosen.out.exists():
        result["rows"] = json.loads(chosen.out.read_text())["rows"]
    for seed in chosen.seeds:
        for row in (row for row in ROWS if row.name in chosen.rows):
            seeds = result["rows"].get(row.name, {}).get("seeds", [])
            if all(entry["seed"] != seed for entry in seeds):
                seeds = sorted(
                    [*seeds, measure(row, chosen.source, seed, chosen.runs)], key=lambda entry: entry["seed"]
                )
                result["rows"][row.name] = summarized(row, seeds)
                if chosen.out:
                    write_json(chosen.out, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
