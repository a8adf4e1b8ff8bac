"""A trained run as something to use: the network with its preprocessing and its class names, from a run folder, a
publication or the Hub. Runs no code from the weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.errors import CheckpointError, UsageError
from groundup.data import Resize, Splits, UnreadableImage, decode_image
from groundup.models import build_model
from groundup.recipe import Recipe
from groundup.runs.evaluation_file import fitted_temperature
from groundup.runs.publication import (
    CLASSIFIER_FORMAT,
    own_in,
    read_described,
    require_fitting,
    shapes_in,
)
from groundup.runs.reported import chosen_checkpoint, reported_weights
from groundup.runs.trained import Trained, open_trained
from groundup.training import load_weights

READABLE = "save it anew as PNG or JPEG"


@dataclass(frozen=True)
class Classifier:
    """A trained network, in evaluation mode. `image_size`: side in px; `mean`, `std`: of pixels in [0, 1].

    temperature: what the logits are divided by, as `groundup evaluate --calibration` found it; None without one. It leaves the
    order of the classes as it is, and the demo and exports divide by the same.
    """

    model: nn.Module
    classes: list[str]
    image_size: int
    resize: Resize
    mean: augment.Colour
    std: augment.Colour
    temperature: float | None = None

    def prepare(self, picture: Any) -> Tensor:
        """uint8 (3, S, S) from a path, encoded bytes, a PIL image or an array, as the training data was prepared. UnreadableImage
        names what cannot be read."""
        name = str(picture) if isinstance(picture, str | Path) else "the image"
        content = Path(picture).read_bytes() if isinstance(picture, str | Path) else picture
        try:
            pixels = decode_image(content, name=name, resolution=self.image_size, resize=self.resize)
        except UnreadableImage as error:
            raise UnreadableImage(name, error.reason, hint=READABLE) from error
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """float32 (B, C) from prepared images, uint8 (B, 3, S, S)."""
        device = next(self.model.parameters()).device
        logits = self.model(augment.normalize(images.to(device), self.mean, self.std)).float()
        return (logits / (self.temperature or 1.0)).softmax(1).cpu()

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
        own = own_in(folder.path)
        if "model" in own:
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
        fitted_temperature(folder),
    )
