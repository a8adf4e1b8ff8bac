"""A trained run as something to use: the network with its preprocessing and its class names, from a run folder, a
publication or the Hub. Runs no code from the weights."""

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
from groundup.runs.folder import RunFolder
from groundup.runs.publication import (
    CLASSIFIER_FORMAT,
    is_publication,
    read_described,
    require_fitting,
    require_undamaged,
    shapes_in,
    summary_in,
)
from groundup.runs.trained import Trained, open_trained
from groundup.training import AVERAGE, MODEL, load_weights


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
        "format": CLASSIFIER_FORMAT,
        "classes": list(splits.classes),
        "image_size": splits.image_size,
        "resize": recipe.data.resize,
        "mean": constants.mean,
        "std": constants.std,
        "data": splits.fingerprint,
    }


def reported_weights(folder: RunFolder) -> str:
    """The file of weights that a run reports: the average's if its summary says so. An unfinished run has the
    trained ones only:
    the batch-norm statistics of its average may be older than the average."""
    if is_publication(folder.path):
        return MODEL
    summary = folder.summary() or {}
    return AVERAGE if summary.get("weights") == "average" else MODEL


def chosen_checkpoint(folder: RunFolder, recipe: Recipe, weights: str) -> Path:
    """The checkpoint that a run reports: the last, or the best on validation, as its recipe says. `weights`: the
    file needed."""
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
    """The step of the best weights if they are damaged and a finished run reports them: they have to be made again
    from before."""
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
    """The classifier of a run folder, of a folder that `groundup publish` wrote, or of `hf:OWNER/NAME[@REVISION]`.

    `model`: the network of a run that was trained with one of your own, built as then. Nothing in the files is run as code.
    """
    return classifier_of(open_trained(run), model)


def classifier_of(trained: Trained, model: nn.Module | None = None) -> Classifier:
    """The classifier of a run that is opened already; `load` says more."""
    run, folder, recipe = trained.reference, trained.folder, trained.recipe
    if not trained.published and not folder.classifier_file.exists():
        raise UsageError(
            f"run {str(run)!r}: has not got as far as a network yet", hint=f"`groundup resume {run}` goes on"
        )
    described = read_described(folder.classifier_file)
    weights = reported_weights(folder)
    checkpoint = chosen_checkpoint(folder, recipe, weights)
    shapes_in(checkpoint / weights)  # a damaged file is told as such, whatever network it is for
    if model is None:
        own = (summary_in(folder.path) if trained.published else folder.summary() or {}).get("own")
        if isinstance(own, dict) and "model" in own:
            raise UsageError(
                f"run {str(run)!r}: was trained with a network of its own, {own['model']}, that recipe.yaml does not describe",
                hint="hand it in: groundup.load(run, model=...)",
            )
        require_fitting(recipe, described, checkpoint / weights)
    network = model or build_model(recipe.model, num_classes=len(described.classes), seed=recipe.seed)
    load_weights(checkpoint, network, weights)
    if model is None and described.image_size < recipe.model.smallest_image:
        raise CheckpointError(
            f"{folder.classifier_file}: image_size={described.image_size}; the network takes "
            f"{recipe.model.smallest_image} px or more"
        )
    return Classifier(
        network.eval(),
        described.classes,
        described.image_size,
        described.resize,
        described.mean,
        described.std,
    )
