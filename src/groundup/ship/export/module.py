"""What every export holds: preprocessing, network and probabilities in one module, and the facts that travel with it.

Shapes   images uint8 (N, S, S, 3), any N of 1 or more, RGB, S the run's image size; out float32 (N, C), rows sum to 1.
Inside   scaling and normalisation with the run's constants, the network in evaluation mode, division of the logits by the
         temperature where the run has one, softmax. Outside: decoding a picture and bringing it to S x S px (`resize`).
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groundup.runs.load import Classifier
from groundup.version import __version__

INPUT, OUTPUT = "images", "probabilities"
KEY = "groundup"
"""Before every key of the facts in a file's metadata: `groundup.classes`."""

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Runner = Callable[[Pixels], Probabilities]
"""uint8 (N, S, S, 3) -> float32 (N, C)."""


class ExportedClassifier(nn.Module):
    """See the module. The network is copied: what is exported cannot change the run's, and holds no gradients."""

    shift: Tensor
    scale: Tensor

    def __init__(self, classifier: Classifier, temperature: float | None = None) -> None:
        super().__init__()
        self.network = copy.deepcopy(classifier.model).cpu().float().eval().requires_grad_(False)
        # The arithmetic of augment.normalize, in its order, so that not a bit differs.
        self.register_buffer("shift", torch.tensor(classifier.mean).view(1, 3, 1, 1).mul(255))
        self.register_buffer("scale", torch.tensor(classifier.std).view(1, 3, 1, 1).mul(255).reciprocal())
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, S, S, 3) -> float32 (N, C)."""
        logits = self.network((images.permute(0, 3, 1, 2).float() - self.shift) * self.scale).float()
        return (logits if self.temperature is None else logits / self.temperature).softmax(1)


@dataclass(frozen=True)
class Facts:
    """What a file says about itself. weights: SHA-256 of the run's file of reported weights; temperature: what the logits are
    divided by, None if the run has none."""

    recipe: str
    weights: str
    classes: list[str]
    image_size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    temperature: float | None

    def to_dict(self) -> dict[str, Any]:
        """As `json` can write it."""
        return {
            "groundup": __version__,
            "recipe": self.recipe,
            "weights_sha256": self.weights,
            "classes": self.classes,
            "image_size": self.image_size,
            "resize": self.resize,
            "mean": list(self.mean),
            "std": list(self.std),
            "temperature": self.temperature,
            "temperature_fitted_on": None if self.temperature is None else "validation",
            "input": f"{INPUT}: uint8 (N, {self.image_size}, {self.image_size}, 3), RGB; normalised inside",
            "output": f"{OUTPUT}: float32 (N, {len(self.classes)})",
        }

    def metadata(self, **more: Any) -> dict[str, str]:
        """The same as text by text, for formats that hold nothing else: what is no text is written as JSON."""
        pairs = {"version" if key == "groundup" else key: value for key, value in {**self.to_dict(), **more}.items()}
        return {f"{KEY}.{key}": _as_text(value) for key, value in pairs.items()}


def facts_of(classifier: Classifier, recipe: str, weights: str, temperature: float | None) -> Facts:
    """The facts of a classifier. recipe: its name; weights: SHA-256."""
    return Facts(
        recipe=recipe,
        weights=weights,
        classes=classifier.classes,
        image_size=classifier.image_size,
        resize=classifier.resize,
        mean=classifier.mean,
        std=classifier.std,
        temperature=temperature,
    )


def example(image_size: int, batch: int = 2) -> Tensor:
    """Black images to trace with: 2, since a tracer takes a batch of 1 for a constant."""
    return torch.zeros(batch, image_size, image_size, 3, dtype=torch.uint8)


def as_runner(module: Callable[[Tensor], Tensor]) -> Runner:
    """A torch module as a function of arrays."""

    def run(images: Pixels) -> Probabilities:
        with torch.inference_mode():
            found: Probabilities = module(torch.from_numpy(images)).numpy()
        return found

    return run


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
