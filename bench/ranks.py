"""The same recipe in one and in two processes, with and without batch norm: what differs, and why.

    python bench/ranks.py parquet:PATH/TO/cifar100 --out bench/results/ranks.json

Two epochs on 2,000 images of CIFAR-100, a global batch of 64, two processes under torchrun (gloo). Compared are the training loss
of every epoch and the weights after it:

    no norm                     two processes against one: the same sums in another order
    batch norm                  two processes against one: each normalises by its own 32 images
    batch norm, micro-batches   two processes against one that works in micro-batches of 32, whose norms see the same images: if the
                                norms are the whole difference, these must agree. The running statistics do not: one process updates
                                them twice a step, two update them once and take the mean
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from kept import keep
from safetensors.torch import load_file
from torch import Tensor, nn

import groundup
from groundup.runs.folder import environment

BASE = "cifar100-resnet18"
SETTINGS = [
    *("data.limit=2000", "data.validation=0.1", "model={name: resnet18, width: 8, stem: small}", "phases=[]"),
    *("train.epochs=2", "train.batch_size=64", "train.threads=1", "train.precision=fp32", "train.compile=never"),
    *(
        "schedule={name: constant, lr: 0.02}",
        "evaluate.every=1ep",
        "checkpoint={every: 1ep, keep: 2}",
        "track.tensorboard=false",
    ),
]
STATISTICS, COUNTS = ("running_mean", "running_var"), "num_batches_tracked"


class WithoutNorm(nn.Module):
    """Some convolutions, images (N, 3, S, S) -> logits (N, 100)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sides = [3, 16, 32, 64]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, stride=2) for before, after in pairwise(sides)
        )
        self.fc = nn.Linear(sides[-1], 100)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = convolution(x).relu()
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def run(source: str, folder: Path, processes: int, norm: bool, *more: str) -> Path:
    """The folder of a finished run in so many processes."""
    own = [] if norm else ["--without-norm"]
    module = [str(Path(__file__).resolve())]
    if processes > 1:
        module = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *module]
    command = [sys.executable, *module, source, "--train", str(folder), *own, "--set", *SETTINGS, *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def compared(one: Path, two: Path) -> dict[str, Any]:
    """How far two runs are from each other."""
    losses = [[line["train_loss"] for line in lines_of(folder)] for folder in (one, two)]
    right = [lines_of(folder)[-1]["validation_top1"] for folder in (one, two)]
    far = [
        apart(*pair) for pair in zip(*(sorted(folder.glob("checkpoints/step-*")) for folder in (one, two)), strict=True)
    ]
    return {
        "train_loss_one": losses[0],
        "train_loss_two": losses[1],
        "largest_difference_of_loss": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        "largest_difference_of_weights_after_epochs": [weights for weights, _ in far],
        "largest_difference_of_statistics_after_epochs": [statistics for _, statistics in far],
        "validation_top1_one": right[0],
        "validation_top1_two": right[1],
    }


def apart(one: Path, two: Path) -> tuple[float, float]:
    """The largest difference of any weight of two checkpoints, and of any running mean or variance (0 without any)."""
    first, second = (load_file(checkpoint / "model.safetensors") for checkpoint in (one, two))
    assert first.keys() == second.keys()
    far = {name: float((first[name].double() - second[name].double()).abs().max()) for name in first}
    running = [value for name, value in far.items() if name.endswith(STATISTICS)]
    return max(value for name, value in far.items() if not name.endswith((*STATISTICS, COUNTS))), max(
        running, default=0.0
    )


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The measurements of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="CIFAR-100, such as parquet:DIR")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without-norm", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--set", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.train:
        own = WithoutNorm() if chosen.without_norm else None
        overrides = [f"data.source={chosen.source}", *chosen.set]
        groundup.train(BASE, overrides, run=chosen.train, model=own, pictures=False)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        one_plain = run(chosen.source, folder / "plain-1", 1, False)
        two_plain = run(chosen.source, folder / "plain-2", 2, False)
        one, two = (run(chosen.source, folder / f"norm-{count}", count, True) for count in (1, 2))
        parts = run(chosen.source, folder / "norm-parts", 1, True, "train.micro_batch=32")
        rows = {
            "no norm": compared(one_plain, two_plain),
            "batch norm": compared(one, two),
            "batch norm, micro-batches": compared(parts, two),
        }
    keep({"settings": SETTINGS, "rows": rows, **environment()}, chosen.out)


if __name__ == "__main__":
    main()
