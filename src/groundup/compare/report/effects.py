"""What each setting of a sweep does: main effects and interactions of a grid, importance of the settings of a search.

Grid     every combination of some settings was run. An effect of a setting is the result at one of its values less that at its
         first, as a mean over all combinations of the others; an interaction is how much the effect of one setting differs
         between two values of another. Each is a contrast of cell means, paired by seed: all cells have the same seeds, so what a
         seed does everywhere cancels, and the t interval takes what is left (`statistics.noise`: one variance for all cells, or,
         where their spread is unequal, each its own). p values are corrected for the number of all of them (Holm).
Follows  settings that are given by others, such as a learning rate that is set for each optimizer, are no factors of their own:
         what they do is part of the effect of the settings that they follow.
Search   the share of the variance of the result that each setting explains in a random forest: fANOVA (F. Hutter, H. Hoos,
         K. Leyton-Brown, ICML 2014) by Optuna where it is installed, else the forest's own impurity importance (scikit-learn).
         Says what mattered within the space that was searched, not which value is best; unstable below some 30 runs.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from groundup.compare.report.statistics import Noise, holm, noise, student

_FEWEST = 10  # finished runs below which importance says nothing
_MOST_KEYS = 12  # settings above which no grid is looked for

Cell = tuple[Mapping[str, Any], Mapping[int, float]]
"""The settings of a group, and its results, seed by seed."""


@dataclass(frozen=True)
class Factors:
    """`levels`: the values of each setting that spans the grid, as text, in order; `follows`: what is given by them."""

    levels: dict[str, list[str]]
    follows: list[str]


@dataclass(frozen=True)
class Effect:
    """A contrast of cell means, in words. `interval`, `p` and `adjusted` are None where cells share no two seeds."""

    settings: tuple[str, ...]
    what: str
    effect: float
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None = None
    confidence: float = 0.95

    @property
    def shown(self) -> bool:
        """Whether it is real as far as seeds go, with all other effects taken into account."""
        return self.adjusted is not None and self.adjusted < 1 - self.confidence


@dataclass(frozen=True)
class Importance:
    """`shares` add up to 1, largest first. `method` and `remark` say how, and how far to trust it."""

    shares: dict[str, float]
    method: str
    remark: str


def as_text(value: Any) -> str:
    """A setting's value in few letters: the name of a mapping that has one."""
    if isinstance(value, Mapping):
        return str(value["name"]) if set(value) == {"name"} else json.dumps(value, default=str)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def short_text(value: Any) -> str:
    """The same for a reader: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have one value everywhere, in order of appearance."""
    keys = dict.fromkeys(key for entry in settings for key in entry)
    return [key for key in keys if len({as_text(entry.get(key)) for entry in settings}) > 1]


def find_factors(settings: Sequence[Mapping[str, Any]]) -> Factors | None:
    """The settings that span a full grid, as many as possible; None if there is no full grid."""
    keys = varied(settings)
    rows = [{key: as_text(entry.get(key)) for key in keys} for entry in settings]
    if not 1 <= len(keys) <= _MOST_KEYS:
        return None
    for size in range(len(keys), 0, -1):
        for chosen in itertools.combinations(keys, size):
            levels = {key: list(dict.fromkeys(row[key] for row in rows)) for key in chosen}
            cells = {tuple(row[key] for key in chosen) for row in rows}
            if len(cells) == len(rows) == math.prod(map(len, levels.values())):
                return Factors(levels, [key for key in keys if key not in chosen])
    return None


def grid_effects(cells: Sequence[Cell], factors: Factors, confidence: float = 0.95) -> list[Effect]:
    """Main effects and two-way interactions, against the first value of each setting."""
    place = {tuple(as_text(settings.get(key)) for key in factors.levels): results for settings, results in cells}
    left = noise(place)
    found = []
    for key, (first, *others) in factors.levels.items():
        for other in others:
            weights = _weights(place, factors, {key: (other, first)})
            found.append(_contrast((key,), f"{key}: {other} instead of {first}", weights, place, left, confidence))
    for one, two in itertools.combinations(factors.levels, 2):
        for a, b in itertools.product(factors.levels[one][1:], factors.levels[two][1:]):
            base_a, base_b = factors.levels[one][0], factors.levels[two][0]
            weights = _weights(place, factors, {one: (a, base_a), two: (b, base_b)})
            what = f"{one}: {a} instead of {base_a}, at {two} {b} more than at {base_b}"
            found.append(_contrast((one, two), what, weights, place, left, confidence))
    adjusted = iter(holm([effect.p for effect in found if effect.p is not None]))
    return [effect if effect.p is None else replace(effect, adjusted=next(adjusted)) for effect in found]


def _weights(
    place: Mapping[tuple[str, ...], Any], factors: Factors, contrast: Mapping[str, tuple[str, str]]
) -> dict[tuple[str, ...], float]:
    """How much each cell counts: +1 and -1 along the contrasted settings, the mean over all others."""
    keys = list(factors.levels)
    others = math.prod(len(levels) for key, levels in factors.levels.items() if key not in contrast)
    weights = {}
    for cell in place:
        sign = 1.0
        for key, (other, first) in contrast.items():
            level = cell[keys.index(key)]
            sign *= 1 if level == other else -1 if level == first else 0
        weights[cell] = sign / others
    return weights


def _contrast(
    settings: tuple[str, ...],
    what: str,
    weights: Mapping[tuple[str, ...], float],
    place: Mapping[tuple[str, ...], Mapping[int, float]],
    left: Noise | None,
    confidence: float,
) -> Effect:
    effect = sum(weight * fmean(place[cell].values()) for cell, weight in weights.items())
    error, freedom = left.error(weights) if left else (0.0, 0.0)
    if error <= 1e-12:
        return Effect(settings, what, effect, None, None, None, confidence)
    interval, p = student(effect, error, freedom, confidence)
    return Effect(settings, what, effect, interval, p, None, confidence)


def importance(settings: Sequence[Mapping[str, Any]], results: Sequence[float]) -> Importance | None:
    """Of each varied setting for the result; None where there are too few runs or settings to say, or no result differs."""
    keys = varied(settings)
    if len(settings) < _FEWEST or len(keys) < 2 or len(set(results)) < 2:
        return None
    rows = [{key: entry.get(key) for key in keys} for entry in settings]
    for key in filter(lambda key: _numeric(rows, key), keys):
        _place_inactive(rows, key)
    shares = _fanova(rows, keys, results)
    method = "fANOVA (Optuna)"
    if shares is None:
        shares, method = _forest(rows, keys, results), "impurity importance of a random forest (scikit-learn)"
    total = sum(shares.values())
    if not total:
        return None
    few = " Below some 30 runs this changes from search to search." if len(rows) < 30 else ""
    ranked = {key: share / total for key, share in sorted(shares.items(), key=lambda item: -item[1])}
    return Importance(ranked, method, f"From {len(rows)} finished runs, within the space that was searched.{few}")


def _numeric(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether the values are numbers, but for rows where the setting is not active."""
    known = [row[key] for row in rows if row[key] is not None]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    return numbers and len(set(known)) > 1


def _is_log(low: float, high: float) -> bool:
    return low > 0 and high / low >= 10


def _place_inactive(rows: Sequence[dict[str, Any]], key: str) -> None:
    """Put rows where the setting is not active in the middle of its range: whether it is active, the setting above it says."""
    known = [row[key] for row in rows if row[key] is not None]
    low, high = float(min(known)), float(max(known))
    middle = math.sqrt(low * high) if _is_log(low, high) else (low + high) / 2
    for row in rows:
        row[key] = middle if row[key] is None else row[key]


def _fanova(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], results: Sequence[float]
) -> dict[str, float] | None:
    """By Optuna; None if it is not installed."""
    try:
        import optuna
    except ImportError:
        return None
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    spaces: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in rows]
        if _numeric(rows, key):
            low, high = float(min(values)), float(max(values))
            spaces[key] = optuna.distributions.FloatDistribution(low, high, log=_is_log(low, high))
        else:
            spaces[key] = optuna.distributions.CategoricalDistribution(sorted({as_text(value) for value in values}))
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(told)
    for row, result in zip(rows, results, strict=True):
        params = {key: float(row[key]) if _numeric(rows, key) else as_text(row[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=result))
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def _forest(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], results: Sequence[float]) -> dict[str, float]:
    """By scikit-learn: numbers as they are, other values one column each."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    columns: list[tuple[str, list[float]]] = []
    for key in keys:
        if _numeric(rows, key):
            columns.append((key, [float(row[key]) for row in rows]))
            continue
        texts = [as_text(row[key]) for row in rows]
        columns += [(key, [float(text == level) for text in texts]) for level in sorted(set(texts))]
    forest = RandomForestRegressor(n_estimators=100, random_state=0)
    forest.fit(np.array([values for _, values in columns]).T, np.array(results))
    shares = dict.fromkeys(keys, 0.0)
    for (key, _), share in zip(columns, forest.feature_importances_, strict=True):
        shares[key] += float(share)
    return shares
