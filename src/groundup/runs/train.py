"""Training a recipe into a run folder, and going on with one: the same path, from data to summary."""

import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from groundup.basis.errors import GroundupError, OutOfMemory, UsageError
from groundup.basis.files import write_json
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.basis.machine import out_of_memory
from groundup.data import Splits
from groundup.preflight import CODES, refuse_lone_images, static_findings, stops_a_run, without_ignored
from groundup.recipe import Recipe, load_recipe
from groundup.runs.card.writing import write_card
from groundup.runs.cost.batch_size import with_batch_size
from groundup.runs.folder import RunFolder, discard_if_unused, open_run_folder, without_home
from groundup.runs.load import describe_classifier
from groundup.runs.mirror.completing import complete
from groundup.runs.mirror.places import is_address
from groundup.runs.mirror.restore import from_own_mirror, run_from_mirror
from groundup.runs.mirror.sending import mirrored
from groundup.runs.pictures import draw_curves, draw_samples
from groundup.runs.prepare import (
    Plan,
    build_job,
    build_network,
    make_plan,
    open_data,
    subject_with,
    synchronize_norms,
    told_in_tenths,
    with_measured_constants,
)
from groundup.runs.reported import reported_weights_are_whole
from groundup.runs.restarts import new_or_own_folder
from groundup.runs.summary import result_record, summarize
from groundup.runs.unchanged import (
    begun,
    beside_state,
    engine_of_all,
    refuse_changed_result,
    refuse_different_data,
    same_engine,
)
from groundup.tracking import MetricsFile, TensorBoardTracker, TerminalTracker, Tracker, Trackers, WandbTracker
from groundup.training import (
    Job,
    NonFiniteLoss,
    TrainingState,
    World,
    choose_engine,
    hardware_for,
    load_checkpoint,
    together,
)
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
    stop, own = stop or StopRequest(max_seconds), Own(model, data, pictures)
    with together() as world:
        folder, is_new = world.from_main(lambda: new_or_own_folder(chosen, None if run is None else Path(run)))
        if not is_new and (result := world.from_main(lambda: _result_of(folder))):
            if world.is_main:
                complete(folder, str(folder.path), _of_main(terminal, world).message)
            return Run(folder.path, result)
        try:
            return _carry_out(folder, own, stop, _of_main(terminal, world), world, opens=is_new)
        except GroundupError:
            if world.is_main:
                discard_if_unused(folder)
            raise


def resume(
    run: Path | str,
    *,
    into: Path | str | None = None,
    from_mirror: bool = False,
    model: nn.Module | None = None,
    data: Splits | None = None,
    max_seconds: float | None = None,
    terminal: Tracker | None = None,
    stop: StopRequest | None = None,
    pictures: bool = True,
) -> Run:
    """Go on with a run exactly where its last whole checkpoint was taken. A finished run is returned as it is, its mirror gets what
    it lacks. If the weights that it reports are damaged, the steps since the newest whole checkpoint before them are made again,
    all of them if there is none.

    `run`: its folder, or its address in a mirror: it is then downloaded into the folder `into`, runs/NAME by default, if that is
    not there or older. `from_mirror`: look into the mirror that the recipe names for a newer checkpoint than the folder has.
    """
    stop, own = stop or StopRequest(max_seconds), Own(model, data, pictures)
    with together() as world:
        seen = _of_main(terminal, world)
        folder = world.from_main(lambda: open_run_folder(_local(run, into, from_mirror, seen.message)))
        if result := world.from_main(lambda: _result_of(folder)):
            if world.is_main:
                complete(folder, str(run), seen.message)
            return Run(folder.path, result)
        return _carry_out(folder, own, stop, seen, world)


def _of_main(terminal: Tracker | None, world: World) -> Tracker:
    """What a person sees, of which process 0 alone tells."""
    return Tracker() if not world.is_main else terminal or TerminalTracker()


def _result_of(folder: RunFolder) -> dict[str, Any] | None:
    """The summary of a finished run whose weights are whole. UsageError if its recipe has been changed since."""
    if not (summary := folder.summary()) or not reported_weights_are_whole(folder):
        return None
    refuse_changed_result(folder)
    return summary


def _local(run: Path | str, into: Path | str | None, from_mirror: bool, say: Callable[[str], None]) -> Path:
    """The folder of the run on this disk, fetched or brought up to date where that is asked for."""
    if is_address(str(run)):
        return run_from_mirror(str(run), None if into is None else Path(into), say)
    if into is not None:
        raise UsageError(f"--run {into}: goes with the address of a mirror; {str(run)!r} is a folder already")
    if from_mirror:
        from_own_mirror(open_run_folder(run), say)
    return Path(run)


def _carry_out(
    folder: RunFolder, own: Own, stop: StopRequest, terminal: Tracker, world: World, *, opens: bool = False
) -> Run:
    """opens: a new run, which is checked before its first step. A run that has begun is never refused."""
    with stop.listening(), folder.locked() if world.is_main else nullcontext():
        try:
            return _prepare_and_train(folder, own, stop, terminal, world, opens)
        except Interrupted as stopped:
            # The command could not hand in what came from Python.
            again = [key for key, value in (("model", own.model), ("data", own.splits)) if value is not None]
            handed_in = "".join(f", {key}=..." for key in again)
            command = f'groundup.resume("{folder.path}"{handed_in})' if again else f"groundup resume {folder.path}"
            go_on = f"`{command}` goes on with the run"
            raise Interrupted(f"{stopped.reason}; {go_on}", stopped.exit_code) from stopped
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory: {str(error).strip().splitlines()[0] if str(error) else 'the machine has no more'}"
            ) from error
        finally:
            terminal.close()


def _prepare_and_train(
    folder: RunFolder, own: Own, stop: StopRequest, terminal: Tracker, world: World, opens: bool
) -> Run:
    recipe = world.from_main(folder.recipe)
    hardware_for(recipe.train, world)  # refused here, and not after minutes of decoding
    splits = own.splits or open_data(recipe, stop, told_in_tenths(terminal, recipe.data))
    for note in splits.notes:
        terminal.message(f"data: {note}")
    refuse_different_data(world, splits)
    recipe = world.from_main(lambda: _complete(recipe, splits, own, terminal))
    plan = make_plan(recipe, splits)
    checkpoint, saved = world.from_main(lambda: begun(folder, plan, terminal))
    engine = engine_of_all(world, choose_engine(recipe.train, plan.clock.total_steps, world))
    if saved is not None:
        engine = same_engine(saved, engine, terminal)
    engine.activate()
    network = build_network(plan, engine, own.model)
    refuse_lone_images(subject_with(plan, network, world.size))
    if opens:
        world.from_main(lambda: _open(plan, network, terminal, world.size))
    world.start(engine.torch_device, recipe.train.collective_timeout)
    asked, stop = stop, world.stop(stop)
    synchronize_norms(plan, network, world)
    # Of several processes none leaves the others alone in the middle of compiling: they stop together after it.
    at_once = None if world.is_shared else asked.at_once
    job, state = build_job(plan, engine, network, stop.check, world, at_once)  # may have decided against compiling
    # A network of one's own is not built again: what diverges must not be what a second try begins with.
    initial = _copy_of(network) if own.model is not None and job.engine.compiled else None
    with mirrored(folder, plan, terminal.message, asked, own.pictures) if world.is_main else nullcontext() as on_saved:
        try:
            return _train_with(folder, plan, job, state, checkpoint, own, stop, terminal, on_saved)
        except NonFiniteLoss as error:
            if not job.engine.compiled:
                raise
            reason = error.message
        # Outside of the handler, whose error holds on to what the frames of the run held: the device has no room for two.
        terminal.message(f"compiled: {reason}; going back to the last checkpoint and on without compiling")
        eager = replace(job.engine, compiled=False, why=f"eager: the compiled network diverged ({reason})")
        del network, job, state
        gc.collect()
        network = build_network(plan, eager, own.model)
        if initial is not None:
            network.load_state_dict(initial)
        synchronize_norms(plan, network, world)
        job, state = build_job(plan, eager, network, stop.check, world)
        checkpoint, _ = world.from_main(lambda: begun(folder, plan, terminal))
        return _train_with(folder, plan, job, state, checkpoint, own, stop, terminal, on_saved)


def _copy_of(network: nn.Module) -> dict[str, Any]:
    """Its state in main memory."""
    state = network.state_dict()
    return {key: value.to("cpu", copy=True) if isinstance(value, Tensor) else value for key, value in state.items()}


def _complete(recipe: Recipe, splits: Splits, own: Own, terminal: Tracker) -> Recipe:
    """The recipe with what was left to the data and to the machine filled in, as the run's folder keeps it."""
    return with_batch_size(with_measured_constants(recipe, splits), splits, terminal.message, own=own.model)


def _open(plan: Plan, network: nn.Module, terminal: Tracker, processes: int) -> None:
    """The checks that need no image. UsageError for an error that nobody asked for; the rest that matters is a line each."""
    found, _ = without_ignored(static_findings(subject_with(plan, network, processes)), plan.recipe.check.ignore)
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
    on_saved: Callable[[Path], None] | None,
) -> Run:
    recipe, world = plan.recipe, job.world
    job.engine.activate()
    if checkpoint and world.is_main:
        load_checkpoint(checkpoint, state)
    world.share_state(state)
    trackers = _tell_of_start(folder, plan, job, state, own, terminal, checkpoint) if world.is_main else Trackers([])
    store = folder.store(recipe.checkpoint.keep, _keep_every(plan), beside_state(recipe, plan.splits))
    store = replace(store, on_saved=on_saved)
    try:
        try:
            run_loop(job, state, store, trackers, stop)
        finally:
            job.data.close()
            if world.is_main and own.pictures:
                _draw_curves(folder, recipe, terminal)
            if world.is_main and folder.curves_picture.exists():
                trackers.image("training_curves", folder.curves_picture, state.step)
        summary = summarize(folder, plan, job, state, stop, own.names())
        if world.is_main:
            trackers.result(result_record(summary))
    finally:
        trackers.close()
    if world.is_main:
        write_card(folder, recipe, summary)
        write_json(folder.summary_file, summary)
    return Run(folder.path, world.from_main(lambda: summary))


def _tell_of_start(
    folder: RunFolder,
    plan: Plan,
    job: Job,
    state: TrainingState,
    own: Own,
    terminal: Tracker,
    checkpoint: Path | None,
) -> Trackers:
    """What is written before the first step, and the trackers that hear of the others."""
    recipe, engine = plan.recipe, job.engine
    folder.write_environment(engine, own.names())
    write_json(folder.classifier_file, describe_classifier(recipe, plan.splits))
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
    many = f"{engine.processes} processes ({engine.backend}), each " if job.world.is_shared else ""
    trackers.message(f"{many}{engine.device}, {engine.threads} threads, {engine.why}")
    if folder.samples_picture.exists():
        trackers.image("samples", folder.samples_picture, state.step)
    return trackers


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
