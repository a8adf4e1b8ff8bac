"""Noise against the laws it is drawn from, at every published severity."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from groundup.evaluation.corruptions import corrupt

STDS = {32: [0.04, 0.06, 0.08, 0.09, 0.10], 72: [0.08, 0.12, 0.18, 0.26, 0.38]}
PHOTONS = {32: [500, 250, 100, 75, 50], 72: [60, 25, 12, 5, 3]}
AMOUNTS = {32: [0.01, 0.02, 0.03, 0.05, 0.07], 72: [0.03, 0.06, 0.09, 0.17, 0.27]}
CASES = [(side, severity) for side in (32, 72) for severity in (1, 2, 3, 4, 5)]


def drawn(name: str, level: int, side: int, severity: int) -> NDArray[np.int64]:
    """Levels of a flat image of `level` under the corruption."""
    images = torch.full((40 if side == 32 else 8, 3, side, side), level, dtype=torch.uint8)
    return corrupt(images, name, severity, seed=11).numpy().astype(np.int64).ravel()


def agrees(levels: NDArray[np.int64], chances: NDArray[np.float64]) -> None:
    """Levels against the chance of each of 0 to 255, by a chi-square test of those that are expected often."""
    counts = np.bincount(levels, minlength=256)
    expected = chances * len(levels)
    often = expected > 10
    rest = (counts[~often].sum(), expected[~often].sum())
    seen, wanted = np.append(counts[often], rest[0]), np.append(expected[often], rest[1])
    statistic = ((seen - wanted) ** 2 / np.maximum(wanted, 1)).sum()
    assert stats.chi2.sf(statistic, len(seen) - 1) > 1e-5


@pytest.mark.parametrize(("side", "severity"), CASES)
@pytest.mark.parametrize("level", [20, 128])
def test_gaussian_noise_is_normal_and_cut(level: int, side: int, severity: int) -> None:
    edges = stats.norm.cdf((np.arange(1, 256) - level) / (255 * STDS[side][severity - 1]))
    agrees(drawn("gaussian_noise", level, side, severity), np.diff(np.r_[0, edges, 1]))


@pytest.mark.parametrize(("side", "severity"), CASES)
@pytest.mark.parametrize("level", [3, 128, 250])
def test_shot_noise_counts_photons(level: int, side: int, severity: int) -> None:
    photons = PHOTONS[side][severity - 1]
    counts = np.arange(3000)
    chances = stats.poisson.pmf(counts, level / 255 * photons)
    levels = np.minimum(counts * 255 // photons, 255)
    agrees(drawn("shot_noise", level, side, severity), np.bincount(levels, chances, 256))


def test_shot_noise_leaves_black_black() -> None:
    assert (drawn("shot_noise", 0, 32, 5) == 0).all()


@pytest.mark.parametrize(("side", "severity"), CASES)
def test_impulse_noise_puts_as_much_salt_as_pepper(side: int, severity: int) -> None:
    amount = AMOUNTS[side][severity - 1]
    chances = np.zeros(256)
    chances[[0, 100, 255]] = amount / 2, 1 - amount, amount / 2
    agrees(drawn("impulse_noise", 100, side, severity), chances)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_channels_and_neighbours_are_independent(name: str) -> None:
    images = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    noise = corrupt(images, name, 5, 0).double() - 128
    noise = (noise - noise.mean()) / noise.std()
    for one, other in [
        (noise[:, 1:], noise[:, :-1]),
        (noise[..., 1:], noise[..., :-1]),
        (noise[..., 1:, :], noise[..., :-1, :]),
        (noise[1:], noise[:-1]),
    ]:
        assert abs((one * other).mean()) < 5 / one.numel() ** 0.5
