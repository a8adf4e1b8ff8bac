"""Every kind of network survives its way into every kind of file, on any number of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from groundup import augment
from groundup.models import MODELS, ModelSettings, build_model
from groundup.runs.load import Classifier
from groundup.ship.export.check import agreement_of
from groundup.ship.export.module import ExportedClassifier, facts_of
from groundup.ship.export.onnx_format import open_onnx, write_onnx
from groundup.ship.export.pt2_format import open_pt2, write_pt2

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"stem": "small", "width": 8, "blur_pool": True},
    "wide_resnet": {"depth": 10, "width": 1},
    "preact_resnet18": {"width": 8},
    "speed_net": {"widths": (8, 16, 16), "middles": (8, 8, 8)},
}
SIDE = 16


def classifier_of(name: str) -> Classifier:
    """An untrained network whose batch norms have seen some images, so that they do something."""
    settings: Any = TypeAdapter(ModelSettings).validate_python({"name": name, **SMALL[name]})
    model = build_model(settings, num_classes=5, seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return Classifier(model.eval(), list("abcde"), SIDE, "crop", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def test_every_network_of_the_family_is_tested_here() -> None:
    assert set(MODELS) - {"resnet34", "resnet50", "timm"} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_an_untrained_network_gives_the_same_probabilities_from_its_files(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = classifier_of(name)
    temperature = 0.5
    module, facts = ExportedClassifier(classifier, temperature), facts_of(classifier, name, "0" * 64, temperature)
    write_pt2(module, facts, tmp_path / "model.pt2")
    runners = [open_pt2(tmp_path / "model.pt2")]
    if name != "wide_resnet":  # whose ONNX file test_exported_files.py makes; an export of either kind takes seconds
        assert write_onnx(module, facts, tmp_path / "model.onnx")["opset"] == 18
        runners.append(open_onnx(tmp_path / "model.onnx", 1))
    for count in (1, 7):
        images = np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        seen = augment.normalize(torch.from_numpy(images).permute(0, 3, 1, 2), classifier.mean, classifier.std)
        with torch.no_grad():
            wanted = (classifier.model(seen).float() / temperature).softmax(1).numpy()
        assert wanted.std() > 1e-4  # a network that says nothing would agree with anything
        for runner in runners:
            agreement = agreement_of(wanted, runner(images))
            assert agreement.difference < 1e-5
            assert agreement.agreement == 1


def test_exporting_changes_nothing_of_the_network() -> None:
    classifier = classifier_of("wide_resnet")
    module = ExportedClassifier(classifier)
    with torch.no_grad():
        next(module.network.parameters()).zero_()
    assert next(classifier.model.parameters()).abs().max() > 0
    assert next(classifier.model.parameters()).requires_grad
