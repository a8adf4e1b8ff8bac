"""Building a network from settings, a number of classes and a seed."""

import pytest
import torch

from groundup.basis.errors import UsageError
from groundup.models import ResNetSettings, WideResNetSettings, build_model

SETTINGS = WideResNetSettings(name="wide_resnet", depth=10, width=1)


def test_building_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_model(SETTINGS, num_classes=10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_do_not_depend_on_the_global_generator_or_the_default_device() -> None:
    torch.manual_seed(3)
    first = build_model(SETTINGS, num_classes=10, seed=1)
    torch.manual_seed(4)
    with torch.device("meta"):
        second = build_model(SETTINGS, num_classes=10, seed=1)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_fresh_network_is_in_training_mode() -> None:
    assert all(module.training for module in build_model(SETTINGS, num_classes=10, seed=1).modules())


@pytest.mark.parametrize("classes", [-1, 0, 1])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(UsageError, match=f"num_classes={classes}.*at least 2"):
        build_model(ResNetSettings(name="resnet18"), num_classes=classes, seed=1)
