"""Which weights a run reports, where they lie, and whether they are whole."""

import json
from pathlib import Path

from groundup.basis.errors import CheckpointError
from groundup.basis.files import sha256
from groundup.recipe import Recipe
from groundup.runs.folder import RunFolder
from groundup.runs.publication import is_publication, require_undamaged
from groundup.training import AVERAGE, MODEL


def reported_weights(folder: RunFolder) -> str:
    """The file of weights that a run reports: the average's if its summary says so. An unfinished run has the trained ones
    only: the batch-norm statistics of its average may be older than the average."""
    if is_publication(folder.path):
        return MODEL
    summary = folder.summary() or {}
    return AVERAGE if summary.get("weights") == "average" else MODEL


def chosen_checkpoint(folder: RunFolder, recipe: Recipe, weights: str) -> Path:
    """The checkpoint that a run reports: the last, or the best on validation, as its recipe says. `weights`: the file needed."""
    if is_publication(folder.path):
        require_undamaged(folder.path)
        return folder.path
    link = folder.path / "checkpoints" / recipe.evaluate.model
    if not link.is_symlink() or not link.exists():
        raise CheckpointError(
            f"{folder.path}: no checkpoint `{link.name}` yet", hint=f"`groundup resume {folder.path}` goes on"
        )
    folder_of_weights = link.resolve()
    _require_undamaged(folder_of_weights, folder.path, weights)
    return folder_of_weights


def reported_weights_are_whole(folder: RunFolder) -> bool:
    """Whether the weights that a finished run reports are there and undamaged."""
    try:
        chosen_checkpoint(folder, folder.recipe(), reported_weights(folder))
    except CheckpointError:
        return False
    return True


def damaged_best(folder: RunFolder, recipe: Recipe) -> int | None:
    """The step of the best weights if they are damaged and a finished run reports them: they have to be made again from before."""
    link = folder.path / "checkpoints" / "best"
    if folder.summary() is None or recipe.evaluate.model != "best" or not link.is_symlink():
        return None
    return None if reported_weights_are_whole(folder) else int(link.readlink().name.removeprefix("step-"))


def _require_undamaged(checkpoint: Path, run: Path, name: str) -> None:
    weights = checkpoint / name
    try:
        whole = json.loads((checkpoint / "checksums.json").read_text())[weights.name] == sha256(weights)
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"{weights}: damaged: it does not match its checksum",
            hint=f"`groundup resume {run}` makes it again from the checkpoint before it",
        )
