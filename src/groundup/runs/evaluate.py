"""The honest report on a run's test split, from its stored weights."""

import json
from pathlib import Path

import numpy as np
from torch import nn

from groundup.basis.errors import UsageError
from groundup.basis.files import write_json
from groundup.basis.interruption import StopRequest
from groundup.basis.pictures import confusion_picture
from groundup.data import MemoryLoader, Splits
from groundup.evaluation import TTA, Evaluation
from groundup.runs.folder import RunFolder, open_run_folder
from groundup.runs.load import load
from groundup.runs.prepare import logits_of, open_data
from groundup.training import choose_engine


def evaluate(
    run: Path | str,
    *,
    tta: str = "none",
    split: str = "test",
    stop: StopRequest | None = None,
    model: nn.Module | None = None,
    data: Splits | None = None,
) -> Evaluation:
    """Evaluate a run; writes evaluation-SPLIT[-TTA].json and confusion-SPLIT[-TTA].png into its folder.

    `model`, `data`: the network and splits of a run that was trained with your own.
    """
    folder = open_run_folder(run)
    if tta not in TTA:
        raise UsageError(f"--tta {tta}: unknown; allowed: {', '.join(TTA)}")
    recipe = folder.recipe()
    stop = stop or StopRequest()
    if split == "test" and folder.summary() is None:
        raise UsageError(
            f"run {str(run)!r}: is not finished, and the test split is read once, at the end",
            hint=f"`groundup resume {run}` finishes it; --split validation can be read at any time",
        )
    classifier = load(run, model)
    splits = data or open_data(recipe, stop)
    _require_same_data(folder, splits)
    chosen = {"train": splits.train, "validation": splits.validation, "test": splits.test}.get(split)
    if chosen is None:
        raise UsageError(
            f"--split {split}: this run has no such split; allowed: train, test, or validation if it was carved"
        )
    engine = choose_engine(recipe.train, total_steps=1)
    engine.activate()
    model = classifier.model.to(engine.torch_device)
    loader = MemoryLoader(chosen, engine.torch_device, recipe.data.cache)
    logits, labels = logits_of(model, loader, recipe, engine, stop.check, tta)
    result = Evaluation.of(logits, labels, classifier.classes, split=split, tta=tta)
    name = split if tta == "none" else f"{split}-{tta}"
    write_json(folder.path / f"evaluation-{name}.json", result.to_dict())
    confusion_picture(
        np.asarray(result.confusion), classifier.classes, folder.path / f"confusion-{name}.png", str(result)
    )
    return result


def _require_same_data(folder: RunFolder, splits: Splits) -> None:
    """UsageError if the recipe's data is not what the run was trained on: images of test may have been in train."""
    trained_on = json.loads(folder.classifier_file.read_text()).get("data")
    if trained_on not in (None, splits.fingerprint):
        raise UsageError(
            f"{folder.path}: data.source gives other images now than the run was trained on "
            f"(fingerprint {trained_on}, now {splits.fingerprint})",
            hint="put the data back; a run trained on data handed in from Python is evaluated with `data=` in Python",
        )
