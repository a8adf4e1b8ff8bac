"""Randomness is a pure function of what it is for, the same in every version and on every machine."""

import math

import pytest
import torch

from groundup.basis.seeding import coin, generator, permutation, seed_from, uniforms


def test_the_same_parts_give_the_same_seed_whatever_was_drawn_before() -> None:
    first = seed_from(3, "augment", 7)
    torch.rand(10)
    assert seed_from(3, "augment", 7) == first
    before = torch.get_rng_state()
    generator(1)
    permutation(10, 1)
    coin(torch.arange(4), 1)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is nobody's"


def test_seeds_differ_in_every_part_and_fit_into_63_bits() -> None:
    parts: list[tuple[int | str, ...]] = [
        *((seed, purpose, step) for seed in range(10) for purpose in ("order", "augment", "dropout") for step in range(30)),
        (1,), ("1",), (1, 2), (12,), ("1", 2), (2, 1), ("ab", "c"), ("a", "bc"), (),
    ]  # fmt: skip
    seeds = [seed_from(*each) for each in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_pinned_values_never_change_between_versions() -> None:
    # A changed value means that no run of an earlier version can be repeated or resumed.
    assert seed_from(0) == 3581690635855307741
    assert seed_from(1, "order", 2) == 3964660357497683162
    assert seed_from("a") == 4130140272143641223
    assert permutation(8, 0, "order", 0).tolist() == [3, 2, 4, 7, 0, 6, 5, 1]
    assert coin(torch.arange(16), 0, "flip").int().tolist() == [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    drawn = torch.rand(2, generator=generator(3, "augment", 7, 0))
    torch.testing.assert_close(drawn, torch.tensor([0.72166121, 0.44108719]), atol=1e-7, rtol=0)


def test_a_generator_starts_anew_each_time() -> None:
    draws = [torch.rand(5, generator=generator(0, "x")) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(5, generator=generator(0, "y")))


def test_a_permutation_holds_everything_once() -> None:
    order = permutation(1000, 5, "order", 0)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, permutation(1000, 5, "order", 1))


def test_the_coin_of_an_image_does_not_depend_on_the_batch() -> None:
    everything = coin(torch.arange(5000), 0, "flip")
    some = torch.tensor([4999, 3, 3, 0, 1234])
    assert everything.dtype == torch.bool
    assert torch.equal(coin(some, 0, "flip"), everything[some])


@pytest.mark.parametrize("seed", range(5))
def test_the_coin_is_fair_and_neighbours_are_independent(seed: int) -> None:
    count = 100_000
    heads = coin(torch.arange(count), seed, "flip").double()
    five_sigma = 5 * 0.5 / math.sqrt(count)
    assert abs(heads.mean() - 0.5) < five_sigma
    agree = (heads[1:] == heads[:-1]).double().mean()
    assert abs(agree - 0.5) < five_sigma
    other = coin(torch.arange(count), seed + 100, "flip").double()
    assert abs((heads == other).double().mean() - 0.5) < five_sigma


def test_the_coin_takes_large_indices() -> None:
    far = torch.arange(2**62, 2**62 + 10_000)
    assert 0.45 < coin(far, 0).double().mean() < 0.55


def test_uniforms_are_uniform_and_depend_on_the_image_and_not_on_its_batch() -> None:
    drawn = uniforms(torch.arange(20_000), 5, 0, "crop", 3)
    assert drawn.shape == (20_000, 5)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.stack([torch.histc(column, 20, 0, 1) for column in drawn.T])
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000)).all()
    correlations = torch.corrcoef(torch.cat([drawn, drawn.roll(1, 0)], 1).T) - torch.eye(10)
    assert correlations.abs().max() < 0.04
    assert torch.equal(uniforms(torch.tensor([7, 19_999]), 5, 0, "crop", 3), drawn[[7, 19_999]])
    assert not torch.equal(uniforms(torch.arange(20_000), 5, 0, "crop", 4), drawn)


def test_pinned_uniforms_never_change_between_versions() -> None:
    drawn = uniforms(torch.tensor([0, 1, 2**40]), 2, 5, "crop", 0)
    pinned = torch.tensor([[0.03561634, 0.79715210], [0.12135917, 0.17374206], [0.24313366, 0.77990055]])
    torch.testing.assert_close(drawn, pinned, atol=1e-7, rtol=0)
