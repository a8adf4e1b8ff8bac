"""What holds for every augmentation; a new one is picked up from `OPERATIONS`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from groundup.augment import OPERATIONS, Batch, OperationSettings, apply, augment, draw, without_effect
from groundup.basis.seeding import generator

# What has to be said: fields without a default.
REQUIRED: dict[str, dict[str, Any]] = {
    "one_of": {"operations": [{"name": "cutout"}, {"name": "flip", "p": 1}, {"name": "random_rotation"}]},
}
# More than the defaults: settings under which an operation takes another path.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "augmix": [
        {"all_ops": False, "depth": 2, "width": 1},
        {"interpolation": "nearest", "severity": 10, "alpha": 0.2, "p": 0.5},
    ],
    "auto_augment": [{"policy": "imagenet"}, {"interpolation": "bilinear", "p": 0.5}],
    "rand_augment": [{"num_ops": 1, "magnitude": 30}, {"num_magnitude_bins": 5, "magnitude": 4, "p": 0.5}],
    "trivial_augment_wide": [{"interpolation": "bilinear"}, {"num_magnitude_bins": 2, "p": 0.5}],
    "flip": [{"alternate": True}, {"p": 0.9}],
    "pad_crop": [{"mode": "reflect", "pad": 2}, {"p": 0.5}],
    "cutout": [{"fill": "black", "size": 5, "p": 0.5}],
    "coarse_dropout": [{"unit": "px", "side": [2, 5], "holes": [3, 3], "fill": "black"}, {"p": 1, "holes": [1, 62]}],
    "gaussian_noise": [{"p": 1, "std": [0.5, 0.5]}],
    "one_of": [
        {"p": 0.5, "weights": [1, 2, 3]},
        {"operations": [{"name": "one_of", **REQUIRED["one_of"]}, {"name": "gaussian_noise"}]},
    ],
    "random_affine": [{"interpolation": "nearest", "fill": "mean"}, {"fill": "reflect", "shear_y": 20, "p": 0.5}],
    "random_erasing": [{"value": "noise"}, {"value": "mean", "p": 1}],
    "random_resized_crop": [{"interpolation": "nearest"}, {"p": 0.5, "scale": [0.3, 0.9], "ratio": [1, 1]}],
    "random_rotation": [{"fill": "reflect", "degrees": 180}, {"interpolation": "nearest", "p": 0.3}],
    "shift_scale_rotate": [{"fill": "mean"}, {"interpolation": "nearest", "shift_limit": 1}],
    "color_jitter": [{"hue": 0.2, "p": 0.8}, {"brightness": 0, "contrast": [0.5, 0.9], "saturation": 0}],
    "brightness_contrast": [{"brightness_by_max": False}, {"p": 1, "contrast_limit": 0}],
    "hue_saturation_value": [{"p": 1, "hue_shift_limit": [10, 30]}, {"hue_shift_limit": 0, "sat_shift_limit": 0}],
    "gaussian_blur": [{"kernel_size": 7, "sigma": 1.5}, {"kernel_size": 31, "p": 1}],
    "random_grayscale": [{"p": 0.9}],
    "random_solarize": [{"threshold": 0}, {"threshold": 255}],
    "random_posterize": [{"bits": 1}, {"bits": 7}],
    "random_adjust_sharpness": [{"sharpness_factor": 0}],
    "vertical_flip": [{"p": 0.9}],
}
CASES = [(name, changes) for name in OPERATIONS for changes in ({}, *VARIANTS.get(name, []))]
every_operation = pytest.mark.parametrize(("name", "changes"), CASES, ids=[f"{n}-{c}" for n, c in CASES])

MakeBatch = Callable[..., Batch]


def operation_of(name: str, changes: dict[str, Any]) -> Any:
    return OPERATIONS[name].model_validate({"name": name, **REQUIRED.get(name, {}), **changes})


def equal(a: list[Any], b: list[Any]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


@every_operation
def test_dtype_and_shape_are_kept_and_the_input_is_not_changed(
    name: str, changes: dict[str, Any], digit_images: Tensor, make_batch: MakeBatch
) -> None:
    before = digit_images.clone()
    after = augment([operation_of(name, changes)], digit_images, make_batch(), step=3)
    assert (after.dtype, after.shape) == (torch.uint8, digit_images.shape)
    assert torch.equal(digit_images, before)


@every_operation
@pytest.mark.parametrize("cut", [1, 7, 32, 63])
def test_applied_to_slices_it_gives_what_it_gives_on_the_whole_batch(
    name: str, changes: dict[str, Any], cut: int, digit_images: Tensor, make_batch: MakeBatch
) -> None:
    policy = [operation_of(name, changes)]
    drawn = draw(policy, make_batch(), step=3)
    whole = apply(policy, digit_images, drawn, slice(None))
    parts = [apply(policy, digit_images[part], drawn, part) for part in (slice(0, cut), slice(cut, 64))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(augment(policy, digit_images, make_batch(), step=3), whole)


@every_operation
def test_every_parameter_has_one_entry_per_image(name: str, changes: dict[str, Any], make_batch: MakeBatch) -> None:
    drawn = operation_of(name, changes).draw(make_batch(13), generator(0))
    assert {key: len(value) for key, value in drawn.items()} == dict.fromkeys(drawn, 13)


@every_operation
def test_parameters_follow_from_seed_and_step_alone(name: str, changes: dict[str, Any], make_batch: MakeBatch) -> None:
    policy = [operation_of(name, changes)]
    first = draw(policy, make_batch(), step=3)
    torch.manual_seed(torch.seed())  # whatever the global generator does
    before = torch.get_rng_state()
    assert equal(draw(policy, make_batch(), step=3), first)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is not touched"
    assert not equal(draw(policy, make_batch(seed=1), step=3), first)
    later = make_batch(epoch=1)  # an operation may follow the epoch instead of the step
    assert not equal(draw(policy, later, step=4), first)


@every_operation
def test_it_does_something_to_real_images(
    name: str, changes: dict[str, Any], digit_images: Tensor, make_batch: MakeBatch
) -> None:
    assert without_effect([operation_of(name, changes)], digit_images, make_batch()) == []


@every_operation
def test_it_is_the_same_in_either_memory_order(
    name: str, changes: dict[str, Any], digit_images: Tensor, make_batch: MakeBatch
) -> None:
    policy = [operation_of(name, changes)]
    channels_last = digit_images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        augment(policy, channels_last, make_batch(), step=3), augment(policy, digit_images, make_batch(), step=3)
    )


@every_operation
def test_settings_survive_yaml_and_are_chosen_by_name(name: str, changes: dict[str, Any]) -> None:
    operation = operation_of(name, changes)
    read = yaml.safe_load(yaml.safe_dump(operation.model_dump(mode="json")))
    assert TypeAdapter(OperationSettings).validate_python(read) == operation


# What was drawn for 64 images of 16 px before these operations had a `p`: the sum of every whole-number parameter.
DRAWN_WITHOUT_P = {
    "augmix": {"operation": 2740},
    "auto_augment": {"operation": 730},
    "cutout": {"y": 488, "x": 427, "fill": 24512},
    "pad_crop": {"dy": 225, "dx": 246},
    "rand_augment": {"operation": 807},
    "trivial_augment_wide": {"operation": 410},
}
usual_operation = pytest.mark.parametrize("name", list(DRAWN_WITHOUT_P))


@usual_operation
def test_at_p_1_the_parameters_are_those_from_before_there_was_a_p(name: str, make_batch: MakeBatch) -> None:
    for changes in ({}, {"p": 1}):
        (drawn,) = draw([operation_of(name, changes)], make_batch(), step=3)
        assert {key: int(drawn[key].sum()) for key in DRAWN_WITHOUT_P[name]} == DRAWN_WITHOUT_P[name]
        assert "chosen" not in drawn


@usual_operation
def test_below_p_1_only_the_coin_is_new_and_a_half_of_the_images_are_changed(
    name: str, digit_images: Tensor, make_batch: MakeBatch
) -> None:
    always, half = operation_of(name, {}), operation_of(name, {"p": 0.5})
    (first,), (second,) = draw([always], make_batch(2000), step=3), draw([half], make_batch(2000), step=3)
    chosen = second["chosen"]
    assert chosen.dtype == torch.bool
    assert 900 < int(chosen.sum()) < 1100  # 4.5 standard deviations
    assert equal([{key: value for key, value in second.items() if key != "chosen"}], [first])
    images = digit_images.repeat(32, 1, 1, 1)[:2000]
    changed, all_changed = half.apply(images, second), always.apply(images, first)
    assert torch.equal(changed, torch.where(chosen[:, None, None, None], all_changed, images))


def test_every_operation_has_a_probability() -> None:
    assert [name for name, settings in OPERATIONS.items() if "p" not in settings.model_fields] == []


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_field_is_described(name: str) -> None:
    assert [key for key, field in OPERATIONS[name].model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="strenght"):
        TypeAdapter(OperationSettings).validate_python({"name": name, "strenght": 1})


def test_an_unknown_operation_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(OperationSettings).validate_python({"name": "flop"})
    assert all(f"'{name}'" in str(caught.value) for name in OPERATIONS)


def test_every_operation_of_the_family_can_stand_in_a_recipe() -> None:
    policy = [{"name": name, **REQUIRED.get(name, {})} for name in OPERATIONS]
    assert [type(TypeAdapter(OperationSettings).validate_python(each)) for each in policy] == list(OPERATIONS.values())
