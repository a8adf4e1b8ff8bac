"""A worker: takes runs from the store and trains them one after another in this process, until there are none.

The decoded images are shared by all workers through the cache, nothing is imported again between runs, and no pictures are drawn:
for a small run they take as long as its training, and the report has the curves. A worker may be killed at any time: its run is
taken over, from its checkpoint, when its lease has run out.
"""

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.basis.duration import Clock
from groundup.basis.errors import DataError, GroundupError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.compare.sweeps.plan import check_recipe
from groundup.compare.sweeps.store import BASE_FILE, Lease, Outcome, Store
from groundup.compare.sweeps.sweep_file import SAID, Sweep
from groundup.data.sources import MissingSource
from groundup.recipe import Recipe, load_recipe
from groundup.runs.folder import RunFolder, without_home
from groundup.runs.train import resume, train
from groundup.tracking import Record, Tracker


def work(store: Store, stop: StopRequest, say: Callable[[str], None]) -> None:
    """Train runs of the sweep until none is left or its budget is used up. `Interrupted` gives the run back, to be gone on with,
    and so does what this machine is at fault for, such as missing data: every run would fail of it here, and none elsewhere."""
    owner = secrets.token_hex(8)  # says nothing about the machine
    os.environ["WANDB_RUN_GROUP"] = store.sweep.name
    base = store.folder / BASE_FILE
    pause = 0.05
    while True:
        stop.check()
        lease, over = store.take(owner)
        if lease is not None:
            _carry_out(store, lease, base, say)
            pause = 0.05
        elif over:
            return
        else:
            time.sleep(pause)  # others work on the last runs, and may be killed
            pause = min(1.0, 2 * pause)


def _carry_out(store: Store, lease: Lease, base: Path, say: Callable[[str], None]) -> None:
    folder = RunFolder(store.folder / "runs" / lease.name)
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    if _is_trained_elsewhere(folder):
        store.give_back(lease, seconds=store.sweep.lease)
        return
    watch = Watch(store, lease)
    say(f"{lease.name} begins: {told(lease.point)}")
    with watch.renewing():
        try:
            outcome = _train(store.sweep, folder, lease, base, watch)
        except Interrupted:
            if watch.verdict == "go on":
                store.give_back(lease)
                raise
            if watch.verdict == "lost":
                say(f"{lease.name}: another worker has taken it over")
                _raise_a_signal(watch.stop)
                return
            outcome = _ended(folder, "pruned", "fell behind the other configurations at the same step")
        except (KeyboardInterrupt, OSError):  # an OSError, such as a full disk, would fail every run
            store.give_back(lease)
            raise
        except GroundupError as error:
            if _is_of_the_machine(error, store.sweep):
                store.give_back(lease)
                raise
            outcome = _ended(folder, "failed", f"{type(error).__name__}: {error.message}")
        except Exception as error:
            if _has_lost_its_device(error):  # the lease runs out: a worker has died of this run
                said = str(error).strip().partition("\n")[0]
                raise GroundupError(f"{lease.name}: {said}; this process can use the device no more") from error
            outcome = _ended(folder, "failed", f"{type(error).__name__}: {error}")
        watch.catch_up()
    if store.finish(lease, outcome):
        shown = "" if outcome.value is None else f" {store.sweep.metric}={outcome.value:.4g}"
        say(
            f"{lease.name} {outcome.state}:{shown} {outcome.reason or ''} {outcome.seconds:.1f} s of training".replace(
                "  ", " "
            )
        )
    _raise_a_signal(watch.stop)


def _raise_a_signal(stop: StopRequest) -> None:
    """A signal that came when the run looked no more has been noted by the run's own request alone."""
    if (asked := stop.pending) is not None and asked.exit_code:
        raise asked


def _is_of_the_machine(error: GroundupError, sweep: Sweep) -> bool:
    """Whether this machine lacks what the runs need, where the sweep does not vary just that."""
    if isinstance(error, DataError):
        return not sweep.varies("data.source" if isinstance(error, MissingSource) else "data")
    if error.message.startswith("train.device="):
        return not sweep.varies("train.device")
    return "pip install" in (error.hint or "")


def _has_lost_its_device(error: Exception) -> bool:
    """Whether CUDA has failed in a way after which every further call in this process fails."""
    return isinstance(error, RuntimeError) and str(error).startswith("CUDA error")


def _train(sweep: Sweep, folder: RunFolder, lease: Lease, base: Path, watch: "Watch") -> Outcome:
    if folder.path.exists() and not folder.recipe_file.exists():
        shutil.rmtree(folder.path)  # killed before it had a recipe
    wanted = load_recipe(str(base), lease.overrides)
    if folder.recipe_file.exists():
        recipe = folder.recipe()
        _require_same(folder, recipe, wanted)
        watch.recipe = recipe
        summary = resume(folder.path, terminal=watch, stop=watch.stop, pictures=False).summary
    else:
        recipe = wanted
        check_recipe(sweep, recipe, lease.name)
        watch.recipe = recipe
        summary = train(recipe, run=folder.path, terminal=watch, stop=watch.stop, pictures=False).summary
    value = metric_of(sweep, folder, recipe)
    write_hparams(folder, recipe, lease, sweep.metric, value)
    return Outcome("done", None, value, float(summary["pflop"]), float(summary["seconds"]))


def _require_same(folder: RunFolder, found: Recipe, wanted: Recipe) -> None:
    """UsageError if the folder of a run holds another run: its number must not be taken for this one's."""
    there, here = (_what_was_asked(recipe) for recipe in (found, without_home(wanted)))
    if there != here:
        keys = ", ".join(key for key in here if here[key] != there.get(key))
        raise UsageError(f"{folder.path}: holds a run of another recipe; what differs: {keys}", hint="another --folder")


def _what_was_asked(recipe: Recipe) -> dict[str, Any]:
    written = recipe.model_dump(mode="json", by_alias=True)
    written["augment"].pop("normalize")  # measured and filled in by the run
    return {key: value for key, value in written.items() if key not in SAID}


def metric_of(sweep: Sweep, folder: RunFolder, recipe: Recipe) -> float:
    """The sweep's metric where the run's reported weights were evaluated: at its last step, or at its best."""
    lines = [line for line in _metrics(folder) if sweep.metric in line]
    if not lines:
        raise UsageError(
            f"metric={sweep.metric}: the run has never measured it",
            hint="set data.validation, and evaluate.every within the run",
        )
    reported = lines[-1]
    if recipe.evaluate.model == "best":  # which is always the best by accuracy, the earliest of equal ones
        selects = f"{sweep.metric.rpartition('_')[0]}_top1"
        reported = max(lines, key=lambda line: (line[selects] is not None, line[selects] or 0.0))
    if reported[sweep.metric] is None:
        raise GroundupError(f"{sweep.metric} is not a number at step {reported['step']}, whose weights the run reports")
    return float(reported[sweep.metric])


def write_hparams(folder: RunFolder, recipe: Recipe, lease: Lease, metric: str, value: float) -> None:
    """What TensorBoard's HParams page shows of the run, beside its scalars; only where the recipe tracks with TensorBoard."""
    if not recipe.track.tensorboard:
        return
    from groundup.tracking import TensorBoardTracker

    shown = {
        key: chosen if isinstance(chosen, bool | int | float | str) else str(chosen)
        for key, chosen in lease.point.items()
    }
    tracker = TensorBoardTracker(folder.tensorboard)
    try:
        tracker.hparams({**shown, "seed": lease.seed}, {f"sweep/{metric}": value}, group=lease.name.partition("-")[0])
    finally:
        tracker.close()


def told(point: dict[str, Any]) -> str:
    """A point in one line."""
    return "  ".join(f"{key}={value}" for key, value in point.items()) or "the base recipe"


class Watch(Tracker):
    """What a run tells the store, in place of the terminal: its metric, and that it is alive.

    A store that cannot be reached for a while, such as a database that is started again, is told later what it has missed: at the
    next evaluation, or at the end of the run.
    """

    def __init__(self, store: Store, lease: Lease) -> None:
        self.stop = StopRequest()
        self.verdict = "go on"
        self.recipe: Recipe | None = None
        self._store = store
        self._lease = lease
        self._clock = Clock(1, 1)
        self._untold: list[tuple[int, float]] = []  # (step, value), oldest first

    def start(self, info: Record) -> None:
        total, epochs = int(info["total_steps"]), float(info["epochs"])
        self._clock = Clock(max(1, round(total / epochs)), total)

    def evaluation(self, record: Record) -> None:
        step, value = int(record["step"]), record.get(self._store.sweep.metric)
        if value is not None:
            self._untold.append((step, float(value)))
            verdict = self.catch_up()
            # At the last step there is nothing left to save.
            if verdict == "lost" or (verdict == "prune" and step < self._clock.total_steps):
                self._end(verdict)

    def catch_up(self) -> str:
        """Report what the store has not been told yet, in order, so that every step is judged; its last verdict."""
        verdict = "go on"
        # The run does not end for want of a store: its lease does, if the store stays away for so long.
        with contextlib.suppress(GroundupError, OSError):
            while self._untold and verdict == "go on":
                step, value = self._untold[0]
                verdict = self._store.report(self._lease, step, value, self._clock)
                del self._untold[0]
        return verdict

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Move the deadline on from a thread while inside."""
        over = threading.Event()
        thread = threading.Thread(target=self._renew, args=(over,), name="groundup-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _renew(self, over: threading.Event) -> None:
        while not over.wait(self._store.sweep.lease / 4):
            # A database that is away for a while is asked again; after the deadline another worker takes the run.
            with contextlib.suppress(GroundupError, OSError):
                if not self._store.renew(self._lease) and not over.is_set():
                    self._end("lost")

    def _end(self, verdict: str) -> None:
        if self.verdict == "go on":
            self.verdict = verdict
            self.stop.request(f"sweep: {verdict}")


def _is_trained_elsewhere(folder: RunFolder) -> bool:
    """Whether a worker that lost its lease still trains into the folder."""
    try:
        with folder.locked():
            return False
    except UsageError:
        return True


def _ended(folder: RunFolder, state: Any, reason: str) -> Outcome:
    """The outcome of a run without a result, with what it has cost until its last evaluation."""
    last: dict[str, Any] = next(reversed(_metrics(folder)), {})
    return Outcome(state, reason, None, float(last.get("pflop", 0.0)), float(last.get("seconds", 0.0)))


def _metrics(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.metrics_file.exists():
        return []
    return [json.loads(line) for line in folder.metrics_file.read_text().splitlines() if line.endswith("}")]
