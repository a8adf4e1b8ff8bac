"""The model card: README.md of a run, kept true by the run itself, and a card that the Hugging Face Hub understands.

    ---
    license, tags ...              the owner's to change; written once
    model-index                    ours
    ---
    <!-- groundup: begin CHECKSUM  -->
    text                           ours
    <!-- groundup: end -->

CHECKSUM is over both of our parts. While it fits, they are written again when the run knows more, and whatever stands around them
stays as it is. Where it does not fit somebody has edited our parts: the file is left alone, and what it would say lies in
`README.groundup.md` beside it. A card from before there were these lines is renewed if it is word for word as it was written.
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
        write_text(beside, whole(head, written))
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
    return _now(folder, _parts(folder, recipe, summary, sections))


def published_card(
    folder: RunFolder,
    recipe: Recipe,
    summary: dict[str, Any],
    repository: str | None,
    sections: Sections | None = None,
) -> tuple[str, bool]:
    """The card as it is published, and whether it says what groundup would say now: False for one whose text of ours was edited. It
    has metadata even if an edited card has none, and the name of the repository."""
    head, written = _parts(folder, recipe, summary, sections, repository)
    text, ours = _now(folder, (head, written))
    if not _HEAD.match(text):
        text = f"---\n{head}---\n\n{text}"
    return text.replace(REPOSITORY, repository) if repository else text, ours


def published_as_it_is(folder: RunFolder) -> str:
    """What to tell a person where `published_card` gave False."""
    return (
        f"{folder.card.name} of the run is not as groundup wrote it: it is published as it is, and may lack results, limits or how "
        f"to load it (delete {folder.card} to have it written again)"
    )


def with_words_of(theirs: str, ours: str) -> str | None:
    """The card `theirs` with groundup's parts as in `ours`, None if its own parts of them were edited, or `ours` has none."""
    marked, head = _OURS.findall(ours), _HEAD.match(ours)
    return _renewed(theirs, head[1], marked[0][1]) if len(marked) == 1 and head else None


def _now(folder: RunFolder, parts: tuple[str, str]) -> tuple[str, bool]:
    """The card with our parts as they should be; as it is, and False, if they were edited."""
    if not folder.card.exists():
        return whole(*parts), True
    known = folder.card.read_text(encoding="utf-8", errors="replace")
    if renewed := _renewed(known, *parts):
        return renewed, True
    return known, False


def _parts(
    folder: RunFolder,
    recipe: Recipe,
    summary: dict[str, Any],
    sections: Sections | None,
    repository: str | None = None,
) -> tuple[str, str]:
    """The metadata and the text, as they should be now."""
    sections = read_sections(folder) if sections is None else sections
    described = json.loads(folder.classifier_file.read_text(encoding="utf-8"))
    pictures = (folder.samples_picture, folder.curves_picture)
    names = tuple(picture.name for picture in pictures if picture.exists())
    facts = Facts(recipe, summary, described, sections, names, repository)
    return front_matter(recipe, summary, sections), body(facts)


def whole(head: str, text: str) -> str:
    """A new card of metadata and text, with the lines that mark what is ours."""
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
    known_index = _INDEX.search(old_head)  # the card of an unfinished run has none
    new_head = _INDEX.sub(lambda _: index, old_head, count=1) if known_index else old_head + index
    rest = _OURS.sub(lambda _: _marked(index, text), known[fences.end(1) :])
    return f"---\n{new_head}{rest}"
