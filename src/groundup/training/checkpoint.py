"""Checkpoints: folders that appear whole or not at all, know their own checksum, and are found again after any kill.

    checkpoints/step-0001234/   model.safetensors     weights and buffers
                                average.safetensors   those of the average, in a run that has one
                                state.pt              the rest of the training state; loads with weights_only=True
                                checksums.json        format version, SHA-256 of each
    checkpoints/last, best      links to one of them, swapped in one move

A damaged checkpoint is detected by its checksum, and the one before it is used.
"""

import json
import os
import pickle
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from groundup.basis.errors import CheckpointError
from groundup.basis.files import fsync_folder, sha256, write_json
from groundup.training.state import TrainingState

FORMAT_VERSION = 1
MODEL, AVERAGE = "model.safetensors", "average.safetensors"


@dataclass(frozen=True)
class CheckpointStore:
    """The `checkpoints/` folder of a run. `keep`: how many of the newest are kept; the best is always kept, and so are those at
    multiples of `keep_every` steps.

    `extra`: plain values saved with every checkpoint, beside the state. `on_saved`: told of every checkpoint that is whole on disk.
    """

    folder: Path
    keep: int = 2
    keep_every: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    on_saved: Callable[[Path], None] | None = None

    def save(self, state: TrainingState, engine: Mapping[str, Any]) -> Path:
        """Write the state after `state.step` updates and point `last` to it. On a full disk the older ones stay as they are."""
        target = self.folder / f"step-{state.step:07d}"
        if not _holds(target, state):
            self.folder.mkdir(parents=True, exist_ok=True)
            building = self.folder / f".building-{secrets.token_hex(4)}"
            try:
                self._write(building, state, engine)
                if target.exists():
                    # Moved away first, under a name that `clean` removes: a kill leaves either of the two, or the one before.
                    os.rename(target, self.folder / f".building-{secrets.token_hex(4)}")
                os.rename(building, target)
                self.clean()
                fsync_folder(self.folder)
            except (OSError, RuntimeError, safetensors.SafetensorError) as error:
                # On a full disk torch raises RuntimeError and safetensors an error of its own.
                shutil.rmtree(building, ignore_errors=True)
                raise CheckpointError(
                    f"{target}: the checkpoint could not be written: {getattr(error, 'strerror', None) or error}; "
                    "older checkpoints are untouched",
                    hint="free some space, then `groundup resume` the run",
                ) from error
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        try:
            self.point("last", target)
            best = self.folder / f"step-{state.best['step']:07d}" if state.best else None
            if best and best.is_dir():  # an older one too: a kill or a full disk may have kept it from being pointed to
                self.point("best", best)
        except OSError as error:
            raise CheckpointError(
                f"{target}: the checkpoint is whole, but the links to it could not be written: {error.strerror or error}",
                hint="free some space, then `groundup resume` the run; it goes on from this checkpoint",
            ) from error
        self._prune(target)
        if self.on_saved:
            self.on_saved(target)
        return target

    def _write(self, folder: Path, state: TrainingState, engine: Mapping[str, Any]) -> None:
        folder.mkdir()
        contents = {"format": FORMAT_VERSION, "state": state.to_dict(), "engine": dict(engine), **self.extra}
        torch.save(contents, folder / "state.pt")
        networks = (
            {MODEL: state.model} if state.average is None else {MODEL: state.model, AVERAGE: state.average.network}
        )
        for name, network in networks.items():
            weights = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
            safetensors.torch.save_file(weights, folder / name)
            # safetensors makes its file readable by its owner alone, whatever the umask says.
            shutil.copymode(folder / "state.pt", folder / name)
        files = (*networks, "state.pt")
        for name in files:
            with open(folder / name, "rb+") as written:
                os.fsync(written.fileno())
        sums = {name: sha256(folder / name) for name in files}
        write_json(folder / "checksums.json", {"format": FORMAT_VERSION, **sums})

    def point(self, name: str, target: Path) -> None:
        """Make the link `name` point to `target`, in one move."""
        temporary = self.folder / f".{name}.{secrets.token_hex(4)}"
        os.symlink(target.name, temporary)
        os.replace(temporary, self.folder / name)
        fsync_folder(self.folder)

    def _prune(self, newest: Path) -> None:
        best = self.folder / "best"
        kept = {os.readlink(best)} if best.is_symlink() else set()
        everything = self.all()
        # What is newer was damaged, or the run would not have gone on from before it.
        kept.update(folder.name for folder in everything[everything.index(newest) :][: self.keep])
        for folder in everything:
            if folder.name not in kept and not self._is_milestone(folder):
                # Renamed first: a kill in the middle must not leave half a checkpoint under a valid name.
                doomed = folder.with_name(f".building-{secrets.token_hex(4)}")
                os.rename(folder, doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def _is_milestone(self, folder: Path) -> bool:
        return bool(self.keep_every) and _step_of(folder) % (self.keep_every or 1) == 0

    def all(self) -> list[Path]:
        """Every checkpoint folder, newest first."""
        return sorted(self.folder.glob("step-*"), key=lambda folder: (len(folder.name), folder.name), reverse=True)

    def clean(self) -> None:
        """Remove what a kill left half written."""
        for leftover in (*self.folder.glob(".building-*"), *self.folder.glob(".last.*"), *self.folder.glob(".best.*")):
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()

    def newest_whole(self, say: Callable[[str], None], before: int | None = None) -> Path | None:
        """The newest checkpoint that is not damaged, None if there never was one. `say` is told of every damaged one.

        `before`: only those of earlier steps. CheckpointError if there are such checkpoints and all are damaged.
        """
        candidates = [folder for folder in self.all() if before is None or _step_of(folder) < before]
        for folder in candidates:
            problem = _problem(folder)
            if problem is None:
                return folder
            say(f"{folder} is damaged ({problem}); using the checkpoint before it")
        if candidates:
            raise CheckpointError(
                f"{self.folder}: all {len(candidates)} checkpoints are damaged",
                hint="restore the folder from a copy, or start the run again with `groundup train` on its recipe.yaml",
            )
        return None


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _holds(folder: Path, state: TrainingState) -> bool:
    """Whether a whole checkpoint of this very state is there. One that was written when an evaluation was interrupted is of the
    same step, but from before that evaluation: it lacks what that measured (the norm statistics of an average, the best)."""
    if not folder.is_dir() or _problem(folder) is not None:
        return False
    saved = read_state(folder)["state"]
    average = {} if state.average is None else state.average.to_dict()
    return bool(saved["numbers"]["evaluated_at"] == state.evaluated_at and saved["average"] == average)


def _problem(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None. A newer format is an error, not damage."""
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        if not isinstance(sums, dict):
            return "checksums.json is not what groundup wrote"
        check_format(folder, sums.pop("format"))
        if not {MODEL, "state.pt"} <= sums.keys():
            return f"checksums.json names {', '.join(sums) or 'nothing'} alone"
        for name in sums:
            if sha256(folder / name) != sums[name]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def check_format(path: Path, version: object) -> None:
    """CheckpointError unless this version of groundup reads format `version`."""
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}; this groundup reads version {FORMAT_VERSION}",
            hint="resume it with the version of groundup that wrote it (see environment.json)",
        )


def load_weights(folder: Path, model: torch.nn.Module, name: str = MODEL) -> None:
    """Copy the weights of a checkpoint (`name`: the model's or the average's file) into `model`, in place.

    CheckpointError if names or shapes differ.
    """
    saved = safetensors.torch.load_file(folder / name)
    own = model.state_dict()
    if saved.keys() != own.keys():
        odd = sorted(saved.keys() ^ own.keys())[:5]
        raise CheckpointError(
            f"{folder}: the weights are of another network; names that only one side has: {', '.join(odd)}"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            if tensor.shape != saved[key].shape:
                raise CheckpointError(
                    f"{folder}: {key} has shape {tuple(saved[key].shape)}, the network has {tuple(tensor.shape)}"
                )
            tensor.copy_(saved[key])


def read_state(folder: Path) -> dict[str, Any]:
    """The contents of `state.pt`, read without unpickling any code."""
    try:
        saved: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{folder / 'state.pt'}: not a training state: it cannot be read without running code from the file",
            hint="only resume runs that groundup wrote",
        ) from error
    check_format(folder, saved.get("format"))
    return saved


def load_checkpoint(folder: Path, state: TrainingState) -> dict[str, Any]:
    """Bring `state` to where the checkpoint was taken, and return what else was saved with it."""
    saved = read_state(folder)
    load_weights(folder, state.model)
    if state.average is not None:
        load_weights(folder, state.average.network, AVERAGE)
    state.load_dict(saved["state"])
    return saved
