"""Statistics over seeds against closed forms, scipy, and simulated coverage."""

import itertools
import math
import random
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from groundup.compare.report.effects import find_factors, grid_effects, importance
from groundup.compare.report.statistics import differences, holm, pareto_front, spread


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


def test_unequal_spread_leaves_each_row_its_own() -> None:
    """Two rows of many: B. L. Welch's test on what is left beside the seeds, each row with its own degrees of freedom."""
    drawn = random.Random(1)
    groups = {f"quiet {place}": {seed: drawn.gauss(0.7, 0.001) for seed in range(6)} for place in range(5)}
    groups["wild"] = {seed: drawn.gauss(0.5, 0.2) for seed in range(6)}
    found = differences(groups)
    assert {pair.method for pair in found} == {"same seeds, spread of both groups"}
    table = np.array([list(results.values()) for results in groups.values()])
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    one, wild = (rest[place] * math.sqrt(6 / 5) + table[place].mean() for place in (0, 5))
    pair = next(pair for pair in found if pair.names == ("quiet 0", "wild"))
    assert pair.p == pytest.approx(stats.ttest_ind(one, wild, equal_var=False).pvalue)


def test_no_spread_between_seeds_is_not_judged() -> None:
    (pair,) = differences({"a": {0: 0.5, 1: 0.6}, "b": {0: 0.4, 1: 0.5}})
    assert (pair.p, pair.interval, pair.shown) == (None, None, False)


@pytest.mark.parametrize("spreads", [[1] * 7 + [4], [1] * 4 + [4] * 4, [1, 1, 4, 4]])
def test_rows_that_vary_unequally_make_no_more_false_findings(spreads: list[int]) -> None:
    drawn = np.random.default_rng(0)
    false = 0
    for _ in range(1000):
        table = 0.7 + drawn.normal(0, 0.005, (len(spreads), 3)) * np.array(spreads)[:, None]
        false += any(
            pair.shown
            for pair in differences({str(place): dict(enumerate(row)) for place, row in enumerate(table.tolist())})
        )
    assert false / 1000 < 0.07  # about 5%, with a standard error of 0.7 points


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
    assert false / repetitions < 0.07


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


def cells(noise: float, seeds: int = 3, of_seed: float = 0.0) -> list[tuple[dict[str, object], dict[int, float]]]:
    """A grid of 2 x 3 where b adds 0.1 with a on, and nothing with a off. of_seed: what every seed adds to all."""
    drawn = random.Random(0)
    return [
        (
            {"a": a, "b": b, "fixed": 1, "follows": f"{a}/{b}"},
            {
                seed: 0.5 + 0.2 * a + 0.1 * a * (b == "y") + of_seed * seed + drawn.gauss(0, noise)
                for seed in range(seeds)
            },
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


def test_an_effect_is_the_f_test_of_the_analysis_of_variance_with_seeds_as_blocks() -> None:
    grid = cells(0.05)
    factors = find_factors([settings for settings, _ in grid])
    assert factors is not None
    effect = next(entry for entry in grid_effects(grid, factors) if entry.settings == ("a",))
    table = np.array([list(results.values()) for _, results in grid])
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    between = 9 * ((table.reshape(2, 9).mean(1) - table.mean()) ** 2).sum()
    assert effect.p == pytest.approx(stats.f.sf(between / ((rest**2).sum() / 10), 1, 10))


def test_what_a_seed_does_everywhere_hides_no_effect() -> None:
    factors = find_factors([settings for settings, _ in cells(0)])
    assert factors is not None
    plain, shifted = (grid_effects(cells(1e-3, of_seed=of_seed), factors) for of_seed in (0.0, 1.0))
    assert [effect.p for effect in shifted] == pytest.approx([effect.p for effect in plain], rel=1e-6)


def test_a_wild_cell_makes_no_more_false_effects() -> None:
    drawn = np.random.default_rng(0)
    points = [{"a": a, "b": b, "c": c} for a, b, c in itertools.product((0, 1), repeat=3)]
    factors = find_factors(points)
    assert factors is not None
    false = 0
    for _ in range(600):
        table = (0.7 + drawn.normal(0, 0.005, (8, 3)) * np.array([10] + [1] * 7)[:, None]).tolist()
        grid = [(point, dict(enumerate(row))) for point, row in zip(points, table, strict=True)]
        false += any(effect.shown for effect in grid_effects(grid, factors))
    assert false / 600 < 0.08


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


@pytest.mark.parametrize("without_optuna", [False, True])
def test_a_conditional_number_is_a_number_where_it_is_active(
    without_optuna: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 values as 40 names would explain everything; as one number it explains nothing here."""
    if without_optuna:
        monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    drawn = random.Random(0)
    settings = []
    for _ in range(60):
        name = drawn.choice(["sgd", "adamw"])
        momentum = {"momentum": drawn.random()} if name == "sgd" else {}
        settings.append({"lr": 10 ** drawn.uniform(-3, 0), "optimizer": name, **momentum})
    found = importance(settings, [-abs(math.log10(entry["lr"]) + 1.5) + 0.05 * drawn.random() for entry in settings])
    assert found is not None
    assert set(found.shares) == {"lr", "optimizer", "momentum"}
    assert found.shares["lr"] > 0.8
