"""What a demo needs beside the classifier, kept in RUN/demo: example images and the reference for "unlike".

    demo.json             format, SHA-256 of the weights it was made with, labels and split of the examples, threshold, temperature
    features.safetensors  `features`, float16 (N, D): see `unlike`
    example-N.png         images as they are stored, S x S px

The folder appears whole or not at all. One that was made with other weights is made again; one that holds anything else is
somebody's own, and is left as it is.
"""

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from groundup import augment
from groundup.basis.errors import GroundupError
from groundup.basis.files import fsync_folder, write_json
from groundup.basis.seeding import permutation
from groundup.data import ImageSet, Splits
from groundup.runs.load import Classifier
from groundup.runs.publication import small_text
from groundup.ship.demo.unlike import (
    FEWEST_HELD_OUT,
    Reference,
    last_linear,
    logits_and_features,
    make_reference,
)

FOLDER = "demo"
FORMAT_VERSION = 1
EXAMPLES = 8

Say = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """One image to try. `label`: what its data set calls it."""

    file: Path
    label: str


@dataclass(frozen=True)
class Facts:
    """`examples_from`: the split of the examples. `missing`: why there is no reference or example, empty if there are.
    temperature: what the logits are divided by, None if none is kept here."""

    reference: Reference | None
    examples: tuple[Example, ...]
    examples_from: str
    missing: str
    temperature: float | None = None


def without_data(reason: str) -> Facts:
    """What is known where the data cannot be opened."""
    return Facts(None, (), "", reason)


def read_facts(folder: Path, weights: str | None) -> Facts | None:
    """What is kept in `folder`; None if nothing is, or it belongs to other weights than those with the SHA-256 `weights`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        kept = json.loads(small_text(folder / "demo.json"))
        if kept["format"] != FORMAT_VERSION or (weights is not None and kept["weights"] != weights):
            return None
        reference = None
        if (unlike := kept["unlike"]) is not None:
            features = load_file(folder / "features.safetensors")["features"]
            reference = Reference(features, unlike["threshold"], unlike["held_out"], unlike["held_out_images"])
        # The name alone: a folder from somewhere else may not show files that lie outside of it.
        examples = tuple(Example(folder / Path(entry["file"]).name, entry["label"]) for entry in kept["examples"])
        if not all(example.file.is_file() and not example.file.is_symlink() for example in examples):
            return None
        temperature = kept["temperature"]
        if temperature is not None and not 0 < temperature < math.inf:
            return None
        return Facts(reference, examples, kept["examples_from"], kept["missing"], temperature)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, GroundupError, SafetensorError):
        return None


def is_replaceable(folder: Path) -> bool:
    """Whether `folder` is not there, or holds nothing but what `write_facts` writes."""
    if not folder.is_dir():
        return not folder.exists() and not folder.is_symlink()
    ours = re.compile(r"demo\.json|features\.safetensors|example-\d+\.png")
    return not folder.is_symlink() and all(ours.fullmatch(entry.name) for entry in folder.iterdir())


def write_facts(
    facts: Facts, images: Sequence[Image.Image], folder: Path, weights: str, temperature: float | None = None
) -> Facts:
    """Keep `facts` in `folder`, with `images` as the examples' files; gives them back as they can be read there."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        building.chmod(0o755)
        for number, image in enumerate(images):
            image.save(building / f"example-{number}.png")
        reference = facts.reference
        unlike: dict[str, Any] | None = None
        if reference is not None:
            save_file({"features": reference.features.contiguous()}, building / "features.safetensors")
            (building / "features.safetensors").chmod(0o644)  # safetensors lets its owner alone read it
            unlike = {
                "threshold": reference.threshold,
                "held_out": reference.held_out,
                "held_out_images": reference.held_out_images,
            }
        entries = [{"file": f"example-{n}.png", "label": each.label} for n, each in enumerate(facts.examples)]
        content = {
            "format": FORMAT_VERSION,
            "weights": weights,
            "temperature": temperature,
            "examples": entries,
            "examples_from": facts.examples_from,
            "unlike": unlike,
            "missing": facts.missing,
        }
        write_json(building / "demo.json", content)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(building, folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    kept = read_facts(folder, weights)
    assert kept is not None
    return kept


def make_facts(
    classifier: Classifier, splits: Splits, finished: bool, check: Callable[[], None], say: Say
) -> tuple[Facts, list[Image.Image]]:
    """Examples and reference from the data of a run, and the examples' images. `finished`: its test split may be read."""
    source, name = (splits.validation, "validation") if splits.validation is not None else (splits.train, "training")
    chosen = _one_per_class(source.labels)
    images = [Image.fromarray(array) for array in np.asarray(source.read(chosen))]
    examples = tuple(Example(Path(), classifier.classes[label]) for label in source.labels[chosen])
    held_out, split = _held_out(splits, finished)
    if last_linear(classifier.model) is None:
        return Facts(None, examples, name, "the network has no linear layer, whose input could be compared"), images
    if held_out is None:
        few = f"neither the validation nor the test split offers {FEWEST_HELD_OUT} images to find its scale on"
        return Facts(None, examples, name, few), images
    say(f"comparing training images with those of the {split} split, once")
    reference = make_reference(_features_of(classifier), splits.train, held_out, split, check=check)
    return Facts(reference, examples, name, ""), images


def _features_of(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    device = next(classifier.model.parameters()).device

    def features_of(images: Tensor) -> Tensor:
        _, features = logits_and_features(
            classifier.model, augment.normalize(images.to(device), classifier.mean, classifier.std)
        )
        assert features is not None
        return features

    return features_of


def _held_out(splits: Splits, finished: bool) -> tuple[ImageSet | None, str]:
    """The split that says how far unseen images lie from training images. Its labels are not read, so test may be it."""
    if splits.validation is not None and len(splits.validation) >= FEWEST_HELD_OUT:
        return splits.validation, "validation"
    if finished and splits.test is not None and len(splits.test) >= FEWEST_HELD_OUT:
        return splits.test, "test"
    return None, ""


def _one_per_class(labels: np.ndarray) -> np.ndarray:
    """Positions of up to EXAMPLES images of different classes, int64: the same on every machine."""
    chosen: dict[int, int] = {}
    for position in permutation(len(labels), "demo examples").tolist():
        chosen.setdefault(int(labels[position]), position)
        if len(chosen) == EXAMPLES:
            break
    return np.array(list(chosen.values()), dtype=np.int64)
