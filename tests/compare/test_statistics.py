"""Statistics over seeds against closed forms, scipy, and simulated coverage."""

import itertools
import math
import random
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from groundup.compare.effects import find_factors, grid_effects, importance
from groundup.compare.statistics import differences, holm, pareto_front, spread


def test_spread_is_mean_sd_and_the_t_interval() -> None:
    values = [0.70, 0.72, 0.71]
    found = spread(values)
    assert (found.count, found.mean, found.sd) == (3, pytest.approx(fmean(values)), pytest.approx(stdev(values)))
    expected = stats.t.interval(0.95, 2, loc=fmean(values), scale=stats.sem(values))
    assert found.interval == pytest.approx(expected)


def test_one_seed_has_no_interval() -> None:
    assert spread([0.7]).interval is None
    assert spread([0.7]).sd is None
    assert differences({"a": {0: 0.7}, "b": {0: 0.8, 1: 0.9}}) == []


def test_seeds_that_agree_are_no_certainty() -> None:
    assert (spread([0.7, 0.7]).sd, spread([0.7, 0.7]).interval) == (0, None)


def test_holm_is_the_step_down_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_groups_on_the_same_seeds_are_the_paired_t_test() -> None:
    one, other = [0.70, 0.74, 0.69, 0.72], [0.66, 0.71, 0.68, 0.67]
    (pair,) = differences({"a": dict(enumerate(one)), "b": dict(enumerate(other))})
    expected = stats.ttest_rel(one, other)
    assert (pair.p, pair.adjusted) == pytest.approx((expected.pvalue, expected.pvalue))
    assert pair.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert pair.method == "same seeds"


def test_groups_on_other_seeds_are_welch_s_t_test() -> None:
    one, other = [0.70, 0.74, 0.69], [0.60, 0.66, 0.61, 0.68]
    (pair,) = differences({"a": dict(enumerate(one)), "b": {10 + seed: value for seed, value in enumerate(other)}})
    expected = stats.ttest_ind(one, other, equal_var=False)
    assert pair.p == pytest.approx(expected.pvalue)
    assert pair.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_only_shared_seeds_are_compared() -> None:
    (pair,) = differences({"a": {0: 0.5, 1: 0.6, 2: 9.0}, "b": {0: 0.4, 1: 0.51}})
    assert pair.difference == pytest.approx(0.095)
    assert pair.seeds == (2, 2)


def test_groups_that_share_all_seeds_share_one_estimate_of_the_spread() -> None:
    """The variance is that of a two-way analysis of variance without interaction, here from its normal equations."""
    table = np.array([[0.70, 0.74, 0.69], [0.66, 0.71, 0.68], [0.71, 0.73, 0.70], [0.60, 0.66, 0.61]])
    groups, seeds = table.shape
    design = [
        [float(row == place) for place in range(groups)] + [float(column == place) for place in range(1, seeds)]
        for row, column in itertools.product(range(groups), range(seeds))
    ]
    squares = float(np.linalg.lstsq(np.array(design), table.ravel(), rcond=None)[1][0])
    freedom = (groups - 1) * (seeds - 1)
    found = differences({str(place): dict(enumerate(row)) for place, row in enumerate(table)})
    error = math.sqrt(2 * squares / freedom / seeds)
    for pair in found:
        assert pair.method == "same seeds, spread of all groups"
        assert pair.p == pytest.approx(2 * stats.t.sf(abs(pair.difference) / error, freedom))
        assert pair.adjusted >= pair.p


def test_unequal_spread_leaves_each_pair_to_itself() -> None:
    drawn = random.Random(1)
    quiet = {f"quiet {place}": {seed: drawn.gauss(0.7, 0.001) for seed in range(6)} for place in range(5)}
    wild = {seed: drawn.gauss(0.5, 0.2) for seed in range(6)}
    assert {pair.method for pair in differences({**quiet, "wild": wild})} == {"same seeds"}


def test_no_spread_between_seeds_is_not_judged() -> None:
    (pair,) = differences({"a": {0: 0.5, 1: 0.6}, "b": {0: 0.4, 1: 0.5}})
    assert (pair.p, pair.interval, pair.shown) == (None, None, False)


def test_one_recipe_that_varies_wildly_does_not_make_false_findings() -> None:
    drawn = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        table = 0.7 + drawn.normal(0, 1, (8, 3)) * np.array([[0.05], *[[0.005]] * 7])
        false += any(
            pair.shown
            for pair in differences({str(place): dict(enumerate(row)) for place, row in enumerate(table.tolist())})
        )
    assert false / 300 < 0.1


@pytest.mark.parametrize("groups", [2, 6])
def test_intervals_cover_and_false_findings_are_as_rare_as_they_say(groups: int) -> None:
    drawn = np.random.default_rng(0)
    repetitions = 400
    covered, false = 0.0, 0
    for _ in range(repetitions):
        of_seed = drawn.normal(0, 0.01, 3)
        table = 0.7 + of_seed + drawn.normal(0, 0.005, (groups, 3))
        found = differences({str(place): dict(enumerate(row)) for place, row in enumerate(table.tolist())})
        covered += sum(pair.interval[0] <= 0 <= pair.interval[1] for pair in found) / len(found)
        false += any(pair.shown for pair in found)
    assert 0.92 < covered / repetitions < 0.98  # the standard error of 400 repetitions is at most 0.011
    assert false / repetitions < 0.085


def test_a_real_difference_is_found_among_many() -> None:
    drawn = random.Random(0)
    table = {f"cell {place}": {seed: 0.7 + drawn.gauss(0, 0.003) for seed in range(3)} for place in range(7)}
    table["worse"] = {seed: 0.65 + drawn.gauss(0, 0.003) for seed in range(3)}
    shown = {pair.names for pair in differences(table) if pair.shown}
    assert shown == {(f"cell {place}", "worse") for place in range(7)}


def test_the_front_is_what_nothing_beats() -> None:
    costs, values = [1.0, 2.0, 2.0, 3.0, 4.0, 1.0], [0.5, 0.7, 0.6, 0.7, 0.9, 0.5]
    assert sorted(pareto_front(costs, values)) == [0, 1, 4, 5]
    brute = [
        place
        for place in range(6)
        if not any(
            costs[other] <= costs[place]
            and values[other] >= values[place]
            and (costs[other], values[other]) != (costs[place], values[place])
            for other in range(6)
        )
    ]
    assert sorted(pareto_front(costs, values)) == brute
    assert pareto_front([1.0, 2.0], [0.3, 0.2], mode="min") == [0, 1]
    assert pareto_front([1.0, 2.0], [0.2, 0.3], mode="min") == [0]


def cells(noise: float, seeds: int = 3) -> list[tuple[dict[str, object], list[float]]]:
    """A grid of 2 x 3 where b adds 0.1 with a on, and nothing with a off."""
    drawn = random.Random(0)
    return [
        (
            {"a": a, "b": b, "fixed": 1, "follows": f"{a}/{b}"},
            [0.5 + 0.2 * a + 0.1 * a * (b == "y") + drawn.gauss(0, noise) for _ in range(seeds)],
        )
        for a in (0, 1)
        for b in ("x", "y", "z")
    ]


def test_a_full_grid_is_found_and_what_follows_is_no_factor() -> None:
    factors = find_factors([settings for settings, _ in cells(0)])
    assert factors is not None
    assert factors.levels == {"a": ["0", "1"], "b": ["x", "y", "z"]}
    assert factors.follows == ["follows"]


def test_a_grid_with_a_hole_is_no_grid() -> None:
    settings = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1, 2)]
    assert find_factors(settings) is not None
    assert find_factors(settings[:-1]) is None


def test_effects_and_interactions_are_the_differences_of_cell_means() -> None:
    grid = cells(1e-4)
    factors = find_factors([settings for settings, _ in grid])
    assert factors is not None
    found = {effect.what: effect for effect in grid_effects(grid, factors)}
    assert len(found) == 1 + 2 + 2
    assert found["a: 1 instead of 0"].effect == pytest.approx(0.2 + 0.1 / 3, abs=1e-3)
    assert found["b: y instead of x"].effect == pytest.approx(0.05, abs=1e-3)
    assert found["a: 1 instead of 0, at b y more than at x"].effect == pytest.approx(0.1, abs=1e-3)
    assert not found["b: z instead of x"].shown
    assert {what for what, effect in found.items() if effect.shown} == {
        "a: 1 instead of 0",
        "b: y instead of x",
        "a: 1 instead of 0, at b y more than at x",
    }


def test_an_effect_in_a_balanced_grid_is_the_f_test_of_the_analysis_of_variance() -> None:
    grid = cells(0.05)
    factors = find_factors([settings for settings, _ in grid])
    assert factors is not None
    effect = next(entry for entry in grid_effects(grid, factors) if entry.settings == ("a",))
    table = np.array([results for _, results in grid]).reshape(2, 3, 3)
    inside = ((table - table.mean(2, keepdims=True)) ** 2).sum() / 12
    between = 9 * ((table.mean((1, 2)) - table.mean()) ** 2).sum()
    assert effect.p == pytest.approx(stats.f.sf(between / inside, 1, 12))


def test_effects_of_one_seed_each_have_no_interval() -> None:
    grid = cells(0.01, seeds=1)
    factors = find_factors([settings for settings, _ in grid])
    assert factors is not None
    assert all(effect.interval is None and not effect.shown for effect in grid_effects(grid, factors))


@pytest.mark.parametrize("without_optuna", [False, True])
def test_importance_finds_the_setting_that_decides(without_optuna: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_optuna:
        monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    drawn = random.Random(0)
    settings = [
        {"lr": 10 ** drawn.uniform(-3, 0), "net": drawn.choice("ab"), "idle": drawn.random(), "fixed": 1}
        for _ in range(40)
    ]
    results = [-abs(math.log10(entry["lr"]) + 1.5) + (0.2 if entry["net"] == "a" else 0.0) for entry in settings]
    found = importance(settings, results)
    assert found is not None
    assert set(found.shares) == {"lr", "net", "idle"}
    assert next(iter(found.shares)) == "lr"
    assert found.shares["lr"] > 0.6
    assert sum(found.shares.values()) == pytest.approx(1)
    assert ("scikit-learn" in found.method) >= without_optuna


def test_few_runs_say_nothing_about_importance() -> None:
    assert importance([{"a": place, "b": -place} for place in range(5)], [0.1] * 5) is None
