"""What the loop does with mixing, SAM, live dropout and averages: compared with the same arithmetic written out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from groundup.augment import apply_mix, draw_mix, mixed_labels, normalize
from groundup.training import train_step

PLAIN: dict[str, Any] = {
    "augment": {"policy": []},
    "optimizer": {"name": "sgd", "momentum": 0, "nesterov": False, "weight_decay": 0},
    "schedule": {"name": "constant", "lr": 1.0},
}
MIXED: dict[str, Any] = {**PLAIN, "mix": {"methods": [{"name": "mixup", "alpha": 1.0}], "per": "sample"}}
NO_BEST: dict[str, Any] = {"data": {"validation": 0.0}, "train": {"epochs": 2}}
WRN = {"name": "wide_resnet", "depth": 10, "width": 1, "dropout": 0.3}


class Linear(nn.Module):
    """One layer, so that its gradient can be written down."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(192, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


class Certain(Linear):
    """Says class 3 of every image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0 + 100 * torch.eye(10)[3]


def gradient(weight: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    weight = weight.clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(images.flatten(1) @ weight.T, targets), weight)[0]


def moved(lab: Any, changes: dict[str, Any]) -> tuple[Any, Any, Tensor, Tensor]:
    """Job and state after one step, the weight before it, and what was subtracted from it at learning rate 1."""
    job, state = lab.build(changes, own=Linear())
    before = state.model.layer.weight.detach().clone()
    train_step(job, state)
    return job, state, before, before - state.model.layer.weight.detach()


def test_sam_takes_the_gradient_at_the_worst_point_near_the_weights_and_counts_both_passes(lab: Any) -> None:
    sam = {**PLAIN["optimizer"], "sam": {"rho": 0.2}}
    job, state, before, step = moved(lab, {**PLAIN, "optimizer": sam})
    images, labels = job.data.take(job.order.at(0)[1])
    seen = normalize(images, job.mean, job.std)
    plain = gradient(before, seen, labels)
    torch.testing.assert_close(step, gradient(before + 0.2 * plain / plain.norm(), seen, labels), atol=1e-5, rtol=1e-4)
    assert (step - plain).norm() > 0.01 * plain.norm(), "the plain gradient is another one"
    assert state.flops == 2 * 3 * job.flops[8] * 32
    assert state.images == 32


def test_sam_over_micro_batches_is_that_of_the_whole_batch(lab: Any) -> None:
    sam = {**PLAIN, "optimizer": {**PLAIN["optimizer"], "sam": {"rho": 0.2}}}
    whole, parted = (moved(lab, {**sam, "train": train})[-1] for train in ({}, {"micro_batch": 5}))
    torch.testing.assert_close(parted, whole, atol=1e-6, rtol=1e-5)


def test_a_step_on_mixed_images_has_the_loss_on_both_labels(lab: Any) -> None:
    job, _, before, step = moved(lab, MIXED)
    images, labels = job.data.take(job.order.at(0)[1])
    mixed = draw_mix(job.live.at(0).mix, 32, 8, job.seed, 0, torch.device("cpu"))
    assert mixed is not None
    seen = apply_mix(normalize(images, job.mean, job.std), mixed, slice(None))
    by_image = nn.functional.cross_entropy
    weight = before.clone().requires_grad_()
    logits = seen.flatten(1) @ weight.T
    losses = mixed.lam * by_image(logits, labels, reduction="none")
    losses = losses + (1 - mixed.lam) * by_image(logits, labels[mixed.partner], reduction="none")
    torch.testing.assert_close(step, torch.autograd.grad(losses.mean(), weight)[0], atol=1e-6, rtol=1e-4)


def test_mixed_micro_batches_equal_the_whole_batch(lab: Any) -> None:
    batch = {"batch_size": 144}
    whole = moved(lab, {**MIXED, "train": batch})[-1]
    parted = moved(lab, {**MIXED, "train": {**batch, "micro_batch": 64}})[-1]
    assert whole.norm() > 1e-3
    torch.testing.assert_close(parted, whole, atol=1e-6, rtol=1e-5)


def test_training_accuracy_under_mixing_is_the_share_of_the_label_that_was_hit(lab: Any) -> None:
    job, state = lab.build(MIXED, own=Certain())
    labels = job.data.labels[job.order.at(0)[1]]
    mixed = draw_mix(job.live.at(0).mix, 32, 8, job.seed, 0, torch.device("cpu"))
    assert mixed is not None
    train_step(job, state)
    share = float(mixed_labels(labels, 10, mixed)[:, 3].mean())
    assert state.sums.read()["train_top1"] == pytest.approx(share)
    assert share != float((labels == 3).float().mean()), "the plain accuracy is another number"


class Normed(nn.Module):
    """Dropout and a batch norm, with a note of what each pass saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.dropout, self.layer = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(192, 10)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        dropped = self.dropout(self.norm(x).flatten(1))
        self.masks.append(dropped == 0)
        logits: Tensor = self.layer(dropped)
        return logits


def test_both_passes_of_sam_drop_the_same_and_norm_statistics_move_once(lab: Any) -> None:
    states = {}
    for name, sam in {"plain": {}, "sam": {"sam": {"rho": 0.5}}}.items():
        job, state = lab.build({**PLAIN, "optimizer": {**PLAIN["optimizer"], **sam}}, own=Normed())
        train_step(job, state)
        states[name] = state.model
    first, second = states["sam"].masks[-2:]
    assert torch.equal(first, second)
    assert 0.4 < float(first.float().mean()) < 0.6
    assert torch.equal(states["sam"].norm.running_mean, states["plain"].norm.running_mean)
    assert int(states["sam"].norm.num_batches_tracked) == 1


def test_class_weights_count_the_shares_of_mixed_labels(lab: Any) -> None:
    from dataclasses import replace

    weights = torch.linspace(0.1, 4, 10)
    job, state = lab.build(MIXED, own=Linear())
    job = replace(job, class_weights=weights)
    before = state.model.layer.weight.detach().clone()
    train_step(job, state)
    images, labels = job.data.take(job.order.at(0)[1])
    mixed = draw_mix(job.live.at(0).mix, 32, 8, job.seed, 0, torch.device("cpu"))
    assert mixed is not None
    seen, targets = (
        apply_mix(normalize(images, job.mean, job.std), mixed, slice(None)),
        mixed_labels(labels, 10, mixed),
    )
    weight = before.clone().requires_grad_()
    losses = -(targets * weights * (seen.flatten(1) @ weight.T).log_softmax(1)).sum() / (targets @ weights).sum()
    expected = torch.autograd.grad(losses, weight)[0]
    torch.testing.assert_close(before - state.model.layer.weight.detach(), expected, atol=1e-6, rtol=1e-4)


def test_the_average_has_seen_the_weights_after_each_update_from_its_start_on(lab: Any) -> None:
    job, state = lab.build({**PLAIN, "average": {"name": "swa", "start": "2step", "every": "1step"}}, own=Linear())
    seen = []
    for _ in range(5):
        train_step(job, state)
        seen.append(state.model.layer.weight.detach().clone())
    assert state.average.updates == 4
    torch.testing.assert_close(state.average.network.layer.weight, torch.stack(seen[1:]).mean(0))


def test_momentum_is_the_optimizers_own_again_after_a_phase_that_cycled_it(lab: Any, tmp_path: Path) -> None:
    cycled = {"name": "one_cycle", "max_lr": 0.05, "cycle_momentum": True}
    phases = [{"from": "3step", "set": {"schedule": {"name": "cosine", "lr": 0.01}}}]
    part = lab.run(tmp_path, {"schedule": cycled, "phases": phases, "evaluate": {"every": "3step"}})
    assert part.lines[0]["momentum"] != 0.9
    assert {group["momentum"] for group in part.state.optimizer.param_groups} == {0.9}


def test_stopping_on_an_average_waits_for_its_first_sample(lab: Any, tmp_path: Path) -> None:
    changes = {
        "average": {"name": "swa", "start": "5step", "every": "1step"},
        "stop": {
            "early": {"metric": "average_validation_top1", "patience": "1dur"},
            "target": {"metric": "average_validation_loss", "value": 50},
        },
    }
    part = lab.run(tmp_path, changes)
    assert (part.state.step, part.state.ended is not None) == (8, True), "the first evaluation that has an average"


def test_pixels_in_main_memory_are_gathered_by_indices_that_nobody_waits_for(lab: Any) -> None:
    for cache, on_device in (("device", True), ("host", False), ("disk", False)):
        job, _ = lab.build({"data": {"cache": cache}})
        assert job.data.gathers_on_device is on_device


def test_phases_change_dropout_in_place_and_the_lines_say_so(lab: Any, tmp_path: Path) -> None:
    changes = {"model": WRN, "phases": [{"from": "4step", "set": {"model.dropout": 0.1}}]}
    part = lab.run(tmp_path, changes)
    assert [line["dropout"] for line in part.lines] == [0.3, 0.1, 0.1]
    assert {module.p for module in part.state.model.modules() if isinstance(module, nn.Dropout) and module.p} == {0.1}


def test_the_lines_tell_the_average_apart_and_its_norms_are_its_own(lab: Any, tmp_path: Path) -> None:
    part = lab.run(tmp_path, {"average": {"name": "ema", "horizon": "3step"}})
    assert all(
        {"validation_top1", "average_validation_top1", "average_validation_loss"} <= line.keys() for line in part.lines
    )
    assert all(line["validation_loss"] != line["average_validation_loss"] for line in part.lines)
    own, trained = part.state.average.network.bn1.running_mean, part.state.model.bn1.running_mean
    assert not torch.equal(own, trained)
    assert not torch.equal(own, torch.zeros_like(own))


def test_the_best_step_of_a_run_with_an_average_is_the_best_of_its_average(lab: Any, tmp_path: Path) -> None:
    changes = {
        "average": {"name": "ema", "horizon": "5step", "start": "3step"},
        "evaluate": {"model": "best", "every": "1step"},
    }
    part = lab.run(tmp_path, changes)
    averaged = {
        line["step"]: line["average_validation_top1"] for line in part.lines if "average_validation_top1" in line
    }
    best = part.state.best
    assert best is not None
    assert best["validation_top1"] == max(averaged.values())
    assert averaged[best["step"]] == best["validation_top1"]


def test_checkpoints_at_kept_steps_stay(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path, {**NO_BEST, "checkpoint": {"keep_every": "3step", "every": "1step"}})
    assert [folder.name[-2:] for folder in lab.store(tmp_path).all()] == ["10", "09", "06", "03"]


@pytest.mark.parametrize("seen", [1, 2])
def test_a_kept_checkpoint_holds_a_whole_average_though_its_measuring_was_interrupted(
    seen: int, lab: Any, tmp_path: Path, differences: Any
) -> None:
    changes = {**NO_BEST, "average": {"name": "ema", "horizon": "5step"}, "checkpoint": {"keep_every": "3step"}}

    def kept(folder: Path) -> list[dict[str, Any]]:
        stores = sorted(lab.store(folder).all())
        return [load_file(store / name) for store in stores for name in ("average.safetensors", "model.safetensors")]

    lab.run(tmp_path / "whole", changes)
    cut = lab.run(tmp_path / "cut", changes, stop_in_evaluation=seen)
    assert cut.state.step % 3 == 0
    assert cut.state.step < cut.job.clock.total_steps
    lab.run(tmp_path / "cut", changes)
    assert len(kept(tmp_path / "whole")) == 8
    assert differences(kept(tmp_path / "cut"), kept(tmp_path / "whole")) == []


def test_a_kept_step_is_saved_even_where_no_checkpoint_is_due(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path, {**NO_BEST, "checkpoint": {"keep_every": "3step", "every": "9ep"}})
    assert [folder.name[-2:] for folder in lab.store(tmp_path).all()] == ["10", "09", "06", "03"]
