"""What a publication consists of, and how it meets what lies at its destination: what is sent, what stays, what goes.

Sizes are in bytes. A file is told by its SHA-256, or by the name that git gives its content (SHA-1 of `blob SIZE\\0`
and the content): the Hub tells the one of large files and the other of small ones.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError, listed
from groundup.runs.card.writing import published_card
from groundup.runs.evaluation_file import NAME as EVALUATION
from groundup.runs.folder import RunFolder
from groundup.runs.publication import FORMAT_VERSION, MANIFEST, FileEntry, Manifest
from groundup.training import MODEL
from groundup.version import __version__

CARD = "README.md"
EXTRAS = {"export": "export"}
"""What can be asked for with `--include` -> the folder of the run that holds it."""

# Not anybody's own: the Hub makes it in every new repository.
_HUBS_OWN = (".gitattributes",)
_BLOCK = 8 << 20


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
class Changes:
    """What a publication does at its destination. `contents`: all of it; `send`: names of what differs there;
    `remove`: names of what an earlier publication wrote and this one lacks."""

    contents: tuple[Content, ...]
    send: tuple[str, ...]
    remove: tuple[str, ...]
    notes: tuple[str, ...]


def gather(
    folder: RunFolder, weights: Path, summary: Mapping[str, Any], extras: Sequence[str], repository: str | None
) -> list[Content]:
    """The files of the publication of a finished run, without the manifest. `weights`: those that it reports."""
    recipe = folder.recipe()
    card = published_card(folder, recipe, dict(summary), repository)
    contents = [Content(CARD, card.encode()), Content(MODEL, weights)]
    named = ("classifier.json", "recipe.yaml", "environment.json", "summary.json", "metrics.jsonl", EVALUATION)
    contents += [Content(name, folder.path / name) for name in named if (folder.path / name).is_file()]
    contents += [Content(picture.name, picture) for picture in sorted(folder.path.glob("*.png")) if _shown(picture)]
    for extra in extras:
        contents += _extra(folder.path, extra)
    return contents


def _extra(run: Path, extra: str) -> list[Content]:
    if extra not in EXTRAS:
        raise UsageError(f"--include {extra}: unknown; allowed: {listed(EXTRAS)}")
    place = run / EXTRAS[extra]
    hidden = re.compile(r"(^|/)\.")  # among them what a killed export was building, which nobody has checked
    names = {file.relative_to(run).as_posix(): file for file in sorted(place.rglob("*")) if file.is_file()}
    contents = [Content(name, file) for name, file in names.items() if not hidden.search(name)]
    if not contents:
        raise UsageError(f"--include {extra}: the run has none", hint=f"`groundup export {run} --to onnx` makes one")
    return contents


def _shown(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def changes(
    contents: Sequence[Content],
    present: Mapping[str, Present],
    earlier: Manifest | None,
    recipe: str,
    classes: Sequence[str],
    place: str,
) -> Changes:
    """What there is to do at `place`, where the files `present` lie and `earlier` is its manifest. UsageError if it
    is somebody else's."""
    _require_ours(present, earlier, classes, place)
    known = earlier.files if earlier else {}
    notes = []
    ours = list(contents)
    if CARD in present and not _written_by_us(CARD, present, known):
        ours = [content for content in ours if content.name != CARD]
        notes.append(f"{CARD} was edited there: it is left as it is (delete it there to have it written again)")
    theirs = [
        content.name
        for content in ours
        if content.name in present and content.name not in known and not present[content.name].is_the(content.entry)
    ]
    if theirs:
        raise UsageError(
            f"{place}: holds {listed(theirs)}, which groundup did not write there, and would overwrite",
            hint="move them away, or publish under another name",
        )
    ours.append(_manifest(ours, recipe, classes))
    names = {content.name for content in ours}
    gone = [name for name in known if name in present and name not in names and name != CARD]
    remove = [name for name in gone if _written_by_us(name, present, known)]
    notes += [f"{name} was changed there: it stays" for name in gone if name not in remove]
    send = [
        content.name
        for content in ours
        if content.name not in present or not present[content.name].is_the(content.entry)
    ]
    return Changes(tuple(ours), tuple(send), tuple(remove), tuple(notes))


def _written_by_us(name: str, present: Mapping[str, Present], known: Mapping[str, FileEntry]) -> bool:
    return name in known and present[name].is_the(known[name])


def _require_ours(present: Mapping[str, Present], earlier: Manifest | None, classes: Sequence[str], place: str) -> None:
    """UsageError unless `place` is empty or holds an earlier publication of the same classes."""
    others = [name for name in present if name not in _HUBS_OWN]
    if earlier is None and others:
        raise UsageError(
            f"{place}: holds files that groundup did not publish: {listed(sorted(others), 5)}",
            hint="publish under another name; nothing there was touched",
        )
    if earlier is not None and earlier.classes != _digest(classes):
        raise UsageError(
            f"{place}: holds a publication of other classes (recipe {earlier.recipe!r})",
            hint="publish under another name, or delete that one first; nothing there was touched",
        )


def _manifest(contents: Sequence[Content], recipe: str, classes: Sequence[str]) -> Content:
    manifest = Manifest(
        format=FORMAT_VERSION,
        groundup=__version__,
        recipe=recipe,
        classes=_digest(classes),
        files={content.name: content.entry for content in contents},
    )
    return Content(MANIFEST, (json.dumps(manifest.model_dump(), indent=2) + "\n").encode())


def _digest(classes: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()
