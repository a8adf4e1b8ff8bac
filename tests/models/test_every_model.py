"""What holds for every network of the family; a new one is picked up from `MODELS`."""

import hashlib
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
    "speed_net": {"widths": [24, 48, 64], "middles": [24, 32, 48]},
}
# Every option in at least one network; a network's own entry is its default at a small width.
VARIANTS: dict[str, dict[str, Any]] = {name: {"name": name, **NARROW.get(name, {})} for name in MODELS} | {
    "resnet18 noisy": {
        "name": "resnet18",
        "width": 8,
        "dropout": 0.1,
        "dropout_position": "after",
        "stochastic_depth": 0.2,
        "head_dropout": 0.1,
    },
    "resnet50 between": {"name": "resnet50", "width": 8, "dropout": 0.1, "stochastic_depth": 0.2},
    "resnet18-d": {"name": "resnet18", "width": 8, "stem": "deep", "shortcut": "pool"},
    "resnet50-d blurred": {"name": "resnet50", "width": 8, "stem": "deep", "shortcut": "pool", "blur_pool": True},
    "resnet18 blurred": {"name": "resnet18", "width": 16, "blur_pool": True},
    "preact_resnet18 noisy": {"name": "preact_resnet18", "width": 8, "dropout": 0.1, "stochastic_depth": 0.2},
    "preact_resnet18 bare": {"name": "preact_resnet18", "width": 8, "final_norm": False},
    "wide_resnet after": {
        "name": "wide_resnet",
        "depth": 10,
        "width": 2,
        "dropout": 0.3,
        "dropout_position": "after",
        "stochastic_depth": 0.2,
        "head_dropout": 0.1,
    },
    "speed_net head": {"name": "speed_net", **NARROW["speed_net"], "head_dropout": 0.2},
}
CLASSES = 20
every_name = pytest.mark.parametrize("name", list(MODELS))
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))


def settings_of(variant: str) -> Any:
    return MODELS[VARIANTS[variant]["name"]].model_validate(VARIANTS[variant])


def narrow_model(variant: str) -> nn.Module:
    torch.manual_seed(0)  # for what the network draws in training
    return build_model(settings_of(variant), num_classes=CLASSES, seed=1)


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@every_name
def test_the_union_chooses_the_settings_class_by_name(name: str) -> None:
    chosen: Settings = TypeAdapter(ModelSettings).validate_python({"name": name})
    assert type(chosen) is MODELS[name]
    assert TypeAdapter(ModelSettings).validate_python(chosen.model_dump()) == chosen


def test_the_union_refuses_an_unknown_network_and_an_unknown_key() -> None:
    with pytest.raises(ValidationError, match="resnet18"):
        TypeAdapter(ModelSettings).validate_python({"name": "resnet19"})
    with pytest.raises(ValidationError, match="witdh"):
        TypeAdapter(ModelSettings).validate_python({"name": "resnet18", "witdh": 8})


@every_name
def test_every_field_is_described(name: str) -> None:
    assert [key for key, field in MODELS[name].model_fields.items() if not field.description] == []


@every_variant
def test_one_training_step_reaches_every_trainable_parameter_with_a_finite_gradient(variant: str) -> None:
    model = narrow_model(variant)
    labels = torch.arange(8) % CLASSES
    F.cross_entropy(model(images(8, 16)), labels).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key


@every_variant
def test_logits_are_finite_floats_of_one_row_per_image(variant: str) -> None:
    model = narrow_model(variant).eval()
    for side in (16, 19):
        logits = model(images(3, side))
        assert logits.shape == (3, CLASSES)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


@every_variant
def test_evaluation_treats_every_image_on_its_own(variant: str) -> None:
    model = narrow_model(variant).eval()
    batch = images(3, 16)
    torch.testing.assert_close(model(batch)[1:2], model(batch[1:2]), rtol=1e-4, atol=1e-5)


@every_variant
def test_the_first_loss_is_near_that_of_guessing(variant: str) -> None:
    model = narrow_model(variant)
    labels = torch.arange(64) % CLASSES
    loss = F.cross_entropy(model(images(64, 16)), labels).item()
    assert abs(loss - math.log(CLASSES)) < 0.5


@every_variant
def test_smallest_image_is_the_smallest_that_can_be_trained_on(variant: str) -> None:
    side = settings_of(variant).smallest_image
    model = narrow_model(variant)
    loss = F.cross_entropy(model(images(2, side)), torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite()
    with pytest.raises(RuntimeError):
        model(images(2, side - 1))


@every_variant
def test_the_same_seed_gives_the_same_weights_and_another_seed_other_weights(variant: str) -> None:
    first, again = (build_model(settings_of(variant), num_classes=CLASSES, seed=7).state_dict() for _ in range(2))
    other = build_model(settings_of(variant), num_classes=CLASSES, seed=8).state_dict()
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_variant
def test_memory_format_and_autocast_change_the_logits_by_rounding_only(variant: str) -> None:
    model = narrow_model(variant).eval()
    batch = images(4, 16)
    plain = model(batch)
    last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = batch.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(batch), plain, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = last(batch).float()
    assert (rounded - plain).norm() < 0.05 * plain.norm()


@every_variant
def test_flops_grow_with_the_image_and_need_no_batch(variant: str) -> None:
    model = narrow_model(variant)
    assert 3 < forward_flops(model, 64) / forward_flops(model, 32) < 6


@every_variant
def test_a_training_step_in_bf16_and_channels_last_has_finite_gradients_and_the_loss_of_float32(variant: str) -> None:
    batch, labels = images(16, 16).contiguous(memory_format=torch.channels_last), torch.arange(16)
    losses = []
    for enabled in (False, True):
        model = narrow_model(variant).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.manual_seed(0)  # the same masks of dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(batch)
        losses.append(F.cross_entropy(logits.float(), labels))
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# The last two values of the first and the last convolution and of the classifier, as they were drawn (seed 3, 20 classes)
# before the networks had options; the number and a digest of the names and shapes in the state_dict.
FIRST_WEIGHTS: dict[str, tuple[int, str, dict[str, list[float]]]] = {
    "resnet18": (
        122,
        "c423eb2589ab337e",
        {
            "conv1.weight": [0.27763361, 0.10365878],
            "layer4.1.conv2.weight": [0.077040091, -0.064022265],
            "fc.weight": [-0.066635773, 0.083993867],
        },
    ),
    "resnet34": (
        218,
        "ba1096b159bfac2a",
        {
            "conv1.weight": [-0.11030772, -0.064021453],
            "layer4.2.conv2.weight": [0.091301396, -0.021906361],
            "fc.weight": [-0.1209608, 0.1180491],
        },
    ),
    "resnet50": (
        320,
        "f6bf938c5b32fdf0",
        {
            "conv1.weight": [-0.075270735, -0.34009838],
            "layer4.2.conv3.weight": [0.032810777, 0.077272601],
            "fc.weight": [0.0017901957, -0.042381786],
        },
    ),
    "preact_resnet18": (
        107,
        "b869ad23b7dbf007",
        {
            "conv1.weight": [0.27763361, 0.10365878],
            "layer4.1.conv2.weight": [0.077040091, -0.064022265],
            "fc.weight": [-0.066635773, 0.083993867],
        },
    ),
    "wide_resnet": (
        47,
        "04725fd363e76299",
        {
            "conv1.weight": [-0.33275315, 0.099137604],
            "layer3.0.shortcut.weight": [-0.061227348, 0.011706935],
            "fc.weight": [-0.060770802, 0.062872522],
        },
    ),
    "speed_net": (
        57,
        "d1566f13f7b6a4dc",
        {
            "whiten.weight": [-0.23734905, -0.21611452],
            "groups.2.conv3.weight": [0.0095957108, -0.021408079],
            "head.weight": [0.076658994, 0.10660666],
        },
    ),
}


@pytest.mark.parametrize("name", list(FIRST_WEIGHTS))
def test_names_shapes_and_initial_weights_stay_what_they_have_always_been(name: str) -> None:
    entries, digest, weights = FIRST_WEIGHTS[name]
    state = build_model(settings_of(name), num_classes=CLASSES, seed=3).state_dict()
    shapes = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert len(state) == entries
    assert hashlib.sha256(shapes.encode()).hexdigest()[:16] == digest
    for key, values in weights.items():
        assert state[key].flatten()[-2:].tolist() == pytest.approx(values, rel=1e-6), key
