"""The two mistakes that bench/mistakes.py emulates, for no setting has them: each does what it says, and nothing else differs."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

import groundup
from groundup.augment import Flip, PadCrop
from groundup.basis.interruption import StopRequest
from groundup.data import Splits
from groundup.recipe import load_recipe
from groundup.runs.prepare import open_data
from groundup.runs.train import Run

TRAINED = [
    *("model.width=8", "data.limit=250", "train={epochs: 4, batch_size: 25, threads: 1}", "augment.policy=[]"),
    *("schedule={name: constant, lr: 0.05}", "loss={label_smoothing: 0}", "track.tensorboard=false"),
    "average={name: ema, horizon: 0.5ep}",
]


@pytest.fixture(scope="module")
def mistakes(load_bench: Callable[[str], ModuleType]) -> ModuleType:
    """The bench, as a module."""
    return load_bench("mistakes")


@pytest.fixture
def digits() -> Splits:
    return open_data(load_recipe("digits", ["data.limit=60"]), StopRequest())


def pixels(splits: Splits) -> np.ndarray:
    return splits.train.to_device("cpu")[0].numpy()


def test_frozen_views_are_four_fixed_views_of_every_image_in_four_copies_of_the_split(
    mistakes: ModuleType, digits: Splits
) -> None:
    policy = [PadCrop(name="pad_crop", pad=2), Flip(name="flip")]
    frozen, again = (mistakes.frozen_views(digits, policy, 0) for _ in range(2))
    original, views = pixels(digits), pixels(frozen).reshape(4, 60, *pixels(digits).shape[1:])
    assert np.array_equal(pixels(frozen), pixels(again))
    assert frozen.train.labels.tolist() == 4 * digits.train.labels.tolist()
    same = [np.array_equal(views[a], views[b]) for a in range(4) for b in range(a)]
    assert not any(same)
    moved = (views != original).reshape(4, 60, -1).any(2)
    assert 0.7 < moved.mean() < 1.0
    assert (frozen.validation, frozen.test, frozen.classes) == (digits.validation, digits.test, digits.classes)
    assert frozen.image_size == digits.image_size


def test_frozen_views_depend_on_the_seed_and_say_so_in_the_fingerprint(mistakes: ModuleType, digits: Splits) -> None:
    policy = [PadCrop(name="pad_crop", pad=2)]
    one, other = (mistakes.frozen_views(digits, policy, seed) for seed in (0, 1))
    assert not np.array_equal(pixels(one), pixels(other))
    assert len({digits.fingerprint, one.fingerprint, other.fingerprint}) == 3


def test_without_a_policy_frozen_views_are_the_images_themselves(mistakes: ModuleType, digits: Splits) -> None:
    assert np.array_equal(pixels(mistakes.frozen_views(digits, [], 0)), np.concatenate([pixels(digits)] * 4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return groundup.train("digits", TRAINED, run=tmp_path_factory.mktemp("mistakes") / "run", pictures=False)


def test_without_buffers_an_average_is_far_from_what_it_is_with_statistics_of_its_own(
    mistakes: ModuleType, trained: Run
) -> None:
    assert trained.summary["weights"] == "average"
    assert trained.summary["top1"] > 0.8
    assert mistakes.without_buffers(trained) < trained.summary["top1"] - 0.3


def test_with_the_right_buffers_the_emulation_gives_the_run_s_own_accuracy(
    mistakes: ModuleType, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is evaluated are the averaged weights, on the test split: only the buffers are wrong."""
    averaged = mistakes.load(trained.folder).model
    build = mistakes.build_model

    def built(*arguments: object, **named: object) -> torch.nn.Module:
        network: torch.nn.Module = build(*arguments, **named)
        for own, right in zip(network.buffers(), averaged.buffers(), strict=True):
            own.copy_(right)
        return network

    monkeypatch.setattr(mistakes, "build_model", built)
    assert mistakes.without_buffers(trained) == pytest.approx(trained.summary["top1"])
