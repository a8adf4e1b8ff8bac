"""From a mirror back to a run folder: all of it on an empty machine, the newer checkpoint into an older folder of the same run.

Everything comes from one manifest and is compared with its checksums; a checkpoint that is half written or damaged is said and
the one before it is taken. A folder appears whole or not at all, and the checkpoints in an existing one stay.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from groundup.basis.errors import CheckpointError, GroundupError, UsageError
from groundup.basis.files import sha256, write_bytes, write_text
from groundup.runs.folder import RunFolder, open_run_folder
from groundup.runs.identity import changes_between, identity_of, told
from groundup.runs.mirror import files
from groundup.runs.mirror.places import (
    Place,
    check_address,
    in_words,
    is_mistake,
    open_place,
    place_of_run,
    without_secrets,
)
from groundup.training import CheckpointStore

# Attempts at one file, and seconds before the second; doubled after each.
TRIES, FIRST_PAUSE = 4, 1.0
Say = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Found:
    """A whole checkpoint, downloaded into `folder`. `best`: the folder of the best one of its moment; None: there was none yet."""

    folder: Path
    best: Path | None
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])


def run_from_mirror(url: str, wanted: Path | None, say: Say) -> Path:
    """The run folder of the run at `url` (its own address, prefix/NAME), made or brought up to date.

    `wanted`: the folder, by default runs/NAME. A folder of the same run stays as it is unless the mirror has a newer checkpoint.
    UsageError if there is no run at `url`, or `wanted` holds another one; CheckpointError if nothing there is whole.
    """
    check_address(url)
    name = url.rstrip("/").rpartition("/")[2]
    target = wanted or Path("runs") / name
    with _alone(target):
        if target.exists() and not target.is_dir():
            raise UsageError(f"--run {target}: is a file")
        if target.is_dir() and any(target.iterdir()):
            bring_up_to_date(open_run_folder(target), open_place(url), say)
        else:
            _make_folder(target, open_place(url), say)
    return target


def from_own_mirror(folder: RunFolder, say: Say) -> None:
    """Bring a run folder up to date from the mirror that its recipe names."""
    mirror = folder.recipe().checkpoint.mirror
    if mirror is None:
        raise UsageError(f"--from-mirror: {folder.recipe_file} names no checkpoint.mirror")
    with _alone(folder.path):
        bring_up_to_date(folder, place_of_run(mirror, folder.path.resolve().name), say)


def bring_up_to_date(folder: RunFolder, place: Place, say: Say) -> None:
    """Put the newest whole checkpoint of the mirror into `folder`, if it is newer than all that lie there. Nothing is removed."""
    names = _names(place)
    _refuse_another_run(folder, place)
    store = folder.store()
    step = _newest_step(store, say)
    if not any(files.step_of(name) > step for name in files.whole(names)):
        say(f"{folder.path}: the mirror has nothing newer than step {step} here")
        return
    with folder.locked():
        store.folder.mkdir(parents=True, exist_ok=True)
        with _room(store.folder / ".building-mirror") as room:
            found = _newest_whole(place, names, room, say, after=step)
            if found is not None:
                say(f"mirror {place.url}: step {found.step} is newer than step {step} here; going on from it")
                _settle(found, folder.path)


def _newest_step(store: CheckpointStore, say: Say) -> int:
    """The step of the newest whole checkpoint, -1 if none is whole."""
    try:
        newest = store.newest_whole(say)
    except CheckpointError:
        return -1
    return -1 if newest is None else files.step_of(newest.name)


def _make_folder(target: Path, place: Place, say: Say) -> None:
    names = _names(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _room(target.with_name(f".{target.name}.from-mirror")) as room:
        found = _newest_whole(place, names, room / "downloaded", say, after=-1)
        if found is None:
            raise UsageError(
                f"mirror {place.url}: the run has no checkpoint there yet", hint="start it again with `groundup train`"
            )
        run = room / "run"
        (run / "checkpoints").mkdir(parents=True)
        for name, entry in found.manifest["run"].items():
            write_text(run / name, entry["text"])
        _settle(found, run)
        _take_result(place, names, run, found.step)
        if target.is_dir():
            target.rmdir()  # it is empty
        os.rename(run, target)
    say(f"mirror {place.url}: step {found.step} is now in {target}")


def _settle(found: Found, run: Path) -> None:
    """Move the downloaded checkpoints into their place. The measurements up to them come first: a resume cuts back what is too
    much, but cannot make what is missing."""
    store = RunFolder(run).store()
    write_text(run / "metrics.jsonl", found.manifest["run"].get("metrics.jsonl", {"text": ""})["text"])
    for folder in dict.fromkeys(filter(None, (found.best, found.folder))):
        if (store.folder / folder.name).exists():
            shutil.rmtree(store.folder / folder.name)  # damaged, or older than this one
        os.rename(folder, store.folder / folder.name)
    store.point("last", store.folder / found.folder.name)
    if found.best:
        store.point("best", store.folder / found.best.name)


def _take_result(place: Place, names: set[str], run: Path, step: int) -> None:
    """The result of a finished run, if it is that of this very checkpoint."""
    if "summary.json" not in names:
        return
    try:
        content = _tried(lambda: place.read("summary.json"))
        whole = json.loads(content)["steps"] == step
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return  # half written: the result is measured again
    if whole:
        for name in files.AT_THE_END:
            if name in names and name != "summary.json":
                write_bytes(run / name, _tried(lambda name=name: place.read(name)))  # type: ignore[misc]
        write_bytes(run / "summary.json", content)


def _names(place: Place) -> set[str]:
    """Every file of the run at `place`. UsageError if there is no run."""
    try:
        names = _tried(place.names)
    except FileNotFoundError:  # not even a bucket
        names = set()
    if files.CLAIM not in names:
        below = sorted(
            name.removesuffix(f"/{files.CLAIM}")
            for name in names
            if name.count("/") == 1 and name.endswith(f"/{files.CLAIM}")
        )
        raise UsageError(
            f"mirror {place.url}: there is no run", hint=f"runs below it: {', '.join(below[:10])}" if below else None
        )
    return names


def _newest_whole(place: Place, names: set[str], room: Path, say: Say, *, after: int) -> Found | None:
    """Download the newest whole checkpoint of a step above `after` into `room`; None if the mirror has none that new."""
    candidates = [name for name in files.whole(names) if files.step_of(name) > after]
    for name in files.half_written(names):
        if not candidates or files.step_of(name) > files.step_of(candidates[0]):
            say(f"mirror {place.url}: {name} was never finished; skipped")
    for name in candidates:
        try:
            manifest = _download(place, name, room)
            best = manifest["best"]
            if best not in (None, name):
                _download(place, best, room)
        except (ValueError, FileNotFoundError) as error:
            say(f"mirror {place.url}: {name} is damaged ({without_secrets(error)}); using the checkpoint before it")
            continue
        return Found(room / name, room / best if best else None, manifest)
    if candidates:
        raise CheckpointError(
            f"mirror {place.url}: all {len(candidates)} checkpoints are damaged",
            hint="go on from another copy of the run, or start it again under another name",
        )
    return None


def _download(place: Place, name: str, room: Path) -> dict[str, Any]:
    """A checkpoint with its manifest; ValueError if it is not what the manifest says."""
    manifest = files.read_manifest(_tried(lambda: place.read(f"checkpoints/{name}/{files.MANIFEST}")))
    if manifest["step"] != files.step_of(name):
        raise ValueError(f"the manifest is that of step {manifest['step']}")
    folder = room / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, entry in manifest["files"].items():
        if not (folder / file).exists() or sha256(folder / file) != entry["sha256"]:
            _tried(lambda file=file: place.fetch(f"checkpoints/{name}/{file}", folder / file))  # type: ignore[misc]
        if sha256(folder / file) != entry["sha256"]:
            raise ValueError(f"{file} does not match its checksum")
    return manifest


def _refuse_another_run(folder: RunFolder, place: Place) -> None:
    claim = json.loads(_tried(lambda: place.read(files.CLAIM)))
    here = identity_of(folder.recipe(), None)
    constants = here["recipe"]["augment"]["normalize"]
    if None in constants.values():  # not measured yet
        constants.update(claim["recipe"]["augment"]["normalize"])
    if changes := changes_between(claim, here):
        raise UsageError(
            f"run {str(folder.path)!r} is not the run of the mirror {place.url}: {told(changes)}",
            hint="give another folder with --run",
        )


def _tried(call: Callable[[], Result]) -> Result:
    """What `call` returns; tried again when the connection fails, with growing pauses. GroundupError if it goes on failing."""
    for attempt in range(TRIES):
        try:
            return call()
        except (FileNotFoundError, UsageError):
            raise
        except Exception as error:  # whatever the client raises
            if attempt == TRIES - 1 or is_mistake(error):
                raise GroundupError(
                    f"the mirror could not be read: {in_words(error)}",
                    hint="check the connection and the credentials, then run the command again; nothing was changed",
                ) from error
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time prepares a folder: of several ranks on a machine the first downloads, the others find it done."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.mirror.lock") as lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, see RunFolder.locked


@contextmanager
def _room(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards. One that a killed process has left is emptied."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
