"""The run as bare weights, for programs that build the network themselves.

    model.safetensors   the reported weights under the names of the network's state_dict; the facts in the header's metadata
    classifier.json     class names, image size, resize, normalisation: what a picture goes through before the network
    recipe.yaml         the complete recipe, which describes the network

The network gives logits. Normalisation, the temperature (if the run has one) and softmax are left to whoever builds it.
"""

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from groundup.runs.folder import RunFolder
from groundup.runs.load import Classifier
from groundup.ship.export.module import ExportedClassifier, Facts, Runner, as_runner
from groundup.training import load_weights

FILE = "model.safetensors"


def write_safetensors(module: ExportedClassifier, facts: Facts, path: Path, folder: RunFolder) -> dict[str, Any]:
    """Write the weights to `path` and the two files beside it. `folder`: the run."""
    weights = {name: tensor.contiguous() for name, tensor in module.network.state_dict().items()}
    safetensors.torch.save_file(weights, path, metadata={"format": "pt", **facts.metadata()})
    shutil.copymode(folder.classifier_file, path)  # safetensors lets nobody else read it
    for file in (folder.classifier_file, folder.recipe_file):
        shutil.copyfile(file, path.parent / file.name)
    return {}


def open_safetensors(path: Path, classifier: Classifier, network: nn.Module, temperature: float | None) -> Runner:
    """The file as a function. `network`: of the same kind as the run's; its weights are overwritten."""
    load_weights(path.parent, network, path.name)
    read = Classifier(
        network.eval(), classifier.classes, classifier.image_size, classifier.resize, classifier.mean, classifier.std
    )
    return as_runner(ExportedClassifier(read, temperature))
