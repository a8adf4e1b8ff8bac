"""Publishing a finished run: to a repository of the Hugging Face Hub in one commit, or to a folder that appears whole.

What is published can be loaded by `groundup.load`; the run folder is not changed. Only what differs is sent, and nothing that
groundup did not write, or that was changed there, is overwritten or removed. The repository that mirrors the run becomes its
publication; its checkpoints stay.
"""

import glob
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.files import fsync_folder
from groundup.basis.hub import HubRepo, is_hub, is_revision, parse_hub
from groundup.recipe import Recipe
from groundup.runs.contents import Changes, Content, Present, There, changes, gather, may_be_ours
from groundup.runs.folder import RunFolder, open_run_folder
from groundup.runs.identity import changes_between, identity_of, told
from groundup.runs.mirror.files import AT_THE_END, CLAIM, SMALL
from groundup.runs.publication import MANIFEST, is_publication, manifest_of, read_described, require_fitting
from groundup.runs.reported import chosen_checkpoint, reported_weights
from groundup.runs.repository import Remote, look
from groundup.ship import hub

_OLD = ".old"


@dataclass(frozen=True)
class Published:
    """What was published, or would be. files: (name, bytes, whether it was sent); removed: names."""

    to: str
    files: tuple[tuple[str, int, bool], ...]
    removed: tuple[str, ...]
    notes: tuple[str, ...]
    url: str | None
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """As `json` can write it."""
        files = [{"name": name, "bytes": size, "sent": sent} for name, size, sent in self.files]
        own = {"to": self.to, "url": self.url, "dry_run": self.dry_run}
        return {**own, "files": files, "removed": list(self.removed), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """For the terminal: every file with its size, then how much of it was sent."""
        verb, gone = ("would send", "would remove") if self.dry_run else ("sent", "removed")
        rows = [(verb if sent else "there already", size_text(size), name) for name, size, sent in self.files]
        rows += [(gone, "", name) for name in self.removed]
        width = max(len(row[0]) for row in rows)
        total = sum(size for _, size, sent in self.files if sent)
        count = sum(sent for *_, sent in self.files)
        return [
            *(f"{what:<{width}}  {size:>8}  {name}" for what, size, name in rows),
            *(f"note: {note}" for note in self.notes),
            f"{verb} {count} of {len(self.files)} files, {size_text(total)}",
            self.url or self.to,
            *([] if self.dry_run else [f"load it: groundup.load({self.to!r})"]),
        ]


def publish(
    run: Path | str,
    to: Path | str,
    *,
    private: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    include: Sequence[str] = (),
) -> Published:
    """Publish a finished run to `hf:OWNER/NAME` or to a folder.

    private: a new repository is seen by its owner alone; dry_run: change nothing, tell what would be done; revision:
    the branch, made where it is missing; include: `export` for what `groundup export` made.
    """
    folder, recipe, summary, weights = _finished(run)
    if not is_hub(to):
        _require_folder_options(to, private, revision)
    repo = _repository(to, revision) if is_hub(to) else None
    if repo is not None and not dry_run:
        hub.require_token()
    described = read_described(folder.classifier_file)
    names = (recipe.name, described.classes)
    if repo is None:
        target = Path(to).resolve()  # a link keeps pointing there
        _require_outside(target, folder.path)
        if not dry_run:
            _put_back(target)
        there = _there(target, include)
        planned = changes(gather(folder, weights, summary, include, None, there), there, *names)
        if not dry_run:
            _write_folder(target, planned)
        return _published(str(to), planned, None, dry_run)
    remote, unknown = _looked_at(repo, dry_run)
    hub.require_privacy(repo, remote, private)
    mirrors = _mirrors(remote, recipe, described.data)
    there = remote.there_of_mirror((*SMALL, *AT_THE_END)) if mirrors else remote.there()
    planned = changes(gather(folder, weights, summary, include, str(repo), there), there, *names)
    planned = replace(planned, notes=(*planned.notes, *unknown))
    message = f"{recipe.name}: {summary['top1']:.2%} top-1 on {summary['reported_on']}"
    url = hub.address(repo) if dry_run else hub.commit(repo, remote, planned, message, private)
    return _published(str(repo), planned, url, dry_run)


def _looked_at(repo: HubRepo, dry_run: bool) -> tuple[Remote, tuple[str, ...]]:
    """The repository as it is. A dry run that cannot see it takes it for empty, and says so."""
    try:
        return look(repo), ()
    except UsageError:
        raise
    except GroundupError as error:
        if not dry_run:
            raise
        return Remote(repo), (f"what is at {repo} already is not known, so every file is listed: {error.message}",)


def _mirrors(remote: Remote, recipe: Recipe, data: str | None) -> bool:
    """Whether the repository is the mirror of this very run. UsageError if another run is mirrored there."""
    if CLAIM not in remote.files:
        return False
    try:
        differences = changes_between(json.loads(remote.read(CLAIM)), identity_of(recipe, data))
    except (ValueError, KeyError, TypeError):
        return False  # a file of that name, of somebody else
    if differences:
        raise UsageError(
            f"{remote.repo}: is the mirror of another run: {told(differences)}", hint="publish under another name"
        )
    return True


def _finished(run: Path | str) -> tuple[RunFolder, Recipe, dict[str, Any], Path]:
    """The run, its recipe, its summary and the file of weights that it reports, checked: what is published can be loaded."""
    if is_hub(run) or is_publication(Path(run)):
        raise UsageError(
            f"{str(run)!r}: is published already", hint="publish from the run folder; copy a folder as it is"
        )
    folder = open_run_folder(run)
    summary = folder.summary()
    if summary is None:
        raise UsageError(
            f"run {str(run)!r}: is not finished, and has no result to publish",
            hint=f"`groundup resume {run}` finishes it",
        )
    recipe = folder.recipe()
    name = reported_weights(folder)
    weights = chosen_checkpoint(folder, recipe, name) / name
    if "model" not in (summary.get("own") or {}):
        require_fitting(recipe, read_described(folder.classifier_file), weights)
    return folder, recipe, summary, weights


def _repository(to: Path | str, revision: str | None) -> HubRepo:
    repo = parse_hub(to)
    if revision is None:
        return repo
    if repo.revision not in (None, revision) or not is_revision(revision):
        raise UsageError(
            f"--revision {revision}: not one branch of {repo}", hint="write hf:OWNER/NAME and --revision BRANCH"
        )
    return HubRepo(repo.name, revision)


def _require_folder_options(to: Path | str, private: bool, revision: str | None) -> None:
    if "://" in str(to) or not str(to).strip():
        raise UsageError(f"--to {to}: unknown place; allowed: hf:OWNER/NAME, or a folder")
    for option, given in (("--private", private), ("--revision", revision is not None)):
        if given:
            raise UsageError(f"{option}: means nothing for a folder", hint="it belongs to --to hf:OWNER/NAME")


def _require_outside(target: Path, run: Path) -> None:
    """UsageError for the run folder, and for a folder in it: publishing changes nothing there."""
    if target.resolve().is_relative_to(run.resolve()):
        raise UsageError(
            f"--to {target}: lies in the run folder {run}, which publishing does not change",
            hint=f"name a folder outside of it, such as --to published/{run.resolve().name}",
        )


def _published(to: str, planned: Changes, url: str | None, dry_run: bool) -> Published:
    files = tuple((content.name, content.entry.size, content.name in planned.send) for content in planned.contents)
    return Published(to, files, planned.remove, planned.notes, url, dry_run)


def _there(target: Path, extras: Sequence[str]) -> There:
    """What lies in a folder. UsageError unless it is missing, empty, or an earlier publication."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"--to {target}: is a file", hint="name a folder")
    if not target.exists() or not any(target.iterdir()):
        return There(str(target))
    earlier = manifest_of(target)
    if earlier is None:
        raise UsageError(
            f"--to {target}: exists, and is not an earlier publication of groundup (it has no valid {MANIFEST})",
            hint="name a new folder; nothing there was touched",
        )
    places = [target.glob("*"), *((target / extra).rglob("*") for extra in extras)]
    found = {file.relative_to(target).as_posix() for place in places for file in place}
    names = {*earlier.files, *(name for name in found if may_be_ours(name, extras))}
    present = {
        name: Present(content.entry.size, sha256=content.entry.sha256)
        for name in sorted(names)
        if _inside(name) and (target / name).is_file()
        for content in [Content(name, target / name)]
    }
    return There(str(target), present, earlier, lambda name: (target / name).read_bytes())


def _inside(name: str) -> bool:
    """Whether a name out of a manifest is a path inside its folder."""
    return not name.startswith("/") and ".." not in Path(name).parts


def _put_back(target: Path) -> None:
    """What a kill between the two moves of `_swap` has left under another name."""
    for old in sorted(target.parent.glob(f".{glob.escape(target.name)}.*{_OLD}")):
        if not target.exists() and manifest_of(old) is not None:
            os.rename(old, target)


def _write_folder(target: Path, planned: Changes) -> None:
    """The folder with the changes made: built beside it, then swapped in. What is not ours in it is carried over."""
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.exists():
            shutil.copytree(target, building, symlinks=True)
        else:
            building.mkdir()
        for content in planned.contents:
            if content.name in planned.send:
                _put(content, building / content.name)
        for name in planned.remove:
            (building / name).unlink()
            with suppress(OSError):  # a folder that is not empty stays
                (building / name).parent.rmdir()
        fsync_folder(building)
        _swap(building, target)
    except OSError as error:
        raise GroundupError(
            f"{target}: could not be written: {_why(error)}; what was there before is untouched",
            hint="check the space and the permissions there",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _why(error: OSError) -> str:
    # Copying a folder gathers its errors: (from, to, why) of each file.
    return str(error.args[0][0][2]) if isinstance(error, shutil.Error) else error.strerror or str(error)


def _put(content: Content, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if isinstance(content.source, bytes):
        place.write_bytes(content.source)
    else:
        shutil.copyfile(content.source, place)
    with open(place, "rb+") as written:
        os.fsync(written.fileno())


def _swap(building: Path, target: Path) -> None:
    if not target.exists():
        os.rename(building, target)
    else:
        old = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_OLD}")
        try:
            os.rename(target, old)
            os.rename(building, target)
        except BaseException:  # Ctrl-C too
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    fsync_folder(target.parent)


def size_text(size: int) -> str:
    """A number of bytes for people: `1.2 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"
