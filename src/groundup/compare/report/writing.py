"""The report on runs and sweeps as one document of plain values: what the page, the Markdown table and `--json` show.

Accuracies and their differences are fractions, costs PFLOP and seconds of training. Paths are relative to the folder of the page.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.files import write_text
from groundup.compare.report.boards import Board, Group, boards, split_of
from groundup.compare.report.collect import Collection, Run, collect
from groundup.compare.report.effects import Effect, Factors, find_factors, grid_effects, importance, varied
from groundup.compare.report.history import history
from groundup.compare.report.page import chart_library, is_page, page
from groundup.compare.report.statistics import Difference, differences, pareto_front, spread
from groundup.compare.report.text import is_markdown, markdown
from groundup.version import __version__

FORMAT_VERSION = 1
_FEWEST_PARALLEL = 5  # groups below which parallel coordinates say less than the table
_MOST_SAID = 12  # differences that are told one by one
_CURVES = ("_top1", "_top5", "_loss")
_CLOCKS = ("step", "epoch", "pflop", "seconds")

Document = dict[str, Any]


def write_report(paths: Sequence[Path], out: Path) -> tuple[Document, Path, Path]:
    """Report on what lies under `paths`: the document, the page and the Markdown file, beside each other.

    A file that is no earlier report is never overwritten: both get a number. Without the chart library the page has tables only,
    and a note of the document says so.
    """
    _check_place(out)
    document = report(paths, out.parent)
    place, number = out, 1
    while not (is_page(place) and is_markdown(place.with_suffix(".md"))):
        number += 1
        place = out.with_stem(f"{out.stem}-{number}")
    charts = chart_library()
    if charts is None:
        document["notes"].append(
            "The page has no charts: they need the package plotly (pip install 'groundup[report]')."
        )
    content = page(document, charts)
    write_text(place, content)
    write_text(place.with_suffix(".md"), markdown(document))
    return document, place, place.with_suffix(".md")


def _check_place(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the page is HTML; allowed: a name that ends in .html")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}", hint="make it first, or leave --out out")


def report(paths: Sequence[Path], base: Path) -> Document:
    """The document. `base`: the folder that links start from."""
    collection = collect(paths)
    found = [_board(board, base) for board in boards(collection)]
    return {
        "format": FORMAT_VERSION,
        "groundup": __version__,
        "title": ", ".join(dict.fromkeys(path.resolve().name for path in paths)),
        "boards": found,
        "history": [{**row, "folder": _link(Path(row["folder"]), base)} for row in history(collection.runs)],
        "notes": [*collection.notes, *_optimistic(collection)],
    }


def _optimistic(collection: Collection) -> list[str]:
    every = [*collection.runs, *(run for sweep in collection.sweeps for run in sweep.runs)]
    count = sum(run.optimistic or run.looks_at_test for run in every)
    if not count:
        return []
    return [
        f"{count} of {len(every)} runs are optimistic: the test split was used to choose, "
        "so new images will be classified less well."
    ]


def _board(board: Board, base: Path) -> Document:
    whole = [group for group in sorted(board.groups, key=lambda group: group.place) if group.complete]
    pairs = differences({group.label: group.results for group in board.groups if group.complete})
    settings = [group.settings for group in whole]
    planned = _planned(board)
    factors = _grid(settings) if board.kind == "sweep" else None
    searched = board.kind == "sweep" and factors is None and _grid(planned) is None
    weighed = importance(settings, [group.spread.mean for group in whole]) if searched else None
    missing = len(planned) - len(whole) if _grid(planned) else 0
    return {
        "title": board.title,
        "kind": board.kind,
        "metric": board.metric,
        "split": board.split,
        "mode": board.mode,
        "share": board.is_share,
        "notes": list(board.notes),
        "rows": _rows(board, base),
        "differences": [_pair(pair, board.mode) for pair in pairs],
        "labels": [{"where": where, "sets": dict(keys)} for where, keys in board.labels],
        "in_words": [*_in_words(board, pairs), *_no_effects(missing, len(planned), factors)],
        "effects": {
            "settings": factors.levels,
            "follows": _follows(whole, factors),
            "missing": missing,
            "found": [
                _effect(effect)
                for effect in grid_effects([(group.settings, group.results) for group in whole], factors)
            ],
        }
        if factors
        else None,
        "importance": vars(weighed) if weighed else None,
        "parallel": searched and len(whole) >= _FEWEST_PARALLEL,
        "curves": _curves(board),
        "without": [
            {"name": run.name, "seed": run.seed, "state": run.state, "reason": run.reason} for run in board.without
        ],
    }


def _planned(board: Board) -> list[Mapping[str, Any]]:
    """The configurations of a sweep, with or without a result."""
    runs = [*(group.runs[0] for group in board.groups), *board.without]
    return list({json.dumps(run.overrides, sort_keys=True, default=str): run.overrides for run in runs}.values())


def _grid(settings: Sequence[Mapping[str, Any]]) -> Factors | None:
    """The full grid that these configurations are, of two settings at least."""
    factors = find_factors(settings) if len(settings) >= 4 else None
    return factors if factors and len(factors.levels) >= 2 else None


def _follows(groups: Sequence[Group], factors: Factors) -> list[str]:
    """What is given by the settings of the grid: other settings, and the recipe keys that labels and rules stand for."""
    axes = {key for group in groups for key in group.runs[0].overrides}
    return [*factors.follows, *(key for key in varied([group.runs[0].plan for group in groups]) if key not in axes)]


def _no_effects(missing: int, planned: int, factors: Factors | None) -> list[str]:
    if not missing or factors:
        return []
    return [
        f"No effects of the settings are shown: {missing} of the grid's {planned} combinations lack seeds, and effects compare "
        "complete grids."
    ]


def _rows(board: Board, base: Path) -> list[Document]:
    rows = [_row(rank, group, board, base) for rank, group in enumerate(board.groups, start=1)]
    with_cost = [row for row in rows if row["pflop"] is not None and row["complete"]]
    front = pareto_front([row["pflop"] for row in with_cost], [row["mean"] for row in with_cost], board.mode)
    for place, row in enumerate(with_cost):
        row["front"] = place in front and len(with_cost) > 1
    return rows


def _row(rank: int, group: Group, board: Board, base: Path) -> Document:
    own = group.spread
    beside = spread(group.tested) if board.split == "validation" and group.tested else None
    alone = group.runs[0].summary if len(group.runs) == 1 and board.metric == "top1" else None
    return {
        "rank": rank,
        "label": group.label,
        "settings": dict(group.settings),
        "mean": own.mean,
        "sd": own.sd,
        "interval": _listed(own.interval, board.is_share),
        "image_interval": alone["top1_interval"] if alone else None,
        "results": {str(seed): value for seed, value in group.results.items()},
        "seeds": own.count,
        "complete": group.complete,
        "missing": {str(seed): state for seed, state in group.missing.items()},
        "optimistic": group.optimistic,
        "test": {"mean": beside.mean, "sd": beside.sd, "interval": _listed(beside.interval, True)} if beside else None,
        "pflop": group.mean_of([run.pflop for run in group.runs]),
        "seconds": group.mean_of([run.seconds for run in group.runs]),
        "front": False,
        "calibration": _measured(
            [(run.fact("calibration").get("as_trained") or {}) for run in group.runs], "ece_equal_mass"
        ),
        "corruptions": _measured([run.fact("corruptions") for run in group.runs], "mean"),
        "runs": [_linked(run, base) for run in group.runs],
    }


def _listed(interval: tuple[float, float] | None, share: bool) -> list[float] | None:
    """An interval; of an accuracy within [0, 1]."""
    if interval is None:
        return None
    return [max(0.0, interval[0]), min(1.0, interval[1])] if share else list(interval)


def _measured(facts: Sequence[Document], key: str) -> Document | None:
    """The mean of what evaluations of the runs found, and of how many of them."""
    known = [fact[key] for fact in facts if isinstance(fact.get(key), int | float)]
    return {"mean": fmean(known), "runs": len(known), "of": len(facts)} if known else None


def _linked(run: Run, base: Path) -> Document:
    if run.is_elsewhere:
        return {"name": run.name, "seed": run.seed, "folder": None, "recipe": None, "command": None}
    folder = _link(run.folder, base)
    recipe = f"{folder}/recipe.yaml"
    return {
        "name": run.name,
        "seed": run.seed,
        "folder": folder,
        "recipe": recipe,
        "command": f"groundup train {shlex.quote(recipe)}",
    }


def _link(folder: Path, base: Path) -> str:
    return Path(os.path.relpath(folder, base)).as_posix()


def _pair(pair: Difference, mode: str) -> Document:
    better = pair.names[0] if (pair.difference > 0) == (mode == "max") else pair.names[1]
    return {
        "names": list(pair.names),
        "difference": pair.difference,
        "interval": list(pair.interval) if pair.interval else None,
        "p": pair.p,
        "adjusted": pair.adjusted,
        "seeds": list(pair.seeds),
        "method": pair.method,
        "shown": pair.shown,
        "better": better if pair.shown else None,
    }


def _effect(effect: Effect) -> Document:
    return {
        "settings": list(effect.settings),
        "what": effect.what,
        "effect": effect.effect,
        "interval": list(effect.interval) if effect.interval else None,
        "p": effect.p,
        "adjusted": effect.adjusted,
        "shown": effect.shown,
    }


def _in_words(board: Board, pairs: Sequence[Difference]) -> list[str]:
    """Which differences are real, in sentences."""
    said = []
    if lacking := sum(not group.complete for group in board.groups):
        said.append(
            f"{lacking} of {len(board.groups)} rows lack seeds (INCOMPLETE): they stand after the others without a rank, and are "
            "compared with none, because the seeds that are left are not a fair choice."
        )
    if len(board.groups) < 2:
        return said
    single = sum(group.spread.count < 2 for group in board.groups)
    if single:
        said.append(
            f"{single} of {len(board.groups)} rows have one seed: no interval over seeds, and no comparison as recipes. "
            "Which of them is better, another seed may turn round."
        )
    if not pairs:
        return said
    real = [pair for pair in pairs if pair.shown]
    for pair in real[:_MOST_SAID]:
        first = (pair.difference > 0) == (board.mode == "max")
        winner, loser = pair.names if first else pair.names[::-1]
        said.append(f"{winner} is better than {loser} by {_size(pair, board)}.")
    if len(real) > _MOST_SAID:
        said.append(f"{len(real) - _MOST_SAID} further differences are shown, in the table of all comparisons.")
    flat = sum(pair.p is None for pair in pairs)
    open_ = len(pairs) - len(real) - flat
    if open_:
        said.append(
            f"No difference is shown in {open_} of {_count(len(pairs))}: "
            "the seeds differ too much, or are too few, to tell."
        )
    if flat:
        said.append(f"{_count(flat)} cannot be judged: the difference is the same with every seed.")
    said.append(
        f"Judged over the choice of seeds at about 5% for {_count(len(pairs))} together (Holm); intervals are 95% each. "
        f"{_methods(pairs)} What other images would do is not in it."
    )
    return said


def _count(comparisons: int) -> str:
    return f"{comparisons} comparison{'s' if comparisons != 1 else ''}"


def _methods(pairs: Sequence[Difference]) -> str:
    known = {
        "same seeds, spread of all groups": "seed by seed, with one estimate of the spread from all rows",
        "same seeds, spread of both groups": "seed by seed, with each row's own spread (rows vary unequally, or have two seeds)",
        "same seeds": "seed by seed, each pair with its own spread",
        "other seeds": "with unequal spread, where fewer than two seeds are shared",
    }
    used = [said for method, said in known.items() if any(pair.method == method for pair in pairs)]
    return f"Compared {'; '.join(used)}." if used else ""


def _size(pair: Difference, board: Board) -> str:
    assert pair.interval is not None
    low, high = sorted(abs(bound) if bound * pair.difference > 0 else -abs(bound) for bound in pair.interval)
    p = "p < 0.0001" if pair.adjusted is not None and pair.adjusted < 1e-4 else f"p = {pair.adjusted:.2g}"
    if board.is_share:
        return f"{100 * abs(pair.difference):.2f} points ({100 * low:.2f} to {100 * high:.2f}; {p})"
    return f"{abs(pair.difference):.4g} ({low:.4g} to {high:.4g}; {p})"


def _curves(board: Board) -> list[Document]:
    """Every run's lines of metrics.jsonl that are accuracies or losses, by the clocks; what was measured on test is called so."""
    found = []
    for number, group in enumerate(board.groups):
        for run in group.runs:
            found.append(_curve(run, number, f"{group.label}, seed {run.seed}"))
    for run in board.without:
        found.append(_curve(run, None, f"{run.name} ({run.state})"))
    return [curve for curve in found if curve["values"]]


def _curve(run: Run, number: int | None, label: str) -> Document:
    keys = dict.fromkeys(key for line in run.metrics for key in line if key.endswith(_CURVES))
    values = {}
    for key in keys:
        name = key.replace("validation", "test") if split_of(key, run) == "test" else key
        values[name] = [line.get(key) for line in run.metrics]
    clocks = {clock: [line.get(clock) for line in run.metrics] for clock in _CLOCKS}
    return {"label": label, "group": number, "run": run.name, "seed": run.seed, "clocks": clocks, "values": values}
