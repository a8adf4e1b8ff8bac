"""Where exports lie, and whose they are: a folder in which groundup replaces its own files and nobody else's.

    FILE.json    beside each export FILE: what it is, what was measured, and the SHA-256 of every file that it consists of

A file is groundup's own as long as its SHA-256 is noted there. Exports are built and checked in a hidden folder inside their place,
and moved out of it when they are found good; a kill leaves what was there before. While files move, the note holds both the old
hashes and the new.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.files import fsync_folder, sha256, write_json

FORMAT_VERSION = 1
Record = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """The folder `folder` for the export whose main file is `file`; `beside`: files that belong to it."""

    folder: Path
    file: str
    beside: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @property
    def note(self) -> Path:
        return self.folder / f"{self.file}.json"

    def known(self) -> Record:
        """What the note says; nothing without one, or if it cannot be read."""
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) and found.get("format") == FORMAT_VERSION else {}
        except (OSError, ValueError):
            return {}

    def require_ours(self) -> None:
        """UsageError if a file would be overwritten that groundup did not write as it is."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is a file, and exports need a folder", hint="--out names another place")
        hashes = _hashes(self.known())
        for name in (self.file, *self.beside):
            path = self.folder / name
            if path.exists() and (not path.is_file() or sha256(path) not in hashes.get(name, [])):
                raise UsageError(
                    f"{path}: was not written by `groundup export`, or was changed since: it is left as it is",
                    hint="move it away, or name another place with --out",
                )
        if self.note.exists() and not hashes:
            raise UsageError(f"{self.note}: is no note of `groundup export`", hint="move it away, or use --out")

    def holds(self, identity: Record) -> bool:
        """Whether the export is there, whole, and made of just this. To be asked after `require_ours`."""
        known = self.known()
        whole = all((self.folder / name).is_file() for name in (self.file, *self.beside))
        return whole and known.get("made_of") == identity

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """A hidden folder to build in, gone afterwards; so is a folder that was made for an export that failed."""
        new = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder))
        try:
            yield building
        finally:
            shutil.rmtree(building, ignore_errors=True)
            for folder in new:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only an empty one goes

    def take(self, building: Path, record: Record) -> None:
        """Move the files of `building` in, and note `record` about them."""
        before, names = _hashes(self.known()), (self.file, *self.beside)
        now = {name: [sha256(building / name)] for name in names}
        both = {name: [*now[name], *before.get(name, [])] for name in names}
        write_json(self.note, {"format": FORMAT_VERSION, "files": both})
        for name in names:
            with open(building / name, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(building / name, self.folder / name)
        fsync_folder(self.folder)
        self.write(record, now)

    def write(self, record: Record, files: dict[str, list[str]] | None = None) -> None:
        """Note what was found out about the export that is there."""
        write_json(self.note, {"format": FORMAT_VERSION, **record, "files": files or _hashes(self.known())})

    def remove(self) -> None:
        """Remove the export: its own files, which `require_ours` has found to be ours."""
        for name in (self.file, *self.beside):
            (self.folder / name).unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _hashes(known: Record) -> dict[str, list[str]]:
    files = known.get("files")
    if not isinstance(files, dict):
        return {}
    return {name: list(found) for name, found in files.items() if isinstance(found, list)}
