"""What holds for every network of the family; a new one is picked up from `MODELS`."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import nn

from groundup.basis.settings import Settings
from groundup.models import MODELS, ModelSettings, build_model, forward_flops

NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "preact_resnet18": {"width": 8},
    "wide_resnet": {"depth": 10, "width": 2, "dropout": 0.3},
}
CLASSES = 20
every_model = pytest.mark.parametrize("name", list(MODELS))


def settings_of(name: str, **changes: Any) -> Any:
    return MODELS[name].model_validate({"name": name, **NARROW.get(name, {}), **changes})


def narrow_model(name: str, **changes: Any) -> nn.Module:
    return build_model(settings_of(name, **changes), num_classes=CLASSES, seed=1)


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@every_model
def test_the_union_chooses_the_settings_class_by_name(name: str) -> None:
    chosen: Settings = TypeAdapter(ModelSettings).validate_python({"name": name})
    assert type(chosen) is MODELS[name]
    assert TypeAdapter(ModelSettings).validate_python(chosen.model_dump()) == chosen


def test_the_union_refuses_an_unknown_network_and_an_unknown_key() -> None:
    with pytest.raises(ValidationError, match="resnet18"):
        TypeAdapter(ModelSettings).validate_python({"name": "resnet19"})
    with pytest.raises(ValidationError, match="witdh"):
        TypeAdapter(ModelSettings).validate_python({"name": "resnet18", "witdh": 8})


@every_model
def test_every_field_is_described(name: str) -> None:
    assert [key for key, field in MODELS[name].model_fields.items() if not field.description] == []


@every_model
def test_one_training_step_reaches_every_trainable_parameter_with_a_finite_gradient(name: str) -> None:
    model = narrow_model(name)
    labels = torch.arange(8) % CLASSES
    F.cross_entropy(model(images(8, 16)), labels).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key


@every_model
def test_logits_are_finite_floats_of_one_row_per_image(name: str) -> None:
    model = narrow_model(name).eval()
    for side in (16, 19):
        logits = model(images(3, side))
        assert logits.shape == (3, CLASSES)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


@every_model
def test_evaluation_treats_every_image_on_its_own(name: str) -> None:
    model = narrow_model(name).eval()
    batch = images(3, 16)
    torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]), rtol=1e-4, atol=1e-5)


@every_model
def test_the_first_loss_is_near_that_of_guessing(name: str) -> None:
    model = narrow_model(name)
    labels = torch.arange(64) % CLASSES
    loss = F.cross_entropy(model(images(64, 16)), labels).item()
    assert abs(loss - math.log(CLASSES)) < 0.5


@every_model
def test_smallest_image_is_the_smallest_that_can_be_trained_on(name: str) -> None:
    side = settings_of(name).smallest_image
    model = narrow_model(name)
    loss = F.cross_entropy(model(images(2, side)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    with pytest.raises(RuntimeError):
        model(images(2, side - 1))


@every_model
def test_the_same_seed_gives_the_same_weights_and_another_seed_other_weights(name: str) -> None:
    first, again = (build_model(settings_of(name), num_classes=CLASSES, seed=7).state_dict() for _ in range(2))
    other = build_model(settings_of(name), num_classes=CLASSES, seed=8).state_dict()
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_model
def test_memory_format_and_autocast_change_the_logits_by_rounding_only(name: str) -> None:
    model = narrow_model(name).eval()
    batch = images(4, 16)
    plain = model(batch)
    last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = batch.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(batch), plain, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = last(batch).float()
    assert (rounded - plain).norm() < 0.05 * plain.norm()


@every_model
def test_flops_grow_with_the_image_and_need_no_batch(name: str) -> None:
    model = narrow_model(name)
    assert 3 < forward_flops(model, 32) / forward_flops(model, 16) < 6
