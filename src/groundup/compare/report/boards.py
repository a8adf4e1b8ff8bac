"""Tables of results: groups of runs that differ in their seed alone, those beside each other that were measured on the same images.

Board    groups that may be compared. Runs on different test images, and values measured on different splits, are on different
         boards; every sweep has its own. A board ranks on one metric of one split: a sweep's own metric; of other runs the
         accuracy on validation where every run of the board has one, else the one on test, and then says what that means.
Images   of runs made by hand: the decoded images and the settings of the split are the same. Of a sweep's runs: the sweep file
         gives them the same source and split, so a sweep may vary `data.resolution`; unless runs that decode alike found others.
Beside   the accuracy on test stands in a column of its own and ranks nothing on a board of validation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from groundup.compare.report.collect import Collection, Run, Sweep
from groundup.compare.report.effects import short_text, varied
from groundup.compare.report.statistics import Spread, spread

SELECTED_ON_TEST = (
    "Ranked on the test split, because there is no validation split that all runs share: whoever picks the first row because it "
    "is first has used the test split to choose, and its accuracy is too high by that."
)


_SPLIT = ("data.validation", "data.split_seed", "data.limit")  # which images are on validation
_SOURCE = ("data.source", "data.image", "data.label")


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, or of one configuration of a sweep, one for each seed that finished. `settings`: where it differs from
    others on its board; a key that is not active there is left out.

    place: in the order in which the groups came, before they were ranked; missing: planned seeds of the sweep that have no result,
    with their state.
    """

    label: str
    settings: Mapping[str, Any]
    runs: Sequence[Run]
    results: Mapping[int, float]
    place: int = 0
    missing: Mapping[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every planned seed has a result. The mean of those that are left is too good where the others have failed."""
        return not self.missing

    @property
    def spread(self) -> Spread:
        return spread(list(self.results.values()))

    @property
    def optimistic(self) -> bool:
        """Whether a result in it was chosen with the test split in sight."""
        return any(run.optimistic or run.looks_at_test for run in self.runs)

    @property
    def tested(self) -> list[float]:
        """The accuracy on test of each seed; nothing where some are not known here."""
        found = list({run.seed: run.summary["top1"] for run in self.runs if run.summary}.values())
        return found if len(found) == len(self.results) else []

    def mean_of(self, values: Sequence[float | None]) -> float | None:
        """The mean where every run has a value."""
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(self.runs) else None


@dataclass(frozen=True)
class Board:
    """Groups on one metric of one split, best first, and the runs that have no result. `kind`: sweep or runs; `labels`: of a sweep
    file, see `Sweep`."""

    title: str
    kind: str
    metric: str
    split: str
    mode: str
    groups: Sequence[Group]
    without: Sequence[Run]
    notes: Sequence[str] = ()
    labels: Sequence[tuple[str, Mapping[str, Any]]] = ()

    @property
    def is_share(self) -> bool:
        """Whether the metric is a fraction that is shown in percent."""
        return self.metric.endswith(("top1", "top5", "accuracy"))


def boards(collection: Collection) -> list[Board]:
    """All boards of what was collected: the sweeps, then the other runs."""
    found = [board for sweep in collection.sweeps for board in _of_sweep(sweep)]
    by_images: dict[tuple[Any, ...], list[Run]] = {}
    for run in collection.runs:
        if run.finished:
            by_images.setdefault(run.test_images, []).append(run)
    loose = list(by_images.values())
    for number, runs in enumerate(loose, start=1):
        title = "Runs" if len(loose) == 1 else f"Runs on test data {number} of {len(loose)}: {_data(runs[0])}"
        found.append(_of_runs(title, runs, several=len(loose) > 1))
    return found


def split_of(metric: str, run: Run) -> str:
    """The split that a metric of a run is measured on. What an optimistic recipe calls validation is the test split."""
    plain = metric.removeprefix("average_")
    if plain.startswith("train"):
        return "train"
    return "validation" if plain.startswith("validation") and not run.looks_at_test else "test"


def _of_sweep(sweep: Sweep) -> list[Board]:
    known = [run for run in sweep.runs if _has_value(run)]
    without = [run for run in sweep.runs if not _has_value(run)]
    parts: dict[tuple[Any, ...], list[Run]] = {}
    for run, images in zip(known, _images(known), strict=True):
        parts.setdefault((split_of(sweep.metric, run), *images), []).append(run)
    if not parts:
        return [Board(f"Sweep {sweep.name}", "sweep", sweep.metric, "validation", sweep.mode, [], without)]
    found = []
    for number, ((split, *_), runs) in enumerate(parts.items(), start=1):
        title = f"Sweep {sweep.name}" + (f", data {number} of {len(parts)}" if len(parts) > 1 else "")
        notes = [_apart(len(parts))] if len(parts) > 1 else []
        if elsewhere := sum(run.is_elsewhere for run in runs):
            notes.append(
                f"{elsewhere} of {len(runs)} runs have no folder here: their results are those that the sweep noted; their "
                "curves and test results are missing."
            )
        groups = _groups(runs, {id(run): run.value for run in runs}, sweep.runs)
        ranked, others = _ranked(groups, sweep.mode), without if number == 1 else []
        found.append(Board(title, "sweep", sweep.metric, split, sweep.mode, ranked, others, notes, sweep.labels))
    return found


def _has_value(run: Run) -> bool:
    return run.state == "finished" and run.value is not None


def _images(runs: Sequence[Run]) -> list[tuple[Any, ...]]:
    """What says which images the runs of one sweep were measured on. The fingerprint is of decoded pixels, so it is compared among
    runs that decode alike, and counts where it differs there: then machines had different data."""
    found: dict[str, set[str]] = {}
    for run in runs:
        decoding = [
            f"{key}={value}" for key, value in run.plan.items() if key.startswith("data.") and key not in _SPLIT
        ]
        if run.fingerprint is not None:
            found.setdefault(", ".join(decoding), set()).add(run.fingerprint)
    differ = any(len(each) > 1 for each in found.values())
    return [(*(run.plan.get(key) for key in (*_SPLIT, *_SOURCE)), run.fingerprint if differ else None) for run in runs]


def _of_runs(title: str, runs: Sequence[Run], several: bool) -> Board:
    notes = [_apart(0)] if several else []
    same = len({run.validation_images for run in runs}) == 1
    if same and all(run.validation_top1 is not None for run in runs):
        groups = _groups(runs, {id(run): run.validation_top1 for run in runs})
        return Board(title, "runs", "validation_top1", "validation", "max", _ranked(groups, "max"), [], notes)
    groups = _groups(runs, {id(run): (run.summary or {}).get("top1") for run in runs})
    if len(groups) > 1:
        notes.append(SELECTED_ON_TEST)
    return Board(title, "runs", "top1", "test", "max", _ranked(groups, "max"), [], notes)


def _groups(
    runs: Sequence[Run], values: Mapping[int, float | None], planned: Sequence[Run] | None = None
) -> list[Group]:
    """Runs put together where all but the seed is equal. Two runs of one seed: the later one counts, both are listed.

    planned: every run of a sweep, which says itself what is one configuration; None for runs that belong to none.
    """
    together: dict[str, list[Run]] = {}
    for run in runs:
        own = ((run.summary or {}).get("own")) or {}
        same = [run.settings, own] if planned is None else run.overrides
        together.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(run)
    members = list(together.values())
    settings = [group[0].settings if planned is None else group[0].overrides for group in members]
    keys = varied(settings)
    found = []
    for place, (group, given) in enumerate(zip(members, settings, strict=True)):
        differs = {key: given[key] for key in keys if key in given}
        named = ", ".join(f"{key}={short_text(value)}" for key, value in differs.items())
        label = named if planned is not None and named else _name(group, members)
        results = {int(run.seed or 0): value for run in group if (value := values[id(run)]) is not None}
        found.append(Group(label, differs, group, results, place, _missing(group, results, planned or ())))
    return [group for group in _distinct(found) if group.results]


def _missing(group: Sequence[Run], results: Mapping[int, float], planned: Sequence[Run]) -> dict[int, str]:
    """The seeds of the group's configuration without a result, with their state."""
    points = [run.overrides for run in group]
    others = {int(run.seed or 0): run.state for run in planned if run.overrides in points}
    return {seed: state for seed, state in others.items() if seed not in results}


def _name(group: Sequence[Run], all_groups: Sequence[Sequence[Run]]) -> str:
    """The recipe's name where it names one group only, else the folder of the first run too."""
    name = str(group[0].recipe.get("name", group[0].name))
    alike = sum(str(other[0].recipe.get("name", other[0].name)) == name for other in all_groups)
    return name if alike == 1 else f"{name} ({group[0].name})"


def _distinct(groups: Sequence[Group]) -> list[Group]:
    """The same groups with a number behind labels that came twice."""
    seen: dict[str, int] = {}
    found = []
    for group in groups:
        seen[group.label] = seen.get(group.label, 0) + 1
        label = group.label if seen[group.label] == 1 else f"{group.label} #{seen[group.label]}"
        found.append(replace(group, label=label))
    return found


def _ranked(groups: Sequence[Group], mode: str) -> list[Group]:
    """The best first; after all of them those whose mean lacks seeds."""
    best_first = sorted(groups, key=lambda group: group.spread.mean, reverse=mode == "max")
    return sorted(best_first, key=lambda group: not group.complete)


def _data(run: Run) -> str:
    own = ((run.summary or {}).get("own") or {}).get("data")
    images = (run.summary or {}).get("images", 0)
    return f"{own or (run.recipe.get('data') or {}).get('source', 'unknown')}, {images:,} images"


def _apart(parts: int) -> str:
    return "Runs on different data are in tables of their own: their numbers are not comparable." + (
        f" This sweep has {parts}." if parts else ""
    )
