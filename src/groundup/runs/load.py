"""A trained run as something to use: the network with its preprocessing and its class names. Runs no code from the weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.errors import CheckpointError, UsageError
from groundup.basis.files import sha256
from groundup.data import Resize, Splits, decode_image
from groundup.models import build_model
from groundup.recipe import Recipe
from groundup.runs.folder import RunFolder, open_run_folder
from groundup.training import AVERAGE, MODEL, load_weights

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Classifier:
    """A trained network, in evaluation mode. `image_size`: side in px; `mean`, `std`: of pixels in [0, 1]."""

    model: nn.Module
    classes: list[str]
    image_size: int
    resize: Resize
    mean: augment.Colour
    std: augment.Colour

    def prepare(self, picture: Any) -> Tensor:
        """uint8 (3, S, S) from a path, encoded bytes, a PIL image or an array, as the training data was prepared."""
        name = str(picture) if isinstance(picture, str | Path) else "the image"
        content = Path(picture).read_bytes() if isinstance(picture, str | Path) else picture
        pixels = decode_image(content, name=name, resolution=self.image_size, resize=self.resize)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """float32 (B, C) from prepared images, uint8 (B, 3, S, S)."""
        device = next(self.model.parameters()).device
        return self.model(augment.normalize(images.to(device), self.mean, self.std)).float().softmax(1).cpu()

    def predict(self, picture: Any, top: int = 5) -> list[tuple[str, float]]:
        """The `top` most probable classes of one picture: (name, probability), most probable first."""
        best = self.probabilities(self.prepare(picture)[None])[0].topk(min(top, len(self.classes)))
        return [(self.classes[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def describe_classifier(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What `classifier.json` holds: everything between a picture and a named answer but the weights.

    `data` is the fingerprint of the data that the run was trained on.
    """
    constants = recipe.augment.normalize
    return {
        "format": FORMAT_VERSION,
        "classes": list(splits.classes),
        "image_size": splits.image_size,
        "resize": recipe.data.resize,
        "mean": constants.mean,
        "std": constants.std,
        "data": splits.fingerprint,
    }


def reported_weights(folder: RunFolder) -> str:
    """The file of weights that a run reports: the average's if its summary says so. An unfinished run has the trained ones only:
    the batch-norm statistics of its average may be older than the average."""
    summary = folder.summary() or {}
    return AVERAGE if summary.get("weights") == "average" else MODEL


def chosen_checkpoint(folder: RunFolder, recipe: Recipe, weights: str) -> Path:
    """The checkpoint that a run reports: the last, or the best on validation, as its recipe says. `weights`: the file needed."""
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


def load(run: Path | str, model: nn.Module | None = None) -> Classifier:
    """The classifier of a run folder. `model`: the network of a run that was trained with one of your own, built as then."""
    folder = open_run_folder(run)
    if not folder.classifier_file.exists():
        raise UsageError(
            f"run {str(run)!r}: has not got as far as a network yet", hint=f"`groundup resume {run}` goes on"
        )
    described = json.loads(folder.classifier_file.read_text())
    if described["format"] != FORMAT_VERSION:
        raise UsageError(
            f"{folder.classifier_file}: format {described['format']}; this groundup reads {FORMAT_VERSION}"
        )
    recipe = folder.recipe()
    network = model or build_model(recipe.model, num_classes=len(described["classes"]), seed=recipe.seed)
    weights = reported_weights(folder)
    load_weights(chosen_checkpoint(folder, recipe, weights), network, weights)
    mean, std = (tuple(described[key]) for key in ("mean", "std"))
    return Classifier(
        network.eval(),
        described["classes"],
        described["image_size"],
        described["resize"],
        mean,
        std,
    )
