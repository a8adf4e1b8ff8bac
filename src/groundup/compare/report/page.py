"""The report as one HTML file with everything in it: tables, numbers, and the chart library that draws them.

No request to anywhere: the page's own security policy forbids it. Read on a screen in light and in dark, and printed. Links
are relative to the page.

Charts   plotly.js (MIT), from the Python package `plotly`: curves with hover and zoom whose series are hidden by a click on
         the legend, cost against result, parallel coordinates. 4.8 MB of the page are the library. Its button that sends a
         chart to its maker's server is taken out in page.js.
Data     the whole document as JSON in the element `data`; everything that comes from recipes and paths is escaped.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from groundup.compare.report import text

_MARK = '<meta name="generator" content="groundup report">'
# plotly.js compiles what draws its parallel coordinates from text, hence unsafe-eval; nothing but this file can be loaded.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_HERE = Path(__file__).parent
_MARKS = ("OPTIMISTIC", "INCOMPLETE")  # behind the names of rows, in brackets
_NAMED = ("setting", "what", "changed against the run before", "verdict")  # columns that hold sentences and names
_SHORT = 24  # characters of a cell that is not broken into lines


def is_page(path: Path) -> bool:
    """Whether the place is free, or holds an earlier report."""
    return text.may_be_written(path, _MARK)


def page(document: dict[str, Any], charts: str | None) -> str:
    """The page, HTML. `charts`: the chart library; None for a page of tables."""
    title = html.escape(document["title"])
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_MARK}',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}: report</title>\n<style>{style}</style>\n</head>\n<body>",
        f'<header><p class="soft">groundup {html.escape(document["groundup"])}, report</p><h1>{title}</h1></header>',
        *(_note(note) for note in document["notes"]),
        *(_board(number, board, charts is not None) for number, board in enumerate(document["boards"])),
        _history(document),
        f'<script type="application/json" id="data">{_embedded(document)}</script>',
    ]
    if charts and any(board["rows"] or board["curves"] for board in document["boards"]):
        parts += [
            f"<script>{charts}</script>",
            f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
        ]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _embedded(document: dict[str, Any]) -> str:
    """JSON that cannot end the element that it stands in."""
    return json.dumps(document, default=str).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def chart_library() -> str | None:
    """plotly.js; None where the package is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _board(number: int, board: dict[str, Any], charts: bool) -> str:
    inside = [f'<p class="soft">{html.escape(text.ranked_on(board))}</p>', *(_note(note) for note in board["notes"])]
    if board["rows"]:
        inside.append(_ranking(board))
    if board["labels"]:
        inside.append(f'<h3>{text.LABELS}</h3><p class="soft">{text.LABELS_SAID}</p>{_table(*text.labels(board))}')
    if board["in_words"]:
        said = "".join(f"<li>{html.escape(line)}</li>" for line in board["in_words"])
        inside.append(f"<h3>Which differences are real</h3><ul>{said}</ul>")
    if board["differences"]:
        inside.append(_folded(f"All {len(board['differences'])} comparisons", _table(*text.comparisons(board))))
    if board["effects"]:
        inside.append(f'<h3>Effects</h3><p class="soft">{html.escape(text.effects_said(board))}</p>')
        inside.append(_table(*text.effects(board)))
    if board["importance"]:
        inside.append(_importance(board))
    inside += _charts(number, board) if charts else []
    if board["without"]:
        inside.append(f"<h3>Runs without a result</h3>{_table(*text.without(board))}")
    return f"<section><h2>{html.escape(board['title'])}</h2>\n{''.join(inside)}\n</section>"


def _charts(number: int, board: dict[str, Any]) -> list[str]:
    found = []
    if board["parallel"]:
        found.append(
            _chart("Settings and results", "parallel", number, "Drag along an axis to keep the lines that pass there.")
        )
    if board["curves"]:
        said = "Drag to zoom, double-click to go back; a click on the legend hides a series."
        found.append(_chart("Learning curves", "curves", number, said, True))
    if sum(row["pflop"] is not None for row in board["rows"]) > 1:
        said = "On the dotted front nothing is as cheap and better. Bars: 95% over seeds."
        found.append(_chart("Cost against result", "costs", number, said))
    return found


def _ranking(board: dict[str, Any]) -> str:
    head, rows = text.ranking(board)
    cells = [[*(_cell(cell) for cell in row), _runs(entry)] for row, entry in zip(rows, board["rows"], strict=True)]
    return _grid([*head, "run, recipe, command"], cells)


def _runs(row: dict[str, Any]) -> str:
    """Links to the folder and the recipe of each run of a row, and the command that gives it again."""
    entries = "".join(
        f"<div>{_anchor(run['folder'] + '/', run['name'])} {_anchor(run['recipe'], 'recipe')}</div>"
        f"<code>{html.escape(run['command'])}</code>"
        if run["folder"]
        else f"<div>{html.escape(run['name'])} ({text.ELSEWHERE})</div>"
        for run in row["runs"]
    )
    return f"<details><summary>{len(row['runs'])} run{'s' if len(row['runs']) > 1 else ''}</summary>{entries}</details>"


def _anchor(place: str, said: str) -> str:
    # A first part with a colon would be read as a scheme, hence the dot.
    relative = place if place.startswith(("../", "./", "/")) else f"./{place}"
    return f'<a href="{html.escape(quote(relative))}">{html.escape(said)}</a>'


def _importance(board: dict[str, Any]) -> str:
    rows = [
        [_cell(key), f'<span class="bar" style="width: {12 * share:.2f}rem"></span> {share:.0%}']
        for key, share in board["importance"]["shares"].items()
    ]
    said = html.escape(text.importance_said(board))
    return f'<h3>Importance of the settings</h3><p class="soft">{said}</p>{_grid(["setting", "share"], rows)}'


def _chart(title: str, kind: str, number: int, said: str, controls: bool = False) -> str:
    above = f'<div class="controls" id="{kind}-controls-{number}"></div>' if controls else ""
    size = "chart" if controls else "chart small"
    return (
        f'<h3>{title}</h3><p class="soft">{html.escape(said)}</p>{above}'
        f'<div class="{size}" id="{kind}-{number}" role="img" aria-label="{title}"></div>'
    )


def _history(document: dict[str, Any]) -> str:
    if not document["history"]:
        return ""
    head, rows = text.diary(document)
    cells = [
        [_cell(row[0]), _anchor(entry["folder"] + "/", row[1]), *(_cell(cell) for cell in row[2:])]
        for row, entry in zip(rows, document["history"], strict=True)
    ]
    said = text.diary_said(document)
    title = "<h2>The runs in the order in which they began</h2>"
    return f'<section>{title}<p class="soft">{html.escape(said)}</p>{_grid(head, cells)}</section>'


def _note(note: str) -> str:
    return f'<p class="note">{html.escape(note)}</p>'


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{inside}</details>"


def _cell(cell: str) -> str:
    if marks := [mark for mark in _MARKS if f" ({mark})" in cell]:
        for mark in marks:
            cell = cell.replace(f" ({mark})", "")
        return " ".join([html.escape(cell), *(f'<span class="mark">{mark}</span>' for mark in marks)])
    shown = cell == "shown" or cell.endswith(" is better")
    return f'<span class="shown">{html.escape(cell)}</span>' if shown else html.escape(cell)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _grid(head, [[_cell(cell) for cell in row] for row in rows])


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    named = [title in _NAMED for title in head]
    top = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr>{''.join(_td(cell, name) for cell, name in zip(row, named, strict=True))}</tr>\n" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _td(cell: str, name: bool) -> str:
    kind = ' class="name"' if name else ' class="short"' if len(cell) <= _SHORT else ""
    return f"<td{kind}>{cell}</td>"
