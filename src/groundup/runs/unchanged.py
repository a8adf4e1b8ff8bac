"""Going on with a run: the checkpoint that it goes on from, and what must not have changed since."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from groundup.basis.errors import DataError, UsageError
from groundup.basis.machine import usable_cores
from groundup.data import Splits
from groundup.recipe import Recipe, validate
from groundup.runs.folder import RunFolder
from groundup.runs.identity import refused_changes
from groundup.runs.prepare import Plan
from groundup.runs.reported import damaged_best
from groundup.tracking import Tracker
from groundup.training import Engine, World, read_state


def begun(folder: RunFolder, plan: Plan, terminal: Tracker) -> tuple[Path | None, Engine | None]:
    """The checkpoint to go on from and the engine that it was made with, if there is one. Writes the complete recipe."""
    recipe = plan.recipe
    folder.write_recipe(recipe)
    store = folder.store(recipe.checkpoint.keep)
    store.clean()
    checkpoint = store.newest_whole(terminal.message, before=damaged_best(folder, recipe))
    if checkpoint is None:
        return None, None
    saved = read_state(checkpoint)
    _refuse_changes(folder, recipe, saved["recipe"])
    _refuse_other_data(folder, plan.splits, saved.get("data"))
    return checkpoint, Engine(**saved["engine"])


def refuse_changed_result(folder: RunFolder) -> None:
    """UsageError if the recipe of a finished run is no longer the one that its newest whole checkpoint was made with."""
    recipe = folder.recipe()
    checkpoint = folder.store(recipe.checkpoint.keep).newest_whole(lambda damaged: None)
    if checkpoint is not None:
        _refuse_changes(folder, recipe, read_state(checkpoint)["recipe"])


def refuse_different_data(world: World, splits: Splits) -> None:
    """DataError unless every process has the data of process 0."""
    if (first := world.from_main(lambda: splits.fingerprint)) != splits.fingerprint:
        raise DataError(
            f"process {world.rank} has other data than process 0 (fingerprints {splits.fingerprint} and {first})",
            hint="give every machine the same source",
        )


def engine_of_all(world: World, own: Engine) -> Engine:
    """Every process's own device, with the arithmetic of process 0: machines may differ in what `auto` means on them."""
    first = world.from_main(lambda: own)
    if first.torch_device.type != own.torch_device.type:
        raise UsageError(
            f"process {world.rank} would train on {own.device}, process 0 on {first.device}; all need the same kind of device",
            hint="set train.device, and leave out the machine that lacks it",
        )
    return replace(own, precision=first.precision, compiled=first.compiled, why=first.why)


def same_engine(saved: Engine, chosen: Engine, terminal: Tracker) -> Engine:
    """The engine the run was started with, so that a resume computes the same; another device only if that one is gone."""
    if saved.torch_device.type != chosen.torch_device.type:
        terminal.message(
            f"the run was started on {saved.device}; this machine has {chosen.device}: it goes on, but not bit for bit"
        )
        return chosen
    if saved.processes != chosen.processes:
        terminal.message(f"{saved.processes} processes trained the run; {chosen.processes} go on, but not bit for bit")
        return replace(chosen, precision=saved.precision, compiled=saved.compiled, why=saved.why)
    if saved.threads > usable_cores():
        terminal.message(f"the run was started with {saved.threads} threads; here it may use {usable_cores()} cores")
    return replace(saved, device=chosen.device, backend=chosen.backend)


def _refuse_changes(folder: RunFolder, recipe: Recipe, saved: dict[str, Any]) -> None:
    # Read again first: keys that are newer than the checkpoint take their defaults.
    changes = refused_changes(validate(_without_unset(saved)), recipe)
    changed = [f"{key}: was {was!r}, is {is_now!r}" for key, was, is_now in changes]
    if changed:
        raise UsageError(
            f"{folder.recipe_file}: the recipe has changed since the checkpoint: {'; '.join(changed)}",
            hint="put it back to resume, or start a new run: `groundup train` with the changed file",
        )


def _without_unset(saved: dict[str, Any]) -> dict[str, Any]:
    """A recipe out of a checkpoint. Earlier versions wrote null for what a phase leaves as it is."""
    phases = [
        {**phase, "set": {key: value for key, value in phase["set"].items() if value is not None}}
        for phase in saved.get("phases", ())
    ]
    return {**saved, "phases": phases}


def beside_state(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What a resume has to find unchanged; saved with every checkpoint."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True), "data": splits.fingerprint}


def _refuse_other_data(folder: RunFolder, splits: Splits, saved: str | None) -> None:
    if saved not in (None, splits.fingerprint):
        raise UsageError(
            f"{folder.path}: the data has changed since the checkpoint (fingerprint {saved}, now {splits.fingerprint})",
            hint="put it back to resume (data handed in from Python has to be handed in again), or start a new run",
        )
