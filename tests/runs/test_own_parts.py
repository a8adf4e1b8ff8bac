"""From Python: a network and data of one's own, and what may not be combined."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import groundup
from groundup.basis.errors import UsageError
from groundup.basis.interruption import Interrupted
from groundup.data import Splits, superclasses
from groundup.recipe import load_recipe

SMALL = ["train={epochs: 4, batch_size: 20, threads: 1}", "track.tensorboard=false", "augment.policy=[]"]


def splits(seed: int = 0) -> Splits:
    """Three classes that the brightness tells apart, 12 px."""
    random = np.random.default_rng(seed)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        return (80 * labels[:, None, None, None] + random.integers(0, 50, (count, 12, 12, 3))).astype(np.uint8), labels

    return Splits.from_arrays(part(120), part(60), classes=["dark", "grey", "bright"])


class Brightness(nn.Module):
    """A network that groundup has never seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images))


def test_own_network_and_own_data_are_trained_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = groundup.train("digits", SMALL, run=tmp_path / "run", model=Brightness(), data=splits())
    assert run.summary["top1"] > 0.9
    assert run.summary["parameters"] == sum(p.numel() for p in Brightness().parameters())
    assert (run.summary["classes"], run.summary["images"], run.summary["train_images"]) == (3, 60, 120)
    classifier = groundup.load(run.folder, model=Brightness())
    assert classifier.predict(np.full((12, 12, 3), 250, np.uint8))[0][0] == "bright"
    with pytest.raises(UsageError, match="a network of its own, Brightness"):
        groundup.load(run.folder)
    assert groundup.evaluate(run.folder, model=Brightness(), data=splits()).top1 == run.summary["top1"]
    with pytest.raises(UsageError, match=r"is evaluated by groundup\.evaluate\(RUN, data=\.\.\.\)"):
        groundup.evaluate(run.folder, model=Brightness(), data=splits(seed=1))


def test_a_stopped_run_says_how_to_hand_in_its_own_parts_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = Brightness()
    with pytest.raises(Interrupted) as stopped:
        groundup.train("digits", SMALL, run=tmp_path / "run", model=own, data=splits(), max_seconds=0)
    assert f'`groundup.resume("{tmp_path / "run"}", model=..., data=...)` goes on' in stopped.value.reason
    assert groundup.resume(tmp_path / "run", model=Brightness(), data=splits()).summary["steps"] == 24
    with pytest.raises(Interrupted) as stopped:
        groundup.train("digits", SMALL, run=tmp_path / "other", data=splits(), max_seconds=0)
    assert f'`groundup.resume("{tmp_path / "other"}", data=...)` goes on' in stopped.value.reason


def test_the_source_of_the_recipe_is_left_alone_where_data_is_handed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(superclasses._READERS, "parquet", lambda *arguments: pytest.fail("the source was opened"))
    recipe = [*SMALL, "train.epochs=1", "data.source=parquet:nowhere"]
    run = groundup.train("digits", recipe, run=tmp_path / "run", model=Brightness(), data=splits())
    assert groundup.evaluate(run.folder, model=Brightness(), data=splits()).top1 == run.summary["top1"]


def test_own_data_with_the_recipes_network(tmp_path: Path) -> None:
    run = groundup.train("digits", [*SMALL, "model.width=8"], run=tmp_path / "run", data=splits())
    assert groundup.load(run.folder).predict(np.zeros((12, 12), np.uint8))[0][0] == "dark"


def test_a_recipe_object_is_trained_and_takes_no_overrides(tmp_path: Path) -> None:
    recipe = load_recipe("digits", [*SMALL, "model.width=8", "train.epochs=1"])
    assert groundup.train(recipe, run=tmp_path / "run", data=splits()).summary["steps"] == 6
    with pytest.raises(UsageError, match="overrides: apply to a recipe given by name or path"):
        groundup.train(recipe, ["seed=1"], run=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    import threading

    done: list[int] = []

    def work() -> None:
        overrides = [*SMALL, "model.width=8", "train.epochs=1"]
        done.append(groundup.train("digits", overrides, run=tmp_path / "run", data=splits()).summary["steps"])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [6]
