"""Photographs from disk: the same run by every door, accuracy after a few epochs, and memory over epochs.

    python bench/imagenette.py parquet:PATH/TO/imagenette --seeds 0 1 2 --out bench/results/imagenette.json

A ResNet-18 of half the usual width, trained at 128 px on crops that are decoded anew for every batch (`data.cache=none`),
tested at 160 px.

    doors       the photographs as they are, in one folder per class; packed into tar and Parquet shards in the same order. One
                seed, two epochs of some of them by `folder:`, `webdataset:`, `parquet:` and `parquet:...?streaming`: do weights
                and measurements agree to the last bit?
    accuracy    a run of --epochs by `source` for every seed; nothing was tuned, test is read once by each; a t interval over seeds
    memory      resident memory after each of ten epochs of some of the photographs

`--parts` chooses; what --out has of the others is kept. Runs go on where they stopped. How decoding scales over threads:
`bench/decode.py`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from growth import MemoryAfterEpochs
from kept import keep

from groundup.data import DataSettings, load_splits
from groundup.evaluation import mean_interval
from groundup.runs.folder import environment
from groundup.runs.train import resume, train

BASE = "imagenette-resnet50"
NET = ["model={name: resnet18, stem: imagenet, width: 32}", "data.cache=none", "track.tensorboard=false"]
SOME = 1500  # photographs of the parts that compare
PARTS = ("doors", "accuracy", "memory")


def overrides(source: str, epochs: int, *more: str) -> list[str]:
    """The recipe of a run: the base, with a smaller network and a shorter schedule."""
    length = [f"train.epochs={epochs}", "schedule={name: cosine, lr: 0.1, warmup: 1ep}", "checkpoint.every=1ep"]
    return [f"data.source={source}", *NET, *length, *more]


def trained(chosen: list[str], folder: Path) -> dict[str, Any]:
    """The summary of a run, made or gone on with."""
    if (folder / "recipe.yaml").exists():
        return resume(folder, pictures=False).summary
    return train(BASE, chosen, run=folder, pictures=False).summary


def laid_out(source: str, place: Path) -> dict[str, str]:
    """The photographs of Parquet files as a folder, and that packed: door -> source. The bytes of each stay what they are."""
    tree, names = place / "tree", load_splits(DataSettings(source=source, cache="none")).classes
    for file in sorted(Path(source.partition(":")[2]).glob("*.parquet")):
        split = "test" if file.name.startswith("validation") else file.name.partition("-")[0]
        for number, row in enumerate(pq.read_table(file).to_pylist()):
            image = tree / split / names[row["label"]] / f"{file.stem}-{number:05d}.jpg"
            if not image.exists():
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(row["image"]["bytes"])
    for form in ("tar", "parquet"):
        pack = [
            "data",
            "pack",
            f"folder:{tree}",
            str(place / form),
            "--format",
            form,
            "--no-shuffle",
            "--shard-mb",
            "20",
        ]
        subprocess.run([sys.executable, "-m", "groundup", *pack], check=True, stdout=subprocess.DEVNULL)
    return {
        "folder": f"folder:{tree}",
        "parquet": f"parquet:{place}/parquet",
        "parquet, streaming": f"parquet:{place}/parquet?streaming",
        "webdataset": f"webdataset:{place}/tar",
    }


def doors(source: str, runs: Path) -> dict[str, Any]:
    """The same run by every door; how far each is from the first."""
    found: dict[str, Any] = {}
    first: tuple[bytes, list[dict[str, Any]]] | None = None
    for name, place in laid_out(source, runs / "doors").items():
        folder = runs / "doors" / f"run-{name.replace(', ', '-')}"
        settings = [f"data.limit={SOME}", "data.validation=0.1", "evaluate.every=1ep", "seed=0"]
        summary = trained(overrides(place, 2, *settings), folder)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        curve = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]
        weights = (folder / "checkpoints" / "last" / "model.safetensors").read_bytes()
        first = first or (weights, curve)
        found[name] = {
            "steps": summary["steps"],
            "test_top1": summary["top1"],
            "same_weights": weights == first[0],
            "same_curve": curve == first[1],
        }
    return found


def accuracy(source: str, runs: Path, epochs: int, seeds: list[int]) -> dict[str, Any]:
    """Test accuracy of a run per seed."""
    kept = ("seed", "top1", "top1_interval", "images", "epochs", "pflop", "seconds", "images_per_second", "hardware")
    each = []
    for seed in seeds:
        summary = trained(overrides(source, epochs, f"seed={seed}"), runs / f"accuracy-{epochs}ep-seed{seed}")
        each.append({key: summary[key] for key in kept})
    values = [entry["top1"] for entry in each]
    return {"runs": each, "top1_over_seeds": mean_interval(values) if len(values) > 1 else None}


def memory(source: str, runs: Path) -> list[int]:
    """Resident bytes after each of ten epochs."""
    watch = MemoryAfterEpochs()
    settings = [f"data.limit={SOME}", "data.validation=0.1", "evaluate.every=1ep", "train.resolution=64"]
    train(BASE, overrides(source, 10, *settings), run=runs / f"memory-{time.time_ns()}", terminal=watch, pictures=False)
    return watch.seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="Imagenette as Parquet files, parquet:DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="of the runs for accuracy")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/imagenette"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    result = json.loads(chosen.out.read_text()) if chosen.out and chosen.out.exists() else {}
    for part in chosen.parts:
        if part == "doors":
            result[part] = doors(chosen.source, chosen.runs)
        elif part == "accuracy":
            result[part] = accuracy(chosen.source, chosen.runs, chosen.epochs, chosen.seeds)
        else:
            result["memory_bytes_after_epochs"] = memory(chosen.source, chosen.runs)
        keep({**result, **environment()}, chosen.out)


if __name__ == "__main__":
    main()
