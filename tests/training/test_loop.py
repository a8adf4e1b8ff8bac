"""The training loop: accumulation, clipping, gradients that are not finite, divergence, what it counts and reports."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groundup.augment import normalize
from groundup.tracking import Tracker, Trackers
from groundup.training import NonFiniteLoss, train, train_step
from groundup.training.loop import label_weight, parts

PLAIN = {"augment": {"policy": []}, "optimizer": {"name": "sgd", "momentum": 0, "nesterov": False, "weight_decay": 0}}


class Plain(nn.Module):
    """Two layers without batch norm, so that micro-batches see what the whole batch sees."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.first(x.flatten(1))))
        return result


class Diverging(Plain):
    """The logits become infinite from a given training batch on."""

    def __init__(self, healthy_batches: int) -> None:
        super().__init__()
        self.left = healthy_batches

    def forward(self, x: Tensor) -> Tensor:
        self.left -= int(self.training)
        return super().forward(x) * (math.inf if self.left < 0 else 1.0)


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain()


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def one_update(lab: Any, changes: dict[str, Any], class_weights: Tensor | None = None) -> Tensor:
    """How the weights of a plain network change in the first step."""
    job, state = lab.build(changes, own=plain())
    job = replace(job, class_weights=class_weights)
    before = weights_of(state.model)
    train_step(job, state)
    return weights_of(state.model) - before


def layered(base: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {**base, "schedule": {"name": "constant", "lr": 1.0}, "train": train}


@pytest.mark.parametrize("smoothing", [0, 0.2])
@pytest.mark.parametrize("class_weights", [None, torch.linspace(0.1, 4, 10)], ids=["alike", "weighted"])
@pytest.mark.parametrize("micro_batch", [1, 12, 16, 31, 32])
def test_accumulated_micro_batches_equal_the_whole_batch(
    lab: Any, micro_batch: int, class_weights: Tensor | None, smoothing: float
) -> None:
    loss = {"loss": {"label_smoothing": smoothing}}
    whole = one_update(lab, layered(PLAIN) | loss, class_weights)
    parted = one_update(lab, layered(PLAIN, micro_batch=micro_batch) | loss, class_weights)
    assert whole.norm() > 1e-3
    torch.testing.assert_close(parted, whole, atol=1e-6, rtol=1e-5)


def test_the_loss_of_a_step_is_torchs(lab: Any) -> None:
    weights = torch.linspace(0.1, 4, 10)
    job, state = lab.build({**PLAIN, "loss": {"label_smoothing": 0.1}}, own=plain())
    job = replace(job, class_weights=weights)
    images, labels = job.data.take(job.order.at(0)[1])
    expected = torch.nn.functional.cross_entropy(
        state.model(normalize(images, job.mean, job.std)), labels, weight=weights, label_smoothing=0.1
    )
    torch.testing.assert_close(train_step(job, state), expected.detach())


def test_augmentation_does_not_depend_on_the_micro_batch(lab: Any) -> None:
    augmented = {**PLAIN, "augment": {"policy": [{"name": "pad_crop", "pad": 2}, {"name": "flip"}, {"name": "cutout"}]}}
    whole, parted = (one_update(lab, layered(augmented, **train)) for train in ({}, {"micro_batch": 7}))
    torch.testing.assert_close(parted, whole, atol=1e-6, rtol=1e-5)


def test_micro_batches_cover_the_batch_and_only_the_last_is_short() -> None:
    assert list(parts(10, 4)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(parts(8, 4)) == [slice(0, 4), slice(4, 8)]
    assert list(parts(10, None)) == [slice(0, 10)]


def test_the_weight_of_a_batch_is_its_size_or_the_weight_of_its_labels() -> None:
    labels = torch.tensor([0, 1, 1])
    assert label_weight(labels, None) == 3
    assert label_weight(labels, torch.tensor([2.0, 0.5])) == 3.0
    assert label_weight(labels[:1], torch.tensor([2.0, 0.5])) == 2.0


def test_clipping_scales_long_gradients_down_and_leaves_short_ones(lab: Any) -> None:
    free = one_update(lab, layered(PLAIN))
    length = float(free.norm())
    clipped = one_update(lab, layered(PLAIN, clip_norm=length / 4))
    torch.testing.assert_close(clipped, free / 4, atol=1e-6, rtol=1e-4)
    assert torch.equal(one_update(lab, layered(PLAIN, clip_norm=length * 2)), free)


def test_clipping_measures_the_accumulated_gradient(lab: Any) -> None:
    length = float(one_update(lab, layered(PLAIN)).norm())
    clipped = one_update(lab, layered(PLAIN, clip_norm=length / 4, micro_batch=5))
    assert math.isclose(float(clipped.norm()), length / 4, rel_tol=1e-3)


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adamw"}], ids=["sgd", "adamw"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_update_with_a_gradient_that_is_not_finite_is_skipped_and_counted(
    lab: Any, tmp_path: Path, optimizer: dict[str, Any], value: float, clip_norm: float | None
) -> None:
    model = plain()
    steps: Iterator[int] = iter(range(100))
    model.last.bias.register_hook(lambda gradient: gradient * (value if next(steps) == 3 else 1))
    weights: list[Tensor] = []
    changes = {**PLAIN, "optimizer": optimizer, "train": {"clip_norm": clip_norm}}
    job, state = lab.build(changes, own=model)
    moments: list[list[Tensor]] = []
    for _ in range(6):
        train_step(job, state)
        weights.append(weights_of(model))
        moments.append([v.clone() for s in state.optimizer.state.values() for v in s.values() if v is not None])
    still = [torch.equal(a, b) for a, b in pairwise(weights)]
    assert still == [False, False, True, False, False], "exactly update number 3 is missing"
    assert all(torch.equal(a, b) for a, b in zip(moments[2], moments[3], strict=True)), "no moment has seen it"
    assert weights[-1].isfinite().all()
    assert state.sums.read()["skipped_updates"] == 1
    assert (state.step, state.images) == (6, 6 * 32), "the step counts: the schedule goes on"


def test_skipped_updates_stand_in_the_metrics_and_add_up(lab: Any, tmp_path: Path) -> None:
    model, steps = plain(), iter(range(100))
    model.last.bias.register_hook(lambda gradient: gradient * (math.nan if next(steps) in (1, 2, 5) else 1))
    part = lab.run(tmp_path, PLAIN, own=model)
    assert [line["skipped_updates"] for line in part.lines] == [2, 1, 0]
    assert part.state.skipped_updates == 3


@pytest.mark.parametrize("step_every", [1, 3])
def test_a_diverged_run_ends_naming_the_step_and_saves_nothing_of_it(lab: Any, tmp_path: Path, step_every: int) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        lab.run(tmp_path, {**PLAIN, "track": {"step_every": step_every}}, own=Diverging(5))
    # The sixth loss is the first bad one, and a multiple of both.
    assert "at step 6 " in caught.value.message
    assert "learning rate" in caught.value.message
    assert caught.value.hint is not None
    assert "train.clip_norm" in caught.value.hint
    assert [folder.name for folder in lab.store(tmp_path).all()] == ["step-0000004"]
    whole = lab.run(tmp_path, PLAIN, own=plain())
    assert whole.state.step == 10
    assert weights_of(whole.state.model).isfinite().all()


def test_divergence_between_two_looks_is_found_before_anything_is_saved(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="between step 4 and step 8"):
        lab.run(tmp_path, {**PLAIN, "track": {"step_every": 100}}, own=Diverging(5))
    assert [folder.name for folder in lab.store(tmp_path).all()] == ["step-0000004"]


def test_a_diverged_run_that_is_stopped_is_not_saved(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss):
        lab.run(tmp_path, {**PLAIN, "track": {"step_every": 100}}, own=Diverging(5), stop_after=7)
    assert [folder.name for folder in lab.store(tmp_path).all()] == ["step-0000004"]


def test_a_learning_rate_far_too_high_is_a_divergence_with_advice(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="step"):
        lab.run(tmp_path, {**PLAIN, "schedule": {"name": "constant", "lr": 1e30}}, own=plain())


# A recipe for the digits, written out: tuning the library's one changes nothing here.
PINNED_RECIPE: dict[str, Any] = {
    "data": {"source": "digits", "limit": None, "validation": 0},
    "model": {"name": "resnet18", "stem": "small", "width": 16},
    "augment": {"policy": [{"name": "pad_crop", "pad": 1}]},
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "schedule": {"name": "one_cycle", "max_lr": 0.01, "rise": "0.25dur"},
    "loss": {"name": "cross_entropy", "label_smoothing": 0.1},
    "train": {"epochs": 20, "batch_size": 64},
}
PINNED_LOSSES = [2.66412, 2.73107, 2.73769, 2.57669, 2.79446, 2.42879]


def test_the_first_losses_are_pinned(lab: Any) -> None:
    # They change when anything about training changes: initial weights, order, augmentation, loss, rates, the update.
    job, state = lab.build(PINNED_RECIPE)
    losses = [float(train_step(job, state)) for _ in range(6)]
    torch.testing.assert_close(losses, PINNED_LOSSES, atol=1e-3, rtol=0)


def test_the_network_trains_on_after_an_evaluation(lab: Any) -> None:
    job, state = lab.build()
    train_step(job, state)
    before = {name: value.clone() for name, value in state.model.named_buffers()}
    assert job.evaluate is not None
    numbers = job.evaluate(state.model)
    assert all(module.training for module in state.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_buffers())
    assert numbers.keys() == {"validation_loss", "validation_top1"}
    train_step(job, state)
    assert not torch.equal(state.model.bn1.running_mean, before["bn1.running_mean"])  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(("drop_last", "images"), [(True, 10 * 32), (False, 2 * 144)])
def test_images_and_compute_are_counted(lab: Any, tmp_path: Path, drop_last: bool, images: int) -> None:
    changes = {"train": {"drop_last": drop_last, "epochs": 2.5 if drop_last else 2}}
    part = lab.run(tmp_path, changes)
    assert part.state.images == images
    assert part.state.flops == 3 * part.job.flops[8] * images
    assert part.lines[-1]["pflop"] == part.state.flops / 1e15
    assert part.state.seconds > 0


def test_compute_is_counted_at_the_resolution_of_each_step(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path, {"phases": [{"from": "4step", "set": {"train.resolution": 16}}]})
    forward = part.job.flops
    assert forward[16] > 3 * forward[8]
    assert part.state.flops == 3 * 32 * (4 * forward[8] + 6 * forward[16])


def test_the_training_numbers_are_means_over_the_images_since_the_last_line(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path)
    losses = [record["loss"] for record in part.steps]
    assert [line["step"] for line in part.lines] == [4, 8, 10]
    for line, expected in zip(part.lines, (losses[:4], losses[4:8], losses[8:]), strict=True):
        assert math.isclose(line["train_loss"], sum(expected) / len(expected), rel_tol=1e-5)
        assert (line["train_top1"] * 32 * len(expected)) % 1 < 1e-9
    assert [line["epoch"] for line in part.lines] == [1, 2, 2.5]


def test_a_line_tells_the_rates_of_the_last_step(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path, {"schedule": {"cycle_momentum": True}})
    for line in part.lines:
        rates = part.job.rates.at(line["step"] - 1)
        assert (line["lr"], line["momentum"]) == (rates.lr, rates.momentum)
    assert all(group["lr"] == part.lines[-1]["lr"] for group in part.state.optimizer.param_groups)


def test_steps_are_reported_as_often_as_asked(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path, {"track": {"step_every": 3}})
    assert [record["step"] for record in part.steps] == [3, 6, 9]


def test_the_best_line_on_validation_is_remembered_and_its_checkpoint_kept(lab: Any, tmp_path: Path) -> None:
    values = iter([0.25, 0.5, 0.5, 0.375, 0.125])
    job, state = lab.build({"train": {"epochs": 5}})
    job = replace(job, evaluate=lambda _: {"validation_top1": next(values)})
    store = lab.store(tmp_path)
    train(job, state, store, Trackers([]), lab.no_stop())
    assert state.best == {"step": 8, "validation_top1": 0.5, "metric": "validation_top1"}, (
        "of two equal ones the earlier"
    )
    assert (store.folder / "best").resolve().name == "step-0000008"
    assert [folder.name for folder in store.all()] == ["step-0000020", "step-0000016", "step-0000008"]


def test_without_a_validation_split_lines_hold_the_training_numbers_only(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path, {"data": {"validation": 0, "limit": 144}})
    assert len(part.lines) == 3
    assert not any(key.startswith("validation") for line in part.lines for key in line)
    assert part.state.best is None


def test_it_learns(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path, {"train": {"epochs": 20}, "model": {"width": 16}})
    assert part.lines[-1]["train_top1"] > 0.9
    assert part.lines[-1]["validation_top1"] > 0.6


def test_the_loop_ends_at_once_when_there_is_nothing_left(lab: Any, tmp_path: Path) -> None:
    first = lab.run(tmp_path)
    again = lab.run(tmp_path)
    assert again.steps == []
    assert again.lines == first.lines


def test_a_long_run_on_a_cpu_leaves_nothing_behind_in_torch(lab: Any) -> None:
    # torch.manual_seed notes every call while there is no GPU to seed: a step must not use it.
    before = len(torch.cuda._queued_calls)
    job, state = lab.build({})
    for _ in range(5):
        train_step(job, state)
    assert len(torch.cuda._queued_calls) == before


def test_the_speed_of_a_step_leaves_evaluations_and_checkpoints_out(lab: Any, tmp_path: Path) -> None:
    job, state = lab.build({"train": {"epochs": 1.5}, "evaluate": {"every": "3step"}})
    pause = 2.0

    def slow(model: nn.Module) -> dict[str, float]:
        time.sleep(pause if state.step == 3 else 0)
        return {"validation_loss": 1.0, "validation_top1": 0.5}

    said: list[dict[str, Any]] = []

    class Speeds(Tracker):
        def step(self, record: Mapping[str, Any]) -> None:
            said.append(dict(record))

    train(replace(job, evaluate=slow), state, lab.store(tmp_path), Trackers([Speeds()]), lab.no_stop())
    speeds = {line["step"]: line["images_per_second"] for line in said if "images_per_second" in line}
    assert list(speeds) == [2, 3, 4, 5, 6]
    assert speeds[4] > 32 / pause  # else the pause is in it
