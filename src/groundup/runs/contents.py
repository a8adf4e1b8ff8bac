"""What a publication consists of, and how it meets what lies at its destination: what is sent, what stays, what goes.

Sizes are in bytes. A file is told by its SHA-256, or by the name that git gives its content (SHA-1 of `blob SIZE\\0`
and the content): the Hub tells the one of large files and the other of small ones.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError, listed
from groundup.basis.files import sha256
from groundup.runs.card.writing import published_as_it_is, published_card, with_words_of
from groundup.runs.evaluation_file import NAME as EVALUATION
from groundup.runs.evaluation_file import Sections, read_sections, sections_in, text_of, weights_checksum
from groundup.runs.folder import RunFolder
from groundup.runs.publication import FORMAT_VERSION, MANIFEST, FileEntry, Manifest
from groundup.training import MODEL
from groundup.version import __version__

CARD = "README.md"
EXTRAS = {"export": "export"}
"""What can be asked for with `--include` -> the folder of the run that holds it."""

_NAMED = ("classifier.json", "recipe.yaml", "environment.json", "summary.json", "metrics.jsonl")

# Not anybody's own: the Hub makes it in every new repository.
_HUBS_OWN = (".gitattributes",)
_BLOCK = 8 << 20
_LARGEST_TEXT = 16 << 20  # bytes


@dataclass(frozen=True)
class Content:
    """One file of a publication: its path there, and its content, in a file or in memory."""

    name: str
    source: Path | bytes

    @cached_property
    def entry(self) -> FileEntry:
        """Its size and hashes; reads the file once."""
        size = len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size
        digest, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        if isinstance(self.source, bytes):
            digest.update(self.source)
            blob.update(self.source)
        else:
            with open(self.source, "rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    blob.update(block)
        return FileEntry(size=size, sha256=digest.hexdigest(), blob=blob.hexdigest())


@dataclass(frozen=True)
class Present:
    """A file at the destination, as far as it is known: one of the two hashes."""

    size: int
    sha256: str | None = None
    blob: str | None = None

    def is_the(self, entry: FileEntry) -> bool:
        """Whether its content is that of `entry`."""
        if self.sha256 is not None:
            return self.sha256 == entry.sha256
        return self.blob == entry.blob


@dataclass(frozen=True)
class There:
    """What lies at a destination. earlier: its manifest; read: the content of a file there; mine: names of files that groundup
    wrote there without a manifest, as the mirror of the run that is published; None: the place is no such mirror."""

    place: str
    files: Mapping[str, Present] = field(default_factory=dict)
    earlier: Manifest | None = None
    read: Callable[[str], bytes] = field(default=lambda name: b"", repr=False)
    mine: Collection[str] | None = None

    def text(self, name: str) -> str | None:
        """The text of a small file there, None if it is not there, too large or not text."""
        if name not in self.files or self.files[name].size > _LARGEST_TEXT:
            return None
        try:
            return self.read(name).decode()
        except UnicodeDecodeError:
            return None

    def wrote(self, name: str) -> bool:
        """Whether the file is as groundup wrote it there."""
        known = self.earlier.files if self.earlier else {}
        return name in (self.mine or ()) or (name in known and self.files[name].is_the(known[name]))


@dataclass(frozen=True)
class Gathered:
    """The files of a publication without the manifest. settled: names of those that hold what lies at the destination too."""

    contents: tuple[Content, ...]
    notes: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Changes:
    """What a publication does at its destination. `contents`: all of it; `send`: names of what differs there;
    `remove`: names of what an earlier publication wrote and this one lacks."""

    contents: tuple[Content, ...]
    send: tuple[str, ...]
    remove: tuple[str, ...]
    notes: tuple[str, ...]


def gather(
    folder: RunFolder,
    weights: Path,
    summary: Mapping[str, Any],
    extras: Sequence[str],
    repository: str | None,
    there: There,
) -> Gathered:
    """The files of the publication of a finished run. `weights`: those that it reports. What was measured of these weights at the
    destination stands beside what was measured of the run."""
    recipe = folder.recipe()
    evaluation, sections, settled, notes = _evaluation(folder, there)
    card, ours = published_card(folder, recipe, dict(summary), repository, sections)
    contents = [Content(CARD, card.encode()), Content(MODEL, weights)]
    contents += [Content(name, folder.path / name) for name in _NAMED if (folder.path / name).is_file()]
    contents += [] if evaluation is None else [Content(EVALUATION, evaluation)]
    contents += [Content(picture.name, picture) for picture in sorted(folder.path.glob("*.png")) if _shown(picture)]
    for extra in extras:
        found, strange = _extra(folder.path, extra)
        contents += found
        notes += tuple(strange)
    notes += () if ours else (published_as_it_is(folder),)
    return Gathered(tuple(contents), notes, settled)


def _evaluation(
    folder: RunFolder, there: There
) -> tuple[Path | bytes | None, Sections, frozenset[str], tuple[str, ...]]:
    """evaluation.json, None without one; what it says; names of the files there that are settled by it; what to tell."""
    from groundup.runs.reports.merging import merged, usable

    own = folder.path / EVALUATION
    known, notes = usable(read_sections(folder))
    as_it_is = own if own.is_file() else None
    text = there.text(EVALUATION)
    found = None if text is None else sections_in(text, checksum := weights_checksum(folder))
    if text is None or found is None:
        return as_it_is, known, frozenset(), notes
    settled = frozenset({EVALUATION, *_pictures(found)})
    if not found:
        gone = as_it_is is not None and not there.wrote(EVALUATION)
        note = f"{EVALUATION} there was measured on other weights: what was measured on these takes its place"
        return as_it_is, known, settled, (*notes, note) if gone else notes
    theirs, unread = usable(found)
    everything, notes = merged(theirs, known), (*notes, *unread)
    if everything == known:
        return as_it_is, known, settled, notes
    return text.encode() if everything == found else text_of(everything, checksum).encode(), everything, settled, notes


def _pictures(sections: Sections) -> list[str]:
    """The pictures that the facts of an evaluation name."""
    named = [facts.get("pictures") for views in sections.values() for facts in views.values()]
    return [name for names in named if isinstance(names, list) for name in names if isinstance(name, str)]


def may_be_ours(name: str, extras: Sequence[str]) -> bool:
    """Whether a publication may hold a file of this name."""
    first, *below = name.split("/")
    known = (CARD, MODEL, EVALUATION, MANIFEST, *_NAMED)
    return first in extras if below else first in known or first.endswith(".png")


def _extra(run: Path, extra: str) -> tuple[list[Content], list[str]]:
    """What the notes beside the exports say to be groundup's, with these; and a line about each file that is not."""
    if extra not in EXTRAS:
        raise UsageError(f"--include {extra}: unknown; allowed: {listed(EXTRAS)}")
    place = run / EXTRAS[extra]
    ours = {path for note in sorted(place.glob("*.json")) for path in _noted(note)}
    if not ours:
        raise UsageError(
            f"--include {extra}: the run has none that is as it was made",
            hint=f"`groundup export {run} --to onnx` makes one",
        )
    hidden = re.compile(r"(^|/)\.")  # among them what a killed export was building, which nobody has checked
    names = {path: path.relative_to(run).as_posix() for path in sorted(place.rglob("*")) if path.is_file()}
    shown = {path: name for path, name in names.items() if not hidden.search(name)}
    strange = [
        f"{name}: not as `groundup export` wrote it: left out" for path, name in shown.items() if path not in ours
    ]
    return [Content(name, path) for path, name in shown.items() if path in ours], strange


def _noted(note: Path) -> list[Path]:
    """A note of an export and the files that it tells of; nothing if it is no such note, or one of them is not as it says."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))["files"].items()
        files = {note.parent / name: hashes for name, hashes in known if Path(name).name == name}
        whole = bool(files) and all(path.is_file() and sha256(path) in hashes for path, hashes in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [*files, note] if whole else []


def _shown(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def changes(gathered: Gathered, there: There, recipe: str, classes: Sequence[str]) -> Changes:
    """What there is to do at a destination. What was changed there stays, and is told. UsageError if it is somebody else's."""
    _require_ours(there, classes)
    known = there.earlier.files if there.earlier else {}
    ours, mixed, notes = [], set(), list(gathered.notes)
    for content in gathered.contents:
        kept, note = _met(content, there, content.name in gathered.settled)
        ours += [kept] if kept else []
        notes += [note] if note else []
        if kept is not content:
            mixed.add(content.name)
    theirs = [content.name for content in ours if _is_theirs(content, there, gathered.settled)]
    if theirs:
        raise UsageError(
            f"{there.place}: holds {listed(theirs)}, which groundup did not write there, and would overwrite",
            hint="move them away, or publish under another name",
        )
    names = {content.name for content in ours}
    stay = {name: known[name] for name in sorted(mixed) if name in known}
    ours.append(_manifest([content for content in ours if content.name not in mixed], stay, recipe, classes))
    gone = [name for name in known if name in there.files and name not in {*names, *stay, CARD, MANIFEST}]
    remove = [name for name in gone if there.wrote(name)]
    notes += [f"{name} was changed there: it stays" for name in gone if name not in remove]
    send = [
        content.name
        for content in ours
        if content.name not in there.files or not there.files[content.name].is_the(content.entry)
    ]
    return Changes(tuple(ours), tuple(send), tuple(remove), tuple(notes))


def _met(content: Content, there: There, settled: bool) -> tuple[Content | None, str | None]:
    """What is to lie at the destination of `content`, None for what lies there now; and what to say about it."""
    name = content.name
    known = there.earlier.files if there.earlier else {}
    if settled or name not in there.files or there.wrote(name) or there.files[name].is_the(content.entry):
        return content, None
    if name == CARD:
        return _met_card(content, there)
    if name not in known:
        return content, None  # somebody else's, which is refused
    if name == MODEL:
        return content, f"{name} was changed there, and could not be loaded: it is sent again"
    return None, f"{name} was changed there: it is left as it is (delete it there to have it written again)"


def _met_card(content: Content, there: There) -> tuple[Content | None, str | None]:
    theirs, ours = there.text(CARD), content.source
    assert isinstance(ours, bytes)
    renewed = None if theirs is None else with_words_of(theirs, ours.decode())
    if renewed is None:
        return None, f"{CARD} was edited there: it is left as it is (delete it there to have it written again)"
    if renewed.encode() == ours:
        return content, None
    return Content(CARD, renewed.encode()), f"{CARD} has words of its own there: they stay, groundup's part is renewed"


def _is_theirs(content: Content, there: There, settled: Collection[str]) -> bool:
    name = content.name
    if name not in there.files or name == CARD or name in settled or there.wrote(name):
        return False
    return not (there.earlier and name in there.earlier.files) and not there.files[name].is_the(content.entry)


def _require_ours(there: There, classes: Sequence[str]) -> None:
    """UsageError unless the place is empty or holds an earlier publication of the same classes."""
    others = [name for name in there.files if name not in _HUBS_OWN]
    if there.earlier is None and others and there.mine is None:
        raise UsageError(
            f"{there.place}: holds files that groundup did not publish: {listed(sorted(others), 5)}",
            hint="publish under another name; nothing there was touched",
        )
    if there.earlier is not None and there.earlier.classes != _digest(classes):
        raise UsageError(
            f"{there.place}: holds a publication of other classes (recipe {there.earlier.recipe!r})",
            hint="publish under another name, or delete that one first; nothing there was touched",
        )


def _manifest(
    contents: Sequence[Content], stay: Mapping[str, FileEntry], recipe: str, classes: Sequence[str]
) -> Content:
    """The manifest. `stay`: files that hold what others wrote there, with what groundup wrote last: they stay told apart."""
    manifest = Manifest(
        format=FORMAT_VERSION,
        groundup=__version__,
        recipe=recipe,
        classes=_digest(classes),
        files={**stay, **{content.name: content.entry for content in contents}},
    )
    return Content(MANIFEST, (json.dumps(manifest.model_dump(), indent=2) + "\n").encode())


def _digest(classes: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()
