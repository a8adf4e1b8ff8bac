"""Training a recipe into a run folder, and going on with one: the same path, from data to summary."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from groundup.basis.errors import GroundupError, OutOfMemory, UsageError
from groundup.basis.files import write_json
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.basis.machine import out_of_memory, usable_cores
from groundup.data import Splits
from groundup.preflight import CODES, static_findings, stops_a_run, without_ignored
from groundup.recipe import Recipe, load_recipe, validate
from groundup.runs.card import write_card
from groundup.runs.folder import RunFolder, create_run_folder, discard_if_unused, open_run_folder, without_home
from groundup.runs.load import damaged_best, describe_classifier, reported_weights_are_whole
from groundup.runs.pictures import draw_curves, draw_samples
from groundup.runs.prepare import (
    Plan,
    build_job,
    build_network,
    make_plan,
    open_data,
    subject_with,
    told_in_tenths,
    with_measured_constants,
)
from groundup.runs.summary import summarize
from groundup.tracking import MetricsFile, TensorBoardTracker, TerminalTracker, Tracker, Trackers, WandbTracker
from groundup.training import Engine, Job, NonFiniteLoss, TrainingState, choose_engine, load_checkpoint, read_state
from groundup.training import train as run_loop


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its summary (see DESIGN: `top1`, `top1_interval`, `pflop` ...)."""

    folder: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Own:
    """What a caller hands in from Python in place of the recipe's: a network, data. `pictures`: whether samples.png and
    training_curves.png are drawn."""

    model: nn.Module | None = None
    splits: Splits | None = None
    pictures: bool = True

    def names(self) -> dict[str, str]:
        """What was handed in, for the record: a run must not be described by a recipe that was not followed."""
        given = {} if self.model is None else {"model": type(self.model).__name__}
        return given if self.splits is None else {**given, "data": "handed in from Python"}


def train(
    recipe: str | Recipe,
    overrides: Sequence[str] = (),
    *,
    run: Path | str | None = None,
    model: nn.Module | None = None,
    data: Splits | None = None,
    max_seconds: float | None = None,
    terminal: Tracker | None = None,
    stop: StopRequest | None = None,
    pictures: bool = True,
) -> Run:
    """Train a recipe (library name, path, or object) into a new run folder.

    `run`: the folder, by default runs/NAME-001 and so on; `model`: your own network, (N, 3, S, S) -> (N, classes), in place of
    the recipe's; `data`: your own splits in place of the recipe's; `max_seconds`: stop resumably after that time. `terminal`: told
    what a person would see, in place of the terminal; `stop`: your own request to stop, in place of `max_seconds`;
    `pictures`: draw samples.png and training_curves.png.
    Raises `Interrupted` if stopped (the run can be resumed), `UsageError` for a bad recipe.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        raise UsageError("overrides: apply to a recipe given by name or path, not to a Recipe object")
    folder = create_run_folder(chosen, None if run is None else Path(run))
    folder.write_recipe(without_home(chosen))
    try:
        return _carry_out(folder, Own(model, data, pictures), stop or StopRequest(max_seconds), terminal, opens=True)
    except GroundupError:
        discard_if_unused(folder)
        raise


def resume(
    run: Path | str,
    *,
    model: nn.Module | None = None,
    data: Splits | None = None,
    max_seconds: float | None = None,
    terminal: Tracker | None = None,
    stop: StopRequest | None = None,
    pictures: bool = True,
) -> Run:
    """Go on with a run exactly where its last whole checkpoint was taken. A finished run is returned as it is, unless the
    weights that it reports are damaged: then the steps since the newest whole checkpoint before them are made again, all of them if
    there is none."""
    folder = open_run_folder(run)
    if (summary := folder.summary()) and reported_weights_are_whole(folder):
        return Run(folder.path, summary)
    return _carry_out(folder, Own(model, data, pictures), stop or StopRequest(max_seconds), terminal)


def _carry_out(folder: RunFolder, own: Own, stop: StopRequest, terminal: Tracker | None, *, opens: bool = False) -> Run:
    """opens: a new run, which is checked before its first step. A run that has begun is never refused."""
    terminal = terminal or TerminalTracker()
    with stop.listening(), folder.locked():
        try:
            return _prepare_and_train(folder, own, stop, terminal, opens)
        except Interrupted as stopped:
            go_on = f"`groundup resume {folder.path}` goes on with the run"
            raise Interrupted(f"{stopped.reason}; {go_on}", stopped.exit_code) from stopped
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory: {str(error).strip().splitlines()[0] if str(error) else 'the machine has no more'}"
            ) from error
        finally:
            terminal.close()


def _prepare_and_train(folder: RunFolder, own: Own, stop: StopRequest, terminal: Tracker, opens: bool) -> Run:
    recipe = folder.recipe()
    splits = own.splits or open_data(recipe, stop, told_in_tenths(terminal))
    for note in splits.notes:
        terminal.message(f"data: {note}")
    recipe = with_measured_constants(recipe, splits)
    plan = make_plan(recipe, splits)
    folder.write_recipe(recipe)
    store = folder.store(recipe.checkpoint.keep)
    store.clean()
    checkpoint = store.newest_whole(terminal.message, before=damaged_best(folder, recipe))
    engine = choose_engine(recipe.train, plan.clock.total_steps)
    if checkpoint:
        saved = read_state(checkpoint)
        _refuse_changes(folder, recipe, saved["recipe"])
        _refuse_other_data(folder, splits, saved.get("data"))
        engine = _same_engine(Engine(**saved["engine"]), engine, terminal)
    engine.activate()
    network = build_network(plan, engine, own.model)
    if opens:
        _open(plan, network, terminal)
    job, state = build_job(plan, engine, network, stop.check)  # which may have decided against compiling
    try:
        return _train_with(folder, plan, job, state, checkpoint, own, stop, terminal)
    except NonFiniteLoss as error:
        if not job.engine.compiled:
            raise
        terminal.message(f"compiled: {error.message}; going back to the last checkpoint and on without compiling")
        eager = replace(job.engine, compiled=False, why=f"eager: the compiled network diverged ({error.message})")
        del network, job, state  # the device has no room for two
        job, state = build_job(plan, eager, build_network(plan, eager, own.model), stop.check)
        return _train_with(folder, plan, job, state, store.newest_whole(terminal.message), own, stop, terminal)


def _open(plan: Plan, network: nn.Module, terminal: Tracker) -> None:
    """The checks that need no image. UsageError for an error that nobody asked for; the rest that matters is a line each."""
    found, _ = without_ignored(static_findings(subject_with(plan, network)), plan.recipe.check.ignore)
    if errors := [finding for finding in found if stops_a_run(finding)]:
        said = "\n".join(f"{finding.code} {CODES[finding.code].title}: {finding.saw}" for finding in errors)
        mends = [finding.mend for finding in errors if finding.mend]
        codes = ", ".join(dict.fromkeys(finding.code for finding in errors))
        raise UsageError(said, hint="; ".join([*mends, f"or, if it is meant: 'check.ignore=[{codes}]'"]))
    for finding in found:
        if finding.level != "note":
            mend = f" mend: {finding.mend};" if finding.mend else ""
            title = CODES[finding.code].title
            terminal.message(f"{finding.code} {finding.level}: {title}: {finding.saw};{mend} `groundup check` explains")


def _train_with(
    folder: RunFolder,
    plan: Plan,
    job: Job,
    state: TrainingState,
    checkpoint: Path | None,
    own: Own,
    stop: StopRequest,
    terminal: Tracker,
) -> Run:
    recipe, engine = plan.recipe, job.engine
    engine.activate()
    folder.write_environment(engine, own.names())
    write_json(folder.classifier_file, describe_classifier(recipe, plan.splits))
    if checkpoint:
        load_checkpoint(checkpoint, state)
    metrics = MetricsFile(folder.metrics_file)
    metrics.cut_back(state.evaluated_at)  # the line of the checkpoint's own step may be still to come
    optional = _optional(folder, recipe, state.step if checkpoint else None)
    trackers = Trackers([terminal, *optional], essential=[metrics])
    if own.pictures and not folder.samples_picture.exists():
        for name in draw_samples(folder.samples_picture, job, plan.splits.classes):
            terminal.message(f"augment.policy: {name} changed none of the first images")
    trackers.start(
        {
            "name": recipe.name,
            "total_steps": plan.clock.total_steps,
            "step": state.step,
            "epochs": recipe.train.epochs,
            "recipe": without_home(recipe).model_dump(mode="json", by_alias=True),
        }
    )
    trackers.message(f"{engine.device}, {engine.threads} threads, {engine.why}")
    if folder.samples_picture.exists():
        trackers.image("samples", folder.samples_picture, state.step)
    store = folder.store(recipe.checkpoint.keep, _keep_every(plan), _beside_state(recipe, plan.splits))
    try:
        run_loop(job, state, store, trackers, stop)
    finally:
        if own.pictures:
            _draw_curves(folder, recipe, terminal)
        if folder.curves_picture.exists():
            trackers.image("training_curves", folder.curves_picture, state.step)
        trackers.close()
    summary = summarize(folder, plan, job, state, stop, own.names())
    write_card(folder, recipe, summary)
    write_json(folder.summary_file, summary)
    return Run(folder.path, summary)


def _keep_every(plan: Plan) -> int | None:
    every = plan.recipe.checkpoint.keep_every
    return None if every is None else max(1, plan.clock.steps(every))


def _draw_curves(folder: RunFolder, recipe: Recipe, terminal: Tracker) -> None:
    try:
        draw_curves(folder, recipe)
    except OSError as error:  # such as a full disk; what ended the run must not be hidden by it
        terminal.message(f"{folder.curves_picture}: {error.strerror or error}; drawn again by the next resume")


def _optional(folder: RunFolder, recipe: Recipe, purge_step: int | None) -> list[Tracker]:
    """The trackers that the recipe asks for, as far as they can be had: no run ends for want of one."""
    track = recipe.track
    wanted: dict[str, Callable[[], Tracker]] = {}
    if track.tensorboard:
        wanted["tensorboard"] = lambda: TensorBoardTracker(folder.tensorboard, purge_step)
    if (mode := track.wandb) != "off":
        wanted["wandb"] = lambda: WandbTracker(folder.path, mode, track.wandb_project)
    found = []
    for name, build in wanted.items():
        try:
            found.append(build())
        except (OSError, ImportError) as error:
            print(f"{name}: {error}; the run goes on without it", file=sys.stderr)
    return found


def _same_engine(saved: Engine, chosen: Engine, terminal: Tracker) -> Engine:
    """The engine the run was started with, so that a resume computes the same; another device only if that one is gone."""
    if saved.torch_device.type != chosen.torch_device.type:
        terminal.message(
            f"the run was started on {saved.device}; this machine has {chosen.device}: it goes on, but not bit for bit"
        )
        return chosen
    if saved.threads > usable_cores():
        terminal.message(f"the run was started with {saved.threads} threads; here it may use {usable_cores()} cores")
    return saved


def _refuse_changes(folder: RunFolder, recipe: Recipe, saved: dict[str, Any]) -> None:
    # Read again first: keys that are newer than the checkpoint take their defaults.
    now, then = (_what_decides(chosen) for chosen in (recipe, validate(_without_unset(saved))))
    changes = [f"{key}: was {was!r}, is {now_is!r}" for key, was, now_is in _differences(then, now)]
    if changes:
        raise UsageError(
            f"{folder.recipe_file}: the recipe has changed since the checkpoint: {'; '.join(changes)}",
            hint="put it back to resume, or start a new run: `groundup train` with the changed file",
        )


def _without_unset(saved: dict[str, Any]) -> dict[str, Any]:
    """A recipe out of a checkpoint. Earlier versions wrote null for what a phase leaves as it is."""
    phases = [
        {**phase, "set": {key: value for key, value in phase["set"].items() if value is not None}}
        for phase in saved.get("phases", ())
    ]
    return {**saved, "phases": phases}


def _what_decides(recipe: Recipe) -> dict[str, Any]:
    """The recipe without what changes no result: where pixels are kept (a run that ran out of memory goes on with less), what is
    tracked, checked and said about it."""
    written = recipe.model_dump(mode="json", by_alias=True)
    written["data"].pop("cache")
    return {key: value for key, value in written.items() if key not in ("about", "claim", "check", "cost", "track")}


def _beside_state(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What a resume has to find unchanged; saved with every checkpoint."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True), "data": splits.fingerprint}


def _refuse_other_data(folder: RunFolder, splits: Splits, saved: str | None) -> None:
    if saved not in (None, splits.fingerprint):
        raise UsageError(
            f"{folder.path}: the data has changed since the checkpoint (fingerprint {saved}, now {splits.fingerprint})",
            hint="put it back to resume (data handed in from Python has to be handed in again), or start a new run",
        )


def _differences(was: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted(was.keys() | now.keys())
        return [d for k in keys for d in _differences(was.get(k), now.get(k), f"{key}.{k}" if key else k)]
    return [] if was == now else [(key, was, now)]
