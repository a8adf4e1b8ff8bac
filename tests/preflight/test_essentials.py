"""What is refused before the first step, with the key and the fix."""

import numpy as np
import pytest

from groundup.basis.errors import UsageError
from groundup.data import ImageSet, Splits
from groundup.recipe import load_recipe
from groundup.runs.prepare import make_plan

BASE = [
    "train={epochs: 20, batch_size: 64}",
    "schedule={name: one_cycle, max_lr: 0.1}",
    "augment.policy=[{name: pad_crop, pad: 1}]",
]


def splits(side: int = 8, *, validation: bool = False, test: bool = True, count: int = 100) -> Splits:
    """Black images of `side` px."""
    part = ImageSet.whole(np.zeros((count, side, side, 3), np.uint8), np.arange(count) % 2)
    return Splits(part, part if validation else None, part if test else None, ["a", "b"], side, "fingerprint")


def refusal(*overrides: str, data: Splits | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        make_plan(load_recipe("digits", [*BASE, *overrides]), data or splits())
    return str(caught.value)


def test_a_recipe_that_fits_its_data_passes() -> None:
    plan = make_plan(load_recipe("digits", BASE), splits())
    assert (plan.clock.steps_per_epoch, plan.clock.total_steps) == (1, 20)


def test_images_smaller_than_the_network_takes() -> None:
    message = refusal("model={name: speed_net}")
    for part in ("model.name='speed_net'", "the images give 8 px", "takes 9 px or more", "set data.resolution=9"):
        assert part in message
    make_plan(load_recipe("digits", [*BASE, "model={name: speed_net}"]), splits(9))


def test_a_training_resolution_smaller_than_the_network_takes_also_in_a_phase() -> None:
    speed_net = "model={name: speed_net}"
    assert "train.resolution=8 give 8 px" in refusal(speed_net, "train.resolution=8", data=splits(32))
    phase = "phases=[{from: 0.5dur, set: {train.resolution: 7}}]"
    assert "train.resolution=7 give 7 px" in refusal(speed_net, phase, data=splits(32))


def test_padding_as_large_as_the_image() -> None:
    message = refusal("augment.policy.pad_crop.pad=8")
    assert "pad_crop.pad=8: the images have 8 px a side" in message
    phase = "phases=[{from: 0.5dur, set: {augment.policy: [{name: pad_crop, pad: 9}]}}]"
    assert "pad_crop.pad=9" in refusal(phase)
    make_plan(load_recipe("digits", [*BASE, "augment.policy.pad_crop.pad=7"]), splits())


def test_padding_as_large_as_the_image_inside_one_of() -> None:
    nested = "augment.policy=[{name: one_of, operations: [{name: flip}, {name: pad_crop, pad: 9, mode: reflect}]}]"
    assert "pad_crop.pad=9" in refusal(nested)


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("{name: cutout, size: 9}", "cutout.size=9 px: the images have 8 px a side"),
        ("{name: coarse_dropout, side: [4, 50], unit: px}", "coarse_dropout.side=50 px: the images have 8 px a side"),
        ("{name: one_of, operations: [{name: flip}, {name: cutout, size: 16}]}", "cutout.size=16 px"),
    ],
)
def test_a_hole_larger_than_the_image(operation: str, said: str) -> None:
    message = refusal(f"augment.policy=[{operation}]")
    assert said in message
    assert "allowed: at most 8" in message
    assert said in refusal(f"phases=[{{from: 0.5dur, set: {{augment.policy: [{operation}]}}}}]")


@pytest.mark.parametrize(
    "operation",
    [
        "{name: cutout, size: 8}",
        "{name: coarse_dropout, side: [4, 8], unit: px}",
        "{name: coarse_dropout, side: [0.5, 1]}",
    ],
)
def test_a_hole_of_at_most_the_image(operation: str) -> None:
    make_plan(load_recipe("digits", [*BASE, f"augment.policy=[{operation}]"]), splits())


def test_choosing_the_best_without_a_validation_split() -> None:
    message = refusal("evaluate.model=best")
    assert "the test split only reports" in message
    assert "data.validation=0.1" in message
    make_plan(load_recipe("digits", [*BASE, "evaluate.model=best"]), splits(validation=True))


def test_data_without_a_test_split() -> None:
    assert "no test split to report on" in refusal(data=splits(test=False))


def test_a_batch_larger_than_the_data() -> None:
    message = refusal("train.batch_size=101")
    assert "train.batch_size=101: larger than the training split (100 images)" in message
    assert "set train.batch_size=10" in message


def test_a_schedule_longer_than_the_run() -> None:
    assert "rise" in refusal("schedule.rise=1000step")
    assert "warmup" in refusal("schedule={name: cosine, lr: 0.1, warmup: 30ep}")


def test_a_phase_that_begins_after_the_end() -> None:
    message = refusal("phases=[{from: 21ep, set: {train.resolution: 8}}]")
    assert "phases.0.from='21ep'" in message
    assert "the run has 20 steps" in message


SELECTING = [
    "stop={early: {patience: 2ep}}",
    "stop={target: {value: 0.9}}",
    "schedule={name: plateau, lr: 0.1, patience: 2ep}",
    "phases=[{from: 1ep, set: {schedule: {name: plateau, lr: 0.1, patience: 2ep}}}]",
]


@pytest.mark.parametrize("override", SELECTING)
def test_stopping_and_scheduling_need_a_split_to_follow(override: str) -> None:
    message = refusal(override)
    assert "there is no validation split, and the test split only reports" in message
    assert "data.validation=0.1" in message
    make_plan(load_recipe("digits", [*BASE, override]), splits(validation=True))
    make_plan(load_recipe("digits", [*BASE, override, "evaluate.optimistic=true"]), splits())


def test_being_optimistic_beside_a_validation_split_is_refused() -> None:
    assert "there is a validation split to select on" in refusal(
        "evaluate.optimistic=true", data=splits(validation=True)
    )


def test_what_an_average_needs() -> None:
    assert "evaluate.weights='average': the recipe has no average" in refusal("evaluate.weights=average")
    watching = "stop={early: {patience: 2ep, metric: average_validation_top1}}"
    assert "the recipe has no average" in refusal(watching, data=splits(validation=True))
    assert "average.start" in refusal("average={name: ema, horizon: 1ep, start: 30ep}")


def test_sam_that_never_begins() -> None:
    assert "optimizer.sam.from=1dur" in refusal("optimizer={name: sgd, sam: {from: 1dur}}")


def test_mixing_in_micro_batches_that_cut_its_groups() -> None:
    mix = "mix={methods: [{name: mixup, alpha: 0.2}]}"
    message = refusal(mix, "train={epochs: 20, batch_size: 100, micro_batch: 90}")
    assert "train.micro_batch=90" in message
    assert "set train.micro_batch=64" in message
    phase = "phases=[{from: 5ep, set: {mix: {methods: [{name: mixup, alpha: 0.2}]}}}]"
    assert "train.micro_batch=90" in refusal(phase, "train={epochs: 20, batch_size: 100, micro_batch: 90}")
    for size in (64, 100):
        make_plan(
            load_recipe("digits", [*BASE, mix, f"train={{epochs: 20, batch_size: 100, micro_batch: {size}}}"]), splits()
        )


def test_dropout_in_a_phase_of_a_network_without() -> None:
    phase = "phases=[{from: 5ep, set: {model.dropout: 0.1}}]"
    message = refusal("model={name: speed_net}", phase, data=splits(32))
    assert "model.name='speed_net' has no dropout inside its blocks" in message


def test_a_schedule_that_does_not_fit_into_its_phase() -> None:
    phase = "phases=[{from: 15ep, set: {schedule: {name: cosine, lr: 0.1, warmup: 6ep}}}]"
    assert "6 steps of warm-up" in refusal(phase)
