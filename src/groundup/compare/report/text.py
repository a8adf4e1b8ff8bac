"""The report in Markdown, and the words and numbers that the page shares with it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.compare.report.effects import short_text

_MARK = "<!-- groundup report -->"
_MOST_LINES = 10
ELSEWHERE = "no folder here"
LABELS = "What the names of the rows stand for"
LABELS_SAID = "Recipe keys that the sweep file sets for them; of the same key the later line counts."
_MOST_CHANGES = 12  # changed keys that one row of the diary names


def is_markdown(path: Path) -> bool:
    """Whether the place is free, or holds an earlier report."""
    return may_be_written(path, _MARK)


def may_be_written(path: Path, mark: str) -> bool:
    """Whether nothing lies at `path`, or a file with `mark` near its start."""
    try:
        with open(path, encoding="utf-8") as stream:
            return mark in stream.read(2000)
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError):
        return False


def markdown(document: dict[str, Any]) -> str:
    """The whole report but its charts."""
    parts = [_MARK, f"# {_plain(document['title'])}: report", f"groundup {document['groundup']}"]
    parts += [f"> {_plain(note)}" for note in document["notes"]]
    for board in document["boards"]:
        parts.append(f"## {_plain(board['title'])}")
        parts.append(ranked_on(board))
        parts += [f"> {_plain(note)}" for note in board["notes"]]
        if board["rows"]:
            head, rows = ranking(board)
            links = [_links(entry) for entry in board["rows"]]
            parts.append(_table([*head, "runs"], rows, links))
        if board["labels"]:
            parts += [f"### {LABELS}", LABELS_SAID, _table(*labels(board))]
        parts += ["\n".join(f"- {_plain(said)}" for said in board["in_words"])] if board["in_words"] else []
        if board["differences"]:
            parts += ["### All comparisons", _table(*comparisons(board))]
        if board["effects"]:
            parts += ["### Effects", effects_said(board), _table(*effects(board))]
        if board["importance"]:
            parts += ["### Importance of the settings", importance_said(board), _table(*importances(board))]
        if board["without"]:
            parts += ["### Runs without a result", _table(*without(board))]
    if document["history"]:
        parts += ["## Runs in the order in which they began", diary_said(document), _table(*diary(document))]
    return "\n\n".join(parts) + "\n"


def summary_lines(document: dict[str, Any]) -> list[str]:
    """The report in a few lines for the terminal."""
    lines = list(document["notes"])
    for board in document["boards"]:
        lines.append(f"{board['title']}: {ranked_on(board)}")
        for row in board["rows"][:_MOST_LINES]:
            interval = _seeds_interval(board, row)
            lines.append(
                f"  {_rank(row):>3}. {value(board, row['mean']):>8}  ({interval})  {row['label']}{_marks(row)}"
            )
        if len(board["rows"]) > _MOST_LINES:
            lines.append(f"  and {len(board['rows']) - _MOST_LINES} more")
        lines += [f"  {said}" for said in board["in_words"]]
    return lines


def ranked_on(board: dict[str, Any]) -> str:
    """What the order of the rows means."""
    order = "largest" if board["mode"] == "max" else "smallest"
    return f"Ranked by {board['metric']} on {board['split']}, {order} first; mean over seeds."


def value(board: dict[str, Any], number: float | None, digits: int = 2) -> str:
    """A value of the board's metric: fractions in percent."""
    if number is None:
        return "-"
    return f"{number:.{digits}%}" if board["share"] else f"{number:.4g}"


def difference(board: dict[str, Any], number: float) -> str:
    """A difference of the metric: of fractions in points."""
    return f"{100 * number:+.2f} points" if board["share"] else f"{number:+.4g}"


def between(board: dict[str, Any], interval: Sequence[float] | None, signed: bool = False) -> str:
    """An interval in the form of its value."""
    if interval is None:
        return "none"
    if not signed:
        return f"{value(board, interval[0])} to {value(board, interval[1])}"
    return f"{difference(board, interval[0]).removesuffix(' points')} to {difference(board, interval[1]).removesuffix(' points')}"


def ranking(board: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of the ranked table, without links."""
    rows = board["rows"]
    measured = f"{board['split']} {board['metric'].removeprefix('average_').removeprefix(board['split'] + '_')}"
    head = [
        "rank",
        "setting",
        f"{measured}, mean",
        "sd, points" if board["share"] else "sd",
        "95% interval over seeds",
        "seeds",
    ]
    tested = any(row["test"] for row in rows)
    calibrated, corrupted = (any(row[key] for row in rows) for key in ("calibration", "corruptions"))
    head += ["test top1, mean", "95% interval over seeds (test)"] if tested else []
    head += ["ECE (test)"] if calibrated else []
    head += ["mean corruption accuracy (test)"] if corrupted else []
    head += ["PFLOP", "time"]
    return head, [_ranked(board, row, tested, calibrated, corrupted) for row in rows]


def _ranked(board: dict[str, Any], row: dict[str, Any], tested: bool, calibrated: bool, corrupted: bool) -> list[str]:
    share = {"share": True}
    cells = [
        _rank(row),
        row["label"] + _marks(row),
        value(board, row["mean"]),
        "-" if row["sd"] is None else difference(board, row["sd"]).removesuffix(" points").removeprefix("+"),
        _seeds_interval(board, row),
        ", ".join(row["results"]) + _lacking(row),
    ]
    if tested:
        test = row["test"] or {"mean": None, "interval": None}
        cells += [
            value(share, test["mean"]),
            between(share, test["interval"]) if test["interval"] else "one seed: none",
        ]
    if calibrated:
        cells.append(_of_runs(row["calibration"]))
    if corrupted:
        cells.append(_of_runs(row["corruptions"]))
    cost = "-" if row["pflop"] is None else f"{row['pflop']:.3g}" + (" (front)" if row["front"] else "")
    return [*cells, cost, duration(row["seconds"])]


def _rank(row: dict[str, Any]) -> str:
    """No rank where seeds are missing: the first of such rows is not the best."""
    return str(row["rank"]) if row["complete"] else "-"


def _marks(row: dict[str, Any]) -> str:
    return (" (OPTIMISTIC)" if row["optimistic"] else "") + ("" if row["complete"] else " (INCOMPLETE)")


def _lacking(row: dict[str, Any]) -> str:
    said = ", ".join(f"{seed} {state}" for seed, state in row["missing"].items())
    return f" (not {said})" if said else ""


def _seeds_interval(board: dict[str, Any], row: dict[str, Any]) -> str:
    if row["interval"]:
        return between(board, row["interval"])
    if row["seeds"] > 1:
        return "all seeds agree: none"
    images = f"; over test images {between(board, row['image_interval'])}" if row["image_interval"] else ""
    return f"one seed: none{images}"


def _of_runs(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "-"
    some = "" if measured["runs"] == measured["of"] else f" ({measured['runs']} of {measured['of']} runs)"
    return f"{measured['mean']:.2%}{some}"


def duration(seconds: float | None) -> str:
    """A time of training."""
    if seconds is None:
        return "-"
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def comparisons(board: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Every pair with its difference."""
    rows = [
        [
            *pair["names"],
            difference(board, pair["difference"]),
            between(board, pair["interval"], signed=True),
            _p(pair["p"]),
            _p(pair["adjusted"]),
            f"{pair['better']} is better"
            if pair["shown"]
            else "not judged"
            if pair["p"] is None
            else "no difference shown",
        ]
        for pair in board["differences"]
    ]
    return ["A", "B", "A - B", "95% interval", "p", "p, corrected", "verdict"], rows


def _p(p: float | None) -> str:
    return "-" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def effects(board: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Main effects and interactions."""
    rows = [
        [
            "interaction" if len(effect["settings"]) > 1 else "effect",
            effect["what"],
            difference(board, effect["effect"]),
            between(board, effect["interval"], signed=True),
            _p(effect["adjusted"]),
            "shown" if effect["shown"] else "not judged" if effect["p"] is None else "not shown",
        ]
        for effect in board["effects"]["found"]
    ]
    return ["", "what", f"change of {board['metric']}", "95% interval", "p, corrected", "verdict"], rows


def effects_said(board: dict[str, Any]) -> str:
    """What the effects are of."""
    found = board["effects"]
    follows = (
        f" {', '.join(found['follows'])} follow from these and are part of their effects." if found["follows"] else ""
    )
    missing = f" Without {found['missing']} combinations that lack seeds." if found["missing"] else ""
    alone = "" if any(row["seeds"] > 1 for row in board["rows"]) else " One seed each: no intervals."
    said = f"A full grid of {', '.join(found['settings'])}; each effect is a mean over all values of the others."
    return said + missing + follows + alone


def labels(board: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The recipe keys that labels and rules of a sweep file stand for."""
    rows = [
        [entry["where"], ", ".join(f"{key}={short_text(value)}" for key, value in entry["sets"].items())]
        for entry in board["labels"]
    ]
    return ["setting", "what"], rows


def importances(board: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The share of each setting."""
    return ["setting", "share"], [[key, f"{share:.0%}"] for key, share in board["importance"]["shares"].items()]


def importance_said(board: dict[str, Any]) -> str:
    """How importance was found."""
    return (
        f"Share of the variance of {board['metric']}: {board['importance']['method']}. {board['importance']['remark']}"
    )


def without(board: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Runs that have no result, and why."""
    rows = [[entry["name"], str(entry["seed"]), entry["state"], entry["reason"] or "-"] for entry in board["without"]]
    return ["run", "seed", "state", "reason"], rows


def diary(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The runs in time order."""
    share = {"share": True}
    rows = []
    for entry in document["history"]:
        mark = " (OPTIMISTIC)" if entry["optimistic"] else ""
        result = (
            "-"
            if entry["top1"] is None
            else f"{value(share, entry['top1'])} ({between(share, entry['interval'])}){mark}"
        )
        began = time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry["began"]))
        rows.append([began, entry["run"], _changed(entry["changes"]), result, entry["verdict"]])
    return [
        "began (UTC)",
        "run",
        "changed against the run before",
        "test top1 (95% interval over images)",
        "verdict",
    ], rows


def diary_said(document: dict[str, Any]) -> str:
    """What the verdicts are about, and how far to trust them."""
    said = (
        "Each verdict compares two trained networks, one seed each, over the choice of images: another seed may turn it round. The "
        "intervals take the two runs as measured on different images; those of groundup evaluate A B are narrower."
    )
    judged = [entry["judged_on"] for entry in document["history"] if entry["difference"] is not None]
    if "test" in judged:
        said += (
            f" {judged.count('test')} of {len(judged)} verdicts are on the test split, because the two have no validation split "
            "in common: whoever goes on from the better run has used the test split to choose; its accuracy is too high by that."
        )
    if len(judged) >= 5:
        said += f" Of {len(judged)} verdicts, one in twenty is shown at 95% where there is no difference."
    return said


def _changed(changes: list[dict[str, Any]] | None) -> str:
    if changes is None:
        return "the first run"
    if not changes:
        return "nothing"
    said = [f"{change['key']}: {change['before']} -> {change['now']}" for change in changes[:_MOST_CHANGES]]
    more = [f"and {len(changes) - _MOST_CHANGES} more keys"] if len(changes) > _MOST_CHANGES else []
    return "; ".join([*said, *more])


def _links(row: dict[str, Any]) -> str:
    return ", ".join(
        f"[{_cell(run['name'])}](<{run['folder']}>) ([recipe](<{run['recipe']}>))"
        if run["folder"]
        else f"{_cell(run['name'])} ({ELSEWHERE})"
        for run in row["runs"]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], last: Sequence[str] = ()) -> str:
    """A Markdown table. `last`: a last column of links, one cell per row, written as it is."""
    cells = [[_cell(cell) for cell in row] + ([last[place]] if last else []) for place, row in enumerate(rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in ([*head], ["---"] * len(head), *cells))


def _cell(cell: str) -> str:
    return _plain(cell).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split())
