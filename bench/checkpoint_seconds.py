"""How long the loop waits for a checkpoint: ResNet-50 for ImageNet with SGD momentum, written to a folder and handed to a mirror.

    python bench/checkpoint_seconds.py --repeats 5 --out bench/results/checkpoint_seconds.json

A machine that gives 30 s notice has to have it in 10 s. `save`: writing, syncing and summing it up, which the loop waits for;
`hand_over`: links for the mirror, which it waits for too; `upload`: the copy to another folder, in the background.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from kept import keep

from groundup.models import build_model
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.mirror.files import MANIFEST, set_aside
from groundup.runs.mirror.places import open_place
from groundup.training import CheckpointStore, Sums, TrainingState


def state_of(recipe: str, classes: int) -> TrainingState:
    """A training state with weights and momentum of the recipe's network."""
    chosen = load_recipe(recipe)
    model = build_model(chosen.model, num_classes=classes, seed=0)
    optimizer = chosen.optimizer.build(model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.rand_like(parameter)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, optimizer, scaler, Sums.zeros(torch.device("cpu")))


def measure(state: TrainingState, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of each part, `repeats` times."""
    run = folder / "run"
    run.mkdir()
    store = CheckpointStore(run / "checkpoints")
    place = open_place(f"file://{folder}/mirror/run")
    seconds: dict[str, list[float]] = {"save": [], "hand_over": [], "upload": []}
    for step in range(1, repeats + 1):
        state.step = step
        times = [time.perf_counter()]
        checkpoint = store.save(state, {"device": "cpu"})
        times.append(time.perf_counter())
        copy = set_aside(run, checkpoint)
        times.append(time.perf_counter())
        last = (f"checkpoints/{copy.name}/{MANIFEST}", json.dumps(copy.manifest()).encode())
        place.publish(copy.files(), last)
        times.append(time.perf_counter())
        copy.discard()
        for name, begin, end in zip(seconds, times, times[1:], strict=False):
            seconds[name].append(round(end - begin, 4))
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"bytes": size, "median_seconds": medians, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="imagenet-resnet50-16ep")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(state_of(chosen.recipe, chosen.classes), Path(folder), chosen.repeats)
    result = {"recipe": chosen.recipe, "classes": chosen.classes, **measured, "environment": environment()}
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
