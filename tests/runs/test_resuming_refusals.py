"""When a run may not go on: another recipe, other data; and that a finished one stays as it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import groundup
from groundup.basis.errors import CheckpointError, UsageError
from groundup.basis.interruption import Interrupted
from groundup.data import ImageSet, Splits
from groundup.runs.evaluate import evaluate
from groundup.runs.train import Run


def own_splits(seed: int = 0, classes: int = 3) -> Splits:
    """Images whose brightness tells the class."""
    random = np.random.default_rng(seed)

    def part(count: int) -> ImageSet:
        labels = np.arange(count) % classes
        images = (60 * labels[:, None, None, None] + random.integers(0, 50, (count, 12, 12, 3))).astype(np.uint8)
        return ImageSet.whole(images, labels)

    return Splits(part(60), None, part(30), [f"class {c}" for c in range(classes)], 12, fingerprint=f"own-{seed}")


@pytest.fixture
def unfinished(copied: Path) -> Path:
    """A run that lacks only its result."""
    (copied / "summary.json").unlink()
    return copied


def test_a_finished_run_is_returned_as_it_is(finished: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    assert groundup.resume(finished.folder).summary == finished.summary
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_a_run_that_lacks_only_its_result_gets_the_same_result(unfinished: Path, finished: Run) -> None:
    summary = groundup.resume(unfinished).summary
    different = {"hardware", "seconds", "images_per_second"}
    assert {k: v for k, v in summary.items() if k not in different} == {
        k: v for k, v in finished.summary.items() if k not in different
    }


def test_a_changed_recipe_is_refused_with_every_difference(unfinished: Path) -> None:
    recipe = unfinished / "recipe.yaml"
    changed = recipe.read_text().replace("max_lr: 0.1", "max_lr: 0.3").replace("epochs: 2.0", "epochs: 4.0")
    recipe.write_text(changed)
    weights = (unfinished / "checkpoints/last/model.safetensors").read_bytes()
    with pytest.raises(UsageError) as caught:
        groundup.resume(unfinished)
    message = str(caught.value)
    assert "the recipe has changed since the checkpoint" in message
    assert "schedule.max_lr: was 0.1, is 0.3" in message
    assert "train.epochs: was 2.0, is 4.0" in message
    assert (unfinished / "checkpoints/last/model.safetensors").read_bytes() == weights
    assert not (unfinished / "summary.json").exists()


def test_a_changed_recipe_of_a_finished_run_is_refused_as_well(copied: Path, finished: Run) -> None:
    recipe = copied / "recipe.yaml"
    original = recipe.read_text()
    for was, now, told in (
        ("max_lr: 0.1", "max_lr: 0.3", "schedule.max_lr: was 0.1, is 0.3"),
        ("epochs: 2.0", "epochs: 4.0", "train.epochs: was 2.0, is 4.0"),
    ):
        recipe.write_text(original.replace(was, now))
        with pytest.raises(UsageError, match="the recipe has changed since the checkpoint") as caught:
            groundup.resume(copied)
        assert told in str(caught.value)
    recipe.write_text("# a comment\n" + original.replace("tensorboard: true", "tensorboard: false"))
    assert groundup.resume(copied).summary == finished.summary


def test_a_recipe_written_differently_but_equal_goes_on(unfinished: Path) -> None:
    recipe = unfinished / "recipe.yaml"
    recipe.write_text("# a comment\n" + recipe.read_text().replace("max_lr: 0.1", "max_lr: 1.0e-1"))
    assert groundup.resume(unfinished).summary["steps"] == 6


def test_other_data_than_the_checkpoints_is_refused(tiny: list[str], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=np.arange(100) % 2)
    small = ["model.width=8", "train={epochs: 1, batch_size: 20, threads: 1}", "track.tensorboard=false"]
    run = groundup.train("digits", [f"data.source=arrays:{tmp_path}/data.npz", *small], run=tmp_path / "run")
    (run.folder / "summary.json").unlink()
    np.savez(tmp_path / "data.npz", x_train=255 - images, y_train=np.arange(100) % 2)
    with pytest.raises(UsageError, match="the data has changed since the checkpoint"):
        groundup.resume(run.folder)
    with pytest.raises(UsageError, match="other images now than the run was trained on"):
        evaluate(run.folder, split="train")


def test_a_run_whose_data_has_moved_goes_on_where_the_recipe_says_it_is_now(tiny: list[str], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=images, y_train=np.arange(100) % 2)
    small = ["model.width=8", "train={epochs: 1, batch_size: 20, threads: 1}", "track.tensorboard=false"]
    run = groundup.train("digits", [f"data.source=arrays:{tmp_path}/data.npz", *small], run=tmp_path / "run")
    (run.folder / "summary.json").unlink()
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("data.npz", "moved.npz"))
    assert groundup.resume(run.folder).summary["top1"] == run.summary["top1"]
    np.savez(tmp_path / "moved.npz", x_train=255 - images, y_train=np.arange(100) % 2)
    (run.folder / "summary.json").unlink()
    with pytest.raises(UsageError, match="the data has changed since the checkpoint"):
        groundup.resume(run.folder)


def test_a_run_on_data_of_ones_own_is_not_continued_or_evaluated_on_the_recipes(tmp_path: Path) -> None:
    small = ["model.width=8", "train={epochs: 1, batch_size: 20, threads: 1}", "track.tensorboard=false"]
    run = groundup.train("digits", small, run=tmp_path / "run", data=own_splits())
    with pytest.raises(UsageError, match="other images now than the run was trained on"):
        evaluate(run.folder)
    (run.folder / "summary.json").unlink()
    with pytest.raises(UsageError):
        groundup.resume(run.folder)
    assert groundup.resume(run.folder, data=own_splits()).summary["top1"] == run.summary["top1"]


def test_damaged_weights_are_not_used_for_predictions(copied: Path) -> None:
    weights = copied / "checkpoints/last/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        groundup.load(copied)


def test_a_run_without_a_checkpoint_yet_says_how_to_go_on(copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(CheckpointError, match="groundup resume"):
        groundup.load(copied)
    (copied / "classifier.json").unlink()
    with pytest.raises(UsageError, match="has not got as far as a network yet"):
        groundup.load(copied)


def test_a_classifier_of_another_format_is_refused(copied: Path) -> None:
    described = json.loads((copied / "classifier.json").read_text()) | {"format": 7}
    (copied / "classifier.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="format 7"):
        groundup.load(copied)


def test_time_that_is_up_leaves_a_run_that_goes_on_to_the_same_weights(
    finished: Run, tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match=r"--max-time is up; `groundup resume .*run` goes on") as stopped:
        groundup.train("digits", tiny, run=tmp_path / "run", max_seconds=0)
    assert stopped.value.exit_code == 0
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    run = groundup.resume(tmp_path / "run")
    weights = "checkpoints/last/model.safetensors"
    assert (run.folder / weights).read_bytes() == (finished.folder / weights).read_bytes()
