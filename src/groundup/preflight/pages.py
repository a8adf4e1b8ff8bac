"""A page for each code of a finding, and their index, written from the codes, so that they cannot say anything else.

python -m groundup.preflight.pages docs/findings
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from groundup.basis.files import write_text
from groundup.preflight import five_systems
from groundup.preflight.findings import Code

INDEX = "README.md"
_GROUPS = {
    "1": "The schedule",
    "2": "The network",
    "3": "The samples: augmentation, mixing, normalisation",
    "4": "The data",
    "5": "Averages, stopping, selection",
    "6": "The cost",
    "7": "The start",
}
_HEAD = """# Findings

What `groundup check RECIPE` may find before a run. These pages are written by `python -m groundup.preflight.pages docs/findings`; a
test holds them current. A number is never given to another thing.

- **error**: the result would mean nothing, or not what the recipe says
- **warning**: very likely a mistake
- **note**: unusual, and worth a look

The level is the gravest that the code has; where the case is milder, so is the finding.

[The mistakes of the five systems](five-systems.md), and the codes that name them.
"""
_IGNORE = """## If it is meant

`check.ignore=[{number}]` in the recipe, or on the command line, leaves it out.
"""


def pages(codes: Mapping[str, Code]) -> dict[str, str]:
    """Names of the files and their Markdown text."""
    inside = {f"{number}.md": _page(code) for number, code in sorted(codes.items())}
    return {INDEX: _index(codes), five_systems.PAGE: five_systems.page(codes), **inside}


def _page(code: Code) -> str:
    parts = [f"# {code.number}: {code.title}\n", f"Level: {code.level}. [All findings]({INDEX})\n"]
    parts += ["## Why it matters\n", f"{code.why}\n", "## What to do\n", f"{code.mend}\n"]
    if code.seen:
        parts += ["## Where it was seen\n", "\n".join(f"- system {place}" for place in code.seen) + "\n"]
    return "\n".join([*parts, _IGNORE.format(number=code.number)])


def _index(codes: Mapping[str, Code]) -> str:
    parts = [_HEAD]
    for digit, title in _GROUPS.items():
        rows = [
            f"| [{number}]({number}.md) | {code.level} | {code.title} |"
            for number, code in sorted(codes.items())
            if number[2] == digit
        ]
        if rows:
            parts += [f"## {title}\n", "| code | level | what |\n|---|---|---|", "\n".join(rows) + "\n"]
    return "\n".join(parts)


def write_pages(folder: Path, codes: Mapping[str, Code]) -> None:
    """Write all pages into `folder`, and remove those of codes that there are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages(codes)
    for old in folder.glob("GU*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        write_text(folder / name, text)


if __name__ == "__main__":
    from groundup.preflight.static import CODES

    if len(sys.argv) != 2:
        sys.exit("usage: python -m groundup.preflight.pages FOLDER")
    write_pages(Path(sys.argv[1]), CODES)
