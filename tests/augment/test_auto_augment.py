"""AutoAugment: the published pairs, each equally often, each half with its own probability."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from groundup.augment import Batch, augment
from groundup.augment.auto_augment import POLICIES, AutoAugment, Entry, operations
from groundup.augment.space import NAMES, PLACES
from groundup.basis.seeding import generator

MakeBatch = Callable[..., Batch]

both_policies = pytest.mark.parametrize("policy", ["cifar10", "imagenet"])


@both_policies
def test_a_policy_has_25_pairs_of_known_operations(policy: str) -> None:
    pairs = POLICIES[policy]
    assert [len(pair) for pair in pairs] == [2] * 25
    known = {scale.name for scale in operations(32)}
    for half in (half for pair in pairs for half in pair):
        assert half.operation in known - {"Identity"}
        assert 0 <= half.probability <= 1
        assert 0 <= half.magnitude < 10
        assert (half.magnitude == 0) or half.operation not in ("AutoContrast", "Equalize", "Invert")


def test_known_pairs_of_the_paper() -> None:
    cifar10, imagenet = POLICIES["cifar10"], POLICIES["imagenet"]
    assert cifar10[0] == (Entry("Invert", 0.1, 0), Entry("Contrast", 0.2, 6))
    assert cifar10[3] == (Entry("ShearY", 0.5, 8), Entry("TranslateY", 0.7, 9))
    assert cifar10[24] == (Entry("TranslateY", 0.7, 9), Entry("AutoContrast", 0.9, 0))
    assert imagenet[0] == (Entry("Posterize", 0.4, 8), Entry("Rotate", 0.6, 9))
    assert imagenet[18] == (Entry("ShearX", 0.6, 5), Entry("Equalize", 1.0, 0))
    assert imagenet[24] == (Entry("Equalize", 0.8, 0), Entry("Equalize", 0.6, 0))


@pytest.mark.parametrize(
    ("policy", "counts", "probabilities", "bins"),
    [
        ("cifar10", {"Equalize": 9, "AutoContrast": 7, "TranslateY": 5, "Rotate": 1, "Color": 5}, 26.5, 187),
        ("imagenet", {"Equalize": 17, "Solarize": 7, "Posterize": 5, "Rotate": 6, "TranslateX": 0}, 31.0, 159),
    ],
)
def test_the_tables_have_the_totals_of_the_paper(
    policy: str, counts: dict[str, int], probabilities: float, bins: int
) -> None:
    halves = [half for pair in POLICIES[policy] for half in pair]
    assert {name: sum(half.operation == name for half in halves) for name in counts} == counts
    assert sum(half.probability for half in halves) == pytest.approx(probabilities)
    assert sum(half.magnitude for half in halves) == bins


@both_policies
def test_operations_happen_as_often_as_their_pairs_say(policy: str, make_batch: MakeBatch) -> None:
    settings = AutoAugment.model_validate({"name": "auto_augment", "policy": policy})
    count = 100_000
    operation = settings.draw(make_batch(count), generator(0))["operation"]
    assert operation.shape == (count, 2)
    expected = torch.zeros(len(NAMES), len(NAMES), dtype=torch.float64)
    for first, second in POLICIES[policy]:
        a, b = PLACES[first.operation], PLACES[second.operation]
        p, q = first.probability, second.probability
        expected[a, b] += p * q / 25
        expected[a, 0] += p * (1 - q) / 25
        expected[0, b] += (1 - p) * q / 25
        expected[0, 0] += (1 - p) * (1 - q) / 25
    counts = torch.bincount(operation[:, 0] * len(NAMES) + operation[:, 1], minlength=len(NAMES) ** 2)
    possible = expected.flatten() > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible].numpy(), expected.flatten()[possible].numpy() * count).pvalue > 1e-4


def test_magnitudes_are_those_of_the_table_with_fair_signs(make_batch: MakeBatch) -> None:
    drawn = AutoAugment(name="auto_augment").draw(make_batch(50_000, size=32), generator(0))
    rotations = drawn["magnitude"][drawn["operation"] == PLACES["Rotate"]]
    assert rotations.abs().unique().tolist() == pytest.approx([20 / 3])  # bin 2 of 10, up to 30 degrees
    negative = int((rotations < 0).sum())
    assert chisquare([negative, len(rotations) - negative]).pvalue > 1e-4
    moves = drawn["magnitude"][drawn["operation"] == PLACES["TranslateY"]]
    assert moves.abs().unique().tolist() == [4, 14]  # bins 3 and 9 of 10, up to 14.5 px
    bits = drawn["magnitude"][drawn["operation"] == PLACES["Posterize"]]
    assert bits.unique().tolist() == [5]


def test_the_two_policies_differ(digit_images: Tensor, make_batch: MakeBatch) -> None:
    one, other = (
        augment([AutoAugment.model_validate({"name": "auto_augment", "policy": policy})], digit_images, make_batch(), 0)
        for policy in ("cifar10", "imagenet")
    )
    assert not torch.equal(one, other)
