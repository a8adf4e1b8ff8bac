"""The model card: README.md of a run, kept true by the run itself, and a card that the Hugging Face Hub understands.

    ---
    license, tags ...              the owner's to change; written once
    model-index                    ours
    ---
    <!-- groundup: begin CHECKSUM  -->
    text                           ours
    <!-- groundup: end -->

CHECKSUM is over both of our parts. While it fits, they are written again when the run knows more, and whatever
stands around them stays as it
is. Where it does not fit somebody has edited our parts: the file is left alone, and what it would say lies in
`README.groundup.md` beside it.
"""

import hashlib
import json
import re
from typing import Any

from groundup.basis.files import write_text
from groundup.recipe import Recipe
from groundup.runs.card.metadata import front_matter
from groundup.runs.card.text import REPOSITORY, Facts, body
from groundup.runs.evaluation_file import Sections, read_sections
from groundup.runs.folder import RunFolder

BESIDE = "README.groundup.md"

_SAYS = "what stands between these two lines is written anew when the run knows more; write before or after them"
_END = "<!-- groundup: end -->"
_OURS = re.compile(rf"<!-- groundup: begin ([0-9a-f]{{16}})[^\n]*-->\n(.*?)\n{re.escape(_END)}", re.DOTALL)
_HEAD = re.compile(r"\A---\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_INDEX = re.compile(r"^model-index:[^\n]*\n(?:[ \-][^\n]*\n)*", re.MULTILINE)


def write_card(folder: RunFolder, recipe: Recipe, summary: dict[str, Any], sections: Sections | None = None) -> bool:
    """Write the card of a finished run. False if somebody has edited what groundup wrote in it: it is left as it is
    then, and ours
    is written beside. `sections`: what evaluation.json holds, by default what is in the folder."""
    text, ours = card_of(folder, recipe, summary, sections)
    beside = folder.path / BESIDE
    if not ours:
        head, written = _parts(folder, recipe, summary, sections)
        write_text(beside, _whole(head, written))
        return False
    write_text(folder.card, text)
    beside.unlink(missing_ok=True)
    return True


def left_alone(folder: RunFolder) -> str:
    """What to tell a person where `write_card` gave False."""
    return (
        f"{folder.card.name} is not as groundup wrote it: it is left as it is; what it would say now is in {BESIDE} "
        f"(delete {folder.card.name} to have it written again)"
    )


def card_of(
    folder: RunFolder, recipe: Recipe, summary: dict[str, Any], sections: Sections | None = None
) -> tuple[str, bool]:
    """The text that the card should have now, and whether our parts of it are as groundup wrote them (True without a card)."""
    head, written = _parts(folder, recipe, summary, sections)
    if not folder.card.exists():
        return _whole(head, written), True
    known = folder.card.read_text(encoding="utf-8", errors="replace")
    renewed = _renewed(known, head, written)
    return (known, False) if renewed is None else (renewed, True)


def published_card(folder: RunFolder, recipe: Recipe, summary: dict[str, Any], repository: str | None) -> str:
    """The card as it is published: with metadata even if an edited card has none, and with the name of the repository."""
    text, _ = card_of(folder, recipe, summary)
    if not _HEAD.match(text):
        text = f"---\n{_parts(folder, recipe, summary, None)[0]}---\n\n{text}"
    return text.replace(REPOSITORY, repository) if repository else text


def _parts(folder: RunFolder, recipe: Recipe, summary: dict[str, Any], sections: Sections | None) -> tuple[str, str]:
    """The metadata and the text, as they should be now."""
    sections = read_sections(folder) if sections is None else sections
    described = json.loads(folder.classifier_file.read_text(encoding="utf-8"))
    pictures = (folder.samples_picture, folder.curves_picture)
    names = tuple(picture.name for picture in pictures if picture.exists())
    return front_matter(recipe, summary, sections), body(Facts(recipe, summary, described, sections, names))


def _whole(head: str, text: str) -> str:
    return f"---\n{head}---\n\n{_marked(_index(head), text)}\n"


def _marked(index: str, text: str) -> str:
    return f"<!-- groundup: begin {_checksum(index, text)}: {_SAYS} -->\n{text}\n{_END}"


def _checksum(index: str, text: str) -> str:
    return hashlib.sha256(f"{index}\n{text}".encode()).hexdigest()[:16]


def _index(head: str) -> str:
    found = _INDEX.search(head)
    return found[0] if found else ""


def _renewed(known: str, head: str, text: str) -> str | None:
    """`known` with our parts replaced, None if they are not as they were written."""
    marked, fences = _OURS.findall(known), _HEAD.match(known)
    if len(marked) != 1 or fences is None:
        return None
    checksum, old_text = marked[0]
    old_head = fences[1]
    if _checksum(_index(old_head), old_text) != checksum:
        return None
    index = _index(head)
    new_head = _INDEX.sub(lambda _: index, old_head, count=1)
    rest = _OURS.sub(lambda _: _marked(index, text), known[fences.end(1) :])
    return f"---\n{new_head}{rest}"
