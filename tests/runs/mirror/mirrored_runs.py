"""Run folders that grow without training, and what a mirror holds of them; for the tests of this folder."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.recipe import Recipe, load_recipe
from groundup.runs.folder import RunFolder
from groundup.runs.identity import identity_of
from groundup.runs.mirror.files import whole
from groundup.runs.mirror.places import open_place
from groundup.runs.mirror.sending import Mirror
from groundup.training import CheckpointStore, Sums, TrainingState

SAID: list[str] = []


class ARun:
    """A run folder that grows: checkpoints whose weights are their step, `megabytes` each, and the files beside them."""

    def __init__(self, path: Path, seed: int = 0, megabytes: float = 0.02) -> None:
        self.folder = RunFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        self.recipe: Recipe = load_recipe("digits", [f"seed={seed}"])
        self.folder.write_recipe(self.recipe)
        (path / "environment.json").write_text('{"format": 1, "cpu": "a processor", "gpu": null, "resumed_on": []}\n')
        (path / "classifier.json").write_text("{}\n")
        self.numbers = max(1, round(megabytes * 1e6 / 4 / 2))
        self.said = SAID
        SAID.clear()

    def save(self, step: int, best: int | None = None, on_saved: Any = None) -> Path:
        """A checkpoint, with a line in metrics.jsonl before it."""
        with open(self.folder.metrics_file, "a") as lines:
            lines.write(json.dumps({"step": step}) + "\n")
        model = nn.Linear(self.numbers, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.full((1, self.numbers), float(step)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.rand_like(parameter)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        state = TrainingState(model, optimizer, scaler, Sums.zeros(torch.device("cpu")), step=step, evaluated_at=step)
        state.best = None if best is None else {"step": best, "validation_top1": 0.5}
        store = CheckpointStore(self.folder.path / "checkpoints", on_saved=on_saved)
        return store.save(state, {"device": "cpu"})

    def mirror(self, url: str, **settings: Any) -> Mirror:
        """Its mirror at `url`, which is the address of this very run."""
        identity = identity_of(self.recipe, "data-1")
        settings = {"begins": not list(self.folder.path.glob("checkpoints/step-*")), **settings}
        return Mirror(open_place(url), self.folder.path, identity, self.said.append, **settings)


def steps_in(url: str) -> list[str]:
    return whole(open_place(url).names())


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def wait(happened: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"nothing for {seconds} s: {SAID}"
        time.sleep(0.01)


def mirrored(run: ARun, url: str, steps: tuple[int, ...] = (10, 20), best: int | None = None) -> Path:
    """Copies of these steps in a folder; returns it."""
    mirror = run.mirror(url, keep=3)
    mirror.start()
    for number, step in enumerate(steps, start=1):
        mirror.saved(run.save(step, best=best))
        wait(lambda number=number: mirror.uploaded == number)
    assert mirror.finish(10)
    return Path(url.removeprefix("file://"))
