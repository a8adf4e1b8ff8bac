"""evaluation.html: what was measured about a run, one file with everything in it, pictures as data URIs. No script, no request.

Read on a phone and on a desktop, in light and in dark. Everything that comes from data or recipe is escaped. The same
sections as plain text, aligned, are what the terminal shows.
"""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundup.basis.files import write_text
from groundup.recipe import Recipe
from groundup.runs.evaluation_file import Sections
from groundup.runs.folder import RunFolder
from groundup.runs.reports import SECTIONS, Shown, Table
from groundup.version import __version__

NAME = "evaluation.html"

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f4f5f7; --text: #1d2126; --soft: #5c6570; --line: #dcdfe4;
  --warning: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --card: #1f242a; --text: #e6e9ed; --soft: #a3acb7; --line: #363d46;
  --warning: #ffc069; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .warning { color: var(--warning); font-weight: 700; }
.wide { overflow-x: auto; margin: .6rem 0; } .wide img { max-width: none; }
img { max-width: 100%; height: auto; border-radius: .4rem; background: #ffffff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: .25rem 0 .25rem 1.2rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; font-weight: 400; }
thead th { color: var(--soft); } tr > :first-child { text-align: left; padding-left: 0; }
summary { cursor: pointer; padding: .3rem 0; }
"""


def write_page(folder: RunFolder, recipe: Recipe, sections: Sections) -> Path:
    """Write the page into the run folder, whole or not at all."""
    place = folder.path / NAME
    write_text(place, page(folder, recipe, sections))
    return place


def page(folder: RunFolder, recipe: Recipe, sections: Sections) -> str:
    """The page, HTML."""
    name = html.escape(recipe.name)
    summary = folder.summary() or {}
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: evaluation</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f'<header><p class="soft">groundup {__version__}, evaluation of a run</p><h1>{name}</h1><p>{html.escape(recipe.about)}</p>',
        *_head(summary, recipe),
        "</header>",
    ]
    for title, view, shown in shown_sections(sections):
        parts.append(f"<section>{_view(title, view)}{_inside(shown, folder.path)}</section>")
    parts.append(
        '<footer><p class="soft">Intervals are at 95% and speak of the choice of images, not of the choice of the seed, '
        "unless they say so.</p></footer>\n</body>\n</html>\n"
    )
    return "\n".join(parts)


def shown_sections(sections: Sections) -> Iterator[tuple[str, str, Shown]]:
    """(title, view, what to show) in the order of the page; the view is part of the heading."""
    for key, section in SECTIONS.items():
        for view, facts in sections.get(key, {}).items():
            yield section.title, view, section.show(facts)


def require_showable(key: str, view: str, facts: dict[str, Any]) -> None:
    """Raises what the terminal, the page and the file would raise on these facts, which may come from strangers: any of
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError."""
    text({key: {view: facts}})
    shown = SECTIONS[key].show(facts)
    _inside(replace(shown, pictures=[], wide=[]), Path())
    "".join([*shown.pictures, *shown.wide])  # lists of names
    json.dumps(facts, allow_nan=False)


def text(sections: Sections) -> list[str]:
    """The same for the terminal: headings, sentences, aligned tables without what the page folds away."""
    lines: list[str] = []
    for title, view, shown in shown_sections(sections):
        lines += ["", f"{title} ({view})", *(f"  {line}" for line in shown.lines)]
        for table in shown.tables:
            if not table.folded:
                lines += [f"  {line}" for line in _aligned(table)]
    return lines[1:]


def _aligned(table: Table) -> list[str]:
    rows = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _head(summary: dict[str, Any], recipe: Recipe) -> list[str]:
    if not summary:
        return [f'<p class="soft">The run is not finished; seed {recipe.seed}.</p>']
    hardware = summary.get("hardware", summary["device"])
    facts = f"seed {recipe.seed}; {summary['epochs']:g} epochs on {hardware}; selected on {summary['selected_on']}"
    parts = [f'<p class="soft">{html.escape(facts)}</p>']
    if summary["optimistic"]:
        parts.append(
            '<p class="warning">Optimistic: the test split was used to choose; new images will be classified less well.</p>'
        )
    return parts


def _view(title: str, view: str) -> str:
    return f'<h2>{html.escape(title)} <span class="soft">{html.escape(view)}</span></h2>\n'


def _inside(shown: Shown, folder: Path) -> str:
    lines = "".join(f"<p>{html.escape(line)}</p>\n" for line in shown.lines)
    tables = "".join(map(_table, shown.tables))
    pictures = "".join(f"<p>{_picture(folder, name)}</p>\n" for name in shown.pictures)
    wide = "".join(f'<div class="wide">{_picture(folder, name)}</div>\n' for name in shown.wide)
    caption = f'<p class="soft">{html.escape(shown.caption)}</p>\n' if shown.caption else ""
    return lines + tables + pictures + caption + wide


def _table(table: Table) -> str:
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>\n" for row in table.rows)
    inside = f'<div class="wide"><table><thead><tr>{_cells(table.head, "th")}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'
    return f"<details><summary>{html.escape(table.folded)}</summary>{inside}</details>\n" if table.folded else inside


def _cells(cells: Sequence[str], kind: str) -> str:
    return "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells)


def _picture(folder: Path, name: str) -> str:
    """The picture in the page; its name where somebody took it away. The name may come from a stranger's evaluation.json: what is
    no picture of this folder itself is not opened."""
    path = folder / Path(name).name
    if path.name != name or path.suffix != ".png" or path.is_symlink() or not path.is_file():
        return f'<span class="soft">{html.escape(name)} is not there any more</span>'
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{content}" alt="{html.escape(path.stem)}">'
