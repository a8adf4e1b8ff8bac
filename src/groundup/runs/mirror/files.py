"""What a mirror holds, as files: the claim on the place, checkpoints with their manifests, the run's small files.

    run.json                              whose place this is: recipe and data of the run, format version
    checkpoints/step-0001234/*            the files of a checkpoint, as they lie in the run folder
    checkpoints/step-0001234/manifest.json
                                          written last: size and SHA-256 of each, the step of the best so far, and the text of the
                                          run's small files at that moment. A checkpoint without a whole manifest does not exist
    recipe.yaml, metrics.jsonl, ...       the run's small files again, for people; summary.json and the card at the end

A resume takes everything from one manifest, so that it never mixes what was written at two moments.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
CLAIM, MANIFEST = "run.json", "manifest.json"
# What goes with every checkpoint, and what is added when the run is over.
SMALL = ("recipe.yaml", "classifier.json", "environment.json", "metrics.jsonl")
AT_THE_END = ("summary.json", "README.md", "training_curves.png")
_STAGING = ".mirroring-"


@dataclass(frozen=True)
class Copy:
    """A checkpoint set aside for an upload.

    `folder`: hard links to its files, so that it stays when the run removes the original, or copies on a file system that has none;
    `best_name`: the best checkpoint of that moment, `best`: its copy if it is another one; `small`: text of the run's small files.
    """

    name: str
    folder: Path
    small: dict[str, str]
    best_name: str | None = None
    best: "Copy | None" = None

    def discard(self) -> None:
        """Remove what was set aside."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        if self.best:
            self.best.discard()

    def files(self) -> dict[str, Path]:
        """Its files under the names that they have in the mirror."""
        return {f"checkpoints/{self.name}/{file.name}": file for file in sorted(self.folder.iterdir())}

    def manifest(self) -> dict[str, Any]:
        """What its manifest holds. The sums are those that were taken when the checkpoint was written."""
        sums = json.loads((self.folder / "checksums.json").read_text())
        sums["checksums.json"] = digest((self.folder / "checksums.json").read_bytes())
        return {
            "format": FORMAT_VERSION,
            "step": step_of(self.name),
            "best": self.best_name,
            "files": {
                file.name: {"bytes": file.stat().st_size, "sha256": sums[file.name]}
                for file in sorted(self.folder.iterdir())
            },
            "run": {name: {"sha256": digest(text.encode()), "text": text} for name, text in self.small.items()},
        }


def set_aside(run: Path, checkpoint: Path) -> Copy:
    """A copy of `checkpoint` and of the run's best, made in a moment: links, and some kilobytes of text. OSError if there is no
    room for it."""
    small = {name: (run / name).read_text() for name in SMALL if (run / name).is_file()}
    link = checkpoint.parent / "best"
    best = checkpoint.parent / os.readlink(link) if link.is_symlink() else None
    copy = Copy(checkpoint.name, _beside(checkpoint), small)
    if best is None or not best.is_dir():
        return copy
    try:
        other = Copy(best.name, _beside(best), small, best.name) if best != checkpoint else None
    except OSError:
        copy.discard()
        raise
    return replace(copy, best_name=best.name, best=other)


def _beside(checkpoint: Path) -> Path:
    beside = checkpoint.parent / f"{_STAGING}{secrets.token_hex(4)}" / checkpoint.name
    try:
        beside.mkdir(parents=True)
        for file in checkpoint.iterdir():
            _link_or_copy(file, beside / file.name)
    except OSError:
        shutil.rmtree(beside.parent, ignore_errors=True)
        raise
    return beside


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)


def clean(checkpoints: Path) -> None:
    """Remove what a killed run has set aside."""
    for leftover in checkpoints.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def small_files(run: Path) -> dict[str, bytes]:
    """The run's small files and what is written at its end, as far as they are there."""
    return {name: (run / name).read_bytes() for name in (*SMALL, *AT_THE_END) if (run / name).is_file()}


def whole(names: Iterable[str]) -> list[str]:
    """The checkpoints in a mirror that have a manifest, newest first."""
    return sorted({match[1] for match in _matches(names) if match[2] == MANIFEST}, key=step_of, reverse=True)


def half_written(names: Iterable[str]) -> list[str]:
    """Those that have none, newest first."""
    names = set(names)
    return sorted({match[1] for match in _matches(names)} - set(whole(names)), key=step_of, reverse=True)


def outdated(names: Iterable[str], kept: set[str]) -> list[str]:
    """The files of all checkpoints but those `kept`: first the manifests, so that no checkpoint counts of which files are gone."""
    gone = [match for match in _matches(names) if match[1] not in kept]
    return [match[0] for match in sorted(gone, key=lambda match: (match[2] != MANIFEST, match[0]))]


def _matches(names: Iterable[str]) -> list[re.Match[str]]:
    """Those of `names` that are files of a checkpoint: (all of it, the checkpoint, the file)."""
    found = (re.fullmatch(r"checkpoints/(step-\d+)/([^/]+)", name) for name in names)
    return [match for match in found if match]


def read_manifest(content: bytes) -> dict[str, Any]:
    """A manifest that is whole; ValueError says what is wrong with it."""
    try:
        manifest: dict[str, Any] = json.loads(content)
        if manifest["format"] != FORMAT_VERSION:
            raise ValueError(f"format version {manifest['format']}; this groundup reads version {FORMAT_VERSION}")
        files, run = manifest["files"], manifest["run"]
        if not {"model.safetensors", "state.pt", "checksums.json"} <= files.keys() or "recipe.yaml" not in run:
            raise ValueError("the manifest lacks files")
        if any("/" in name or name.startswith(".") for name in (*files, *run)):
            raise ValueError("the manifest names files outside the checkpoint")
        for name, entry in run.items():
            if digest(entry["text"].encode()) != entry["sha256"]:
                raise ValueError(f"{name} does not match its checksum")
        int(manifest["step"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the manifest is damaged: {type(error).__name__}: {error}") from error
    return manifest


def step_of(name: str) -> int:
    """The step of a checkpoint, from its name."""
    return int(name.removeprefix("step-"))


def digest(content: bytes) -> str:
    """The SHA-256 of `content`, as hex."""
    return hashlib.sha256(content).hexdigest()
