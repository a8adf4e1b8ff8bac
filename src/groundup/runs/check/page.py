"""The page of a check: one HTML file with everything in it, pictures as data URIs. No script, no request to anywhere.

Read on a phone and on a desktop, in light and in dark. Everything that comes from data or recipe is escaped.
"""

import base64
import html
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from groundup.basis.errors import UsageError
from groundup.basis.files import write_text
from groundup.preflight import CODES, FeatureSize, Finding, readable_bytes, readable_time, sample_facts
from groundup.runs.check.checking import Report
from groundup.runs.check.pictures import draw_balance, draw_settings
from groundup.version import __version__

_MARK = '<meta name="generator" content="groundup check: {}">'
_SHOWN = 32
_LARGEST = 112  # side in px above which a sample is shown smaller

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f4f5f7; --text: #1d2126; --soft: #5c6570; --line: #dcdfe4;
  --error: #b3261e; --warning: #9a5b00; --note: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --card: #1f242a; --text: #e6e9ed; --soft: #a3acb7; --line: #363d46;
  --error: #ff8a80; --warning: #ffc069; --note: #8ec1ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } code { font: .9em ui-monospace, monospace; }
.cards, .charts { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.finding { background: var(--card); border-left: .3rem solid var(--soft); border-radius: .3rem; padding: .6rem .8rem; }
.finding h3 { font-size: 1rem; margin: 0; }
.error { border-color: var(--error); } .warning { border-color: var(--warning); } .note { border-color: var(--note); }
.level { font-size: .78rem; font-weight: 700; text-transform: uppercase; letter-spacing: .04em; }
.error .level { color: var(--error); } .warning .level { color: var(--warning); } .note .level { color: var(--note); }
.mend { display: block; margin-top: .4rem; padding: .35rem .5rem; border: 1px solid var(--line); border-radius: .3rem; }
.charts img { width: 100%; max-width: 36rem; height: auto; border-radius: .4rem; background: #ffffff; }
.samples { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(9.6rem, 1fr)); }
figure { margin: 0; } .pair { display: flex; gap: 3px; }
.pair img { width: calc(50% - 2px); aspect-ratio: 1; object-fit: contain; border-radius: .2rem; }
.pixels { image-rendering: pixelated; }
figcaption { font-size: .78rem; color: var(--soft); line-height: 1.3; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; } summary { cursor: pointer; padding: .3rem 0; }
"""


def write_page(report: Report, wanted: Path) -> Path:
    """Write the page. Returns where: `wanted`, or a numbered name beside it where what lies there is no page of this recipe."""
    check_place(wanted)
    place, number = wanted, 1
    while place.exists() and not _is_earlier_page(place, report.recipe.name):
        number += 1
        place = wanted.with_stem(f"{wanted.stem}-{number}")
    write_text(place, page(report))
    return place


def check_place(wanted: Path) -> None:
    """UsageError if no page can be written there; better said before the check than after."""
    if wanted.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {wanted}: the page is HTML; allowed: a name that ends in .html")
    if not wanted.parent.is_dir():
        raise UsageError(
            f"--out {wanted}: there is no folder {wanted.parent}", hint="make it first, or leave --out out"
        )


def _is_earlier_page(path: Path, recipe: str) -> bool:
    try:
        with open(path, encoding="utf-8") as stream:
            return _mark(recipe) in stream.read(2000)
    except (OSError, UnicodeDecodeError):
        return False


def _mark(recipe: str) -> str:
    return _MARK.format(html.escape(recipe))


def page(report: Report) -> str:
    """The page, HTML."""
    name = html.escape(report.recipe.name)
    about = html.escape(report.recipe.about)
    with tempfile.TemporaryDirectory() as folder:
        charts = {title: path.read_bytes() for title, path in draw_settings(report.plan, Path(folder)).items()}
        balance = Path(folder) / "balance.png"
        splits = report.plan.splits
        draw_balance(splits.train.labels, splits.classes, balance)
        classes = balance.read_bytes()
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_mark(report.recipe.name)}',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}: check</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f'<header><p class="soft">groundup {__version__}, check before a run</p><h1>{name}</h1><p>{about}</p>',
        f"<p><strong>{html.escape(report.verdict)}</strong></p></header>",
        _section("Findings", _findings(report)),
        _section("The run", _table([(what, [said]) for what, said in report.facts().items()])),
        _section("What it costs", _costs(report)),
        _section(
            "Settings over the run", f'<div class="charts">{"".join(_chart(*chart) for chart in charts.items())}</div>'
        ),
        _section("What the network is shown", _samples(report)),
        _section("The data", _data(report, classes)),
        _section("Feature maps", _maps(report.layers)),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{title}</h2>\n{inside}\n</section>"


def _findings(report: Report) -> str:
    cards = "".join(_card(finding) for finding in report.findings)
    if report.ignored:
        numbers = dict.fromkeys(finding.code for finding in report.ignored)
        left_out = ", ".join(f"{number} ({html.escape(CODES[number].title)})" for number in numbers)
        cards += f'<div class="finding"><p class="soft">Left out by check.ignore: {left_out}</p></div>'
    return f'<div class="cards">{cards}</div>' if cards else "<p>Nothing was found.</p>"


def _card(finding: Finding) -> str:
    code = CODES[finding.code]
    own = finding.mend if finding.mend != code.mend else ""
    mend = f'<code class="mend">{html.escape(own)}</code>' if own else ""
    seen = f'<p class="soft">Seen in {html.escape("; ".join(code.seen))}.</p>' if code.seen else ""
    return (
        f'<article class="finding {finding.level}"><p class="level">{finding.level} {code.number}</p>'
        f"<h3>{html.escape(code.title)}</h3><p>{html.escape(finding.saw)}</p>{mend}<p>{html.escape(code.mend)}</p>"
        f'<details><summary class="soft">Why it matters</summary><p>{html.escape(code.why)}</p>'
        f"{seen}</details></article>\n"
    )


def _costs(report: Report) -> str:
    cost, clock = report.cost, report.plan.clock
    between = cost.seconds / clock.total_steps * min(cost.checkpoint_steps, clock.total_steps)
    rows = [
        ("training", [readable_time(cost.seconds), f"{cost.train_flops / 1e15:.3g} PFLOP"]),
        ("evaluation", [readable_time(cost.evaluation_seconds), f"{cost.evaluation_flops / 1e15:.2g} PFLOP"]),
        ("between two checkpoints", [readable_time(between), f"{cost.checkpoint_steps:,} steps"]),
        *((f"memory: {what}", [readable_bytes(size), ""]) for what, size in report.memory().items()),
        ("memory in all", [readable_bytes(cost.memory.needed), f"{readable_bytes(cost.memory.free)} free"]),
        ("one checkpoint", [readable_bytes(cost.disk.checkpoint), ""]),
        (
            "disk",
            [readable_bytes(cost.disk.needed), f"{cost.disk.kept} checkpoints, {readable_bytes(cost.disk.free)} free"],
        ),
    ]
    if cost.price is not None:
        rows.append(("price", [f"{cost.price:,.2f}", f"{cost.per_hour:g} an hour"]))
    return _table(rows)


def _table(rows: Iterable[tuple[str, Sequence[str]]], head: Sequence[str] = (), kind: str = "") -> str:
    shown = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td{kind}>{html.escape(cell)}</td>' for cell in cells)}</tr>\n"
        for name, cells in rows
    )
    return f'<div class="wide"><table>{f"<tr>{shown}</tr>" if head else ""}\n{body}</table></div>'


def _chart(title: str, picture: bytes) -> str:
    return f'<figure><img src="{_uri(picture)}" alt="{html.escape(title)}"></figure>'


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _data(report: Report, balance: bytes) -> str:
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.plan.splits.notes)
    counts = np.bincount(report.plan.splits.train.labels, minlength=len(report.plan.splits.classes))
    said = f"<p>{counts.min():,} to {counts.max():,} training images per class.</p>"
    chart = f'{said}<div class="charts">{_chart("training images per class", balance)}</div>'
    return chart + (f"<ul>{notes}</ul>" if notes else "")


def _maps(layers: dict[int, list[FeatureSize]]) -> str:
    if not layers:
        return "<p>The network could not be looked into.</p>"
    sides = [" -> ".join([f"{size} px", *_distinct(maps)]) for size, maps in layers.items()]
    rows: dict[str, list[str]] = {}
    for place, maps in enumerate(layers.values()):
        for name, channels, height, width in maps:
            cells = rows.setdefault(name, [""] * len(layers))
            cells[place] = f"{channels} x {height} x {width}"
    table = _table(
        rows.items(), ["module", *(f"{size} px: channels x height x width" for size in layers)], ' class="number"'
    )
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in sides)
    return f"{lines}<details><summary>Every module ({len(rows)})</summary>{table}</details>"


def _distinct(maps: Sequence[FeatureSize]) -> list[str]:
    """The sizes in order, each once in a row."""
    sizes = [f"{height} x {width}" for _, _, height, width in maps]
    return [size for place, size in enumerate(sizes) if place == 0 or size != sizes[place - 1]]


def _samples(report: Report) -> str:
    figures = "".join(
        f'<figure><div class="pair">{_pixels(original)}{_pixels(seen)}</div>'
        f"<figcaption>{html.escape(title)}</figcaption></figure>\n"
        for original, seen, title in _shown(report)
    )
    facts = _table([(what, [said]) for what, said in sample_facts(report.samples).items()])
    return (
        f'{facts}<p class="soft">The first images of the first step: on the left as they are in the data, on the right as '
        f'the network gets them, with their labels.</p><div class="samples">{figures}</div>'
    )


def _shown(report: Report) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Each as it is in the data and as the network gets it, uint8 (H, W, 3), and what it is called."""
    samples = report.samples
    before, after = (
        images[:_SHOWN].permute(0, 2, 3, 1).cpu().numpy() for images in (samples.originals, samples.pictures)
    )
    yield from zip(before, after, samples.titles[:_SHOWN], strict=True)


def _pixels(image: np.ndarray) -> str:
    """An image, uint8 (H, W, 3), in the page."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_LARGEST, _LARGEST))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    small = ' class="pixels"' if max(picture.size) <= 64 else ""
    return f'<img{small} src="{_uri(stream.getvalue())}" alt="">'
