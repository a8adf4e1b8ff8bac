"""Copies of a run's checkpoints somewhere else, made in the background while it trains.

The loop hands over each checkpoint that it has written (`saved`): that takes links and a few kilobytes of text, never an
upload. One thread sends them. While it is busy at most one waits, the newest. What fails is tried again with growing pauses
until a newer checkpoint takes its place; a failing mirror never ends a run. See `files` for what lies there, and `publishing` for
what a repository of the Hub holds besides.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.runs.folder import RunFolder
from groundup.runs.identity import changes_between, identity_of, told
from groundup.runs.mirror import files
from groundup.runs.mirror.files import CLAIM, MANIFEST, Copy
from groundup.runs.mirror.places import (
    Content,
    NotRemoved,
    Place,
    in_words,
    is_mistake,
    is_of_the_place,
    place_of_run,
)
from groundup.runs.mirror.publishing import Form, Publisher
from groundup.runs.prepare import Plan
from groundup.version import __version__

# Seconds: how long a start waits to learn whose place the mirror is; how long the last upload may take when the run is over, when
# the mirror fails then, and when the run was told to stop (of the 30 s that a machine gives, a checkpoint may take 10).
TO_ADMIT, AT_THE_END, WHEN_FAILING, WHEN_STOPPED = 15.0, 600.0, 30.0, 15.0
# Seconds between attempts: doubled from the first to the last.
PAUSES = (1.0, 60.0)


_HINT = "give checkpoint.mirror another address, or the run another name with --run; a mirror is never overwritten"


@contextmanager
def mirrored(
    folder: RunFolder, plan: Plan, say: Callable[[str], None], stop: StopRequest, pictures: bool = True
) -> Iterator[Callable[[Path], None] | None]:
    """While inside, the run's checkpoints are copied to the mirror that its recipe names: what is given is to be told of each.
    None without a mirror. At the end the last copy, and the result of a finished run, get their time. pictures: whether curves are
    drawn for a mirror on the Hub."""
    settings = plan.recipe.checkpoint
    files.clean(folder.path / "checkpoints")
    if settings.mirror is None:
        yield None
        return
    mirror = Mirror(
        place=place_of_run(settings.mirror, folder.path.resolve().name),
        run=folder.path,
        identity=identity_of(plan.recipe, plan.splits.fingerprint),
        say=say,
        keep=settings.mirror_keep,
        every=None if settings.mirror_every is None else plan.clock.steps(settings.mirror_every),
        begins=not folder.store().all(),
        publisher=Publisher(settings.mirror, folder, plan, pictures) if settings.mirror.startswith("hf:") else None,
    )
    mirror.start()
    try:
        yield mirror.saved
    except KeyboardInterrupt:
        raise  # Ctrl-C twice: at once
    except BaseException:
        mirror.finish(WHEN_STOPPED)
        raise
    mirror.finish(AT_THE_END, results=True, stopped=lambda: stop.pending is not None)


@dataclass
class Mirror:
    """The mirror of one run.

    `run`: its folder; `identity`: see `identity_of`; `keep`: checkpoints kept there besides the best; `every`: steps between two
    copies, None for each checkpoint; `begins`: the run is new, so that a place with a checkpoint in it is not its own; `say`: told
    what a person should see, from any thread; `publisher`: makes what the copies hold besides, None: they hold nothing more.
    `uploaded`, `failed`, `passed_over` count checkpoints, attempts, checkpoints; what was there already is not counted.
    """

    place: Place
    run: Path
    identity: dict[str, Any]
    say: Callable[[str], None]
    keep: int = 2
    every: int | None = None
    begins: bool = False
    publisher: Publisher | None = None
    uploaded: int = 0
    failed: int = 0
    passed_over: int = 0
    newest_there: int | None = None
    _waiting: Copy | None = None
    _sending: Copy | None = None
    _results: bool = False
    _closing: bool = False
    _busy: bool = False
    _over: bool = False
    _refusal: str | None = None
    _admitted: bool = False
    _outage: bool = False
    _last: Path | None = None
    _copied_at: int | None = None
    _told: set[str] = field(default_factory=set)
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _hurry: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self, seconds: float = TO_ADMIT) -> None:
        """Begin, and wait up to `seconds` to learn whose place it is. UsageError if it is another run's, or if this one has begun
        there before. A mirror that cannot be reached is said and tried again later."""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()
        with self._turn:
            self._turn.wait_for(lambda: self._admitted or self._refusal or self._outage, seconds)
            if self._refusal:
                raise UsageError(self._refusal, hint=_HINT)
            if not self._admitted and not self._outage:
                self.say(
                    f"mirror {self.place.url}: no answer within {seconds:.0f} s; the run goes on, uploads are tried again"
                )

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint is whole on disk: copy it when it is its turn. Returns at once."""
        with self._turn:
            self._last = checkpoint
        step = files.step_of(checkpoint.name)
        if self.every is None or self._copied_at is None or not 0 <= step - self._copied_at < self.every:
            self._hand_over(checkpoint)

    def _hand_over(self, checkpoint: Path) -> None:
        if self._refusal:
            return
        try:
            copy = files.set_aside(self.run, checkpoint)
        except OSError as error:  # such as a full disk
            self.say(f"mirror: {checkpoint.name} could not be set aside: {error.strerror or error}")
            return
        with self._turn:
            self._copied_at = files.step_of(copy.name)
            if self._waiting:
                self.passed_over += 1
                self._waiting.discard()
            self._waiting = copy
            self._turn.notify_all()

    def finish(self, seconds: float, *, results: bool = False, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Send what is still to be sent, within `seconds`; True if all of it arrived. A mirror that fails meanwhile gets
        WHEN_FAILING seconds. `results`: the run is over, its summary goes too. `stopped`: whether the run is told to stop
        meanwhile, which leaves WHEN_STOPPED seconds. Called again, it does nothing."""
        if self._thread is None:
            return True
        if self._last and files.step_of(self._last.name) != self._copied_at:
            self._hand_over(self._last)
        end, shortened = time.monotonic() + seconds, False
        with self._turn:
            self._results = results
            self._closing = True
            self._hurry.set()
            self._turn.notify_all()
            while self._has_to_send() and time.monotonic() < end:
                self._turn.wait(0.1)
                if not shortened and (self._outage or stopped()):
                    end = min(end, time.monotonic() + (WHEN_STOPPED if stopped() else WHEN_FAILING))
                    shortened = True
            done = not self._has_to_send()
            self._over = True
            self._turn.notify_all()
            for copy in (self._waiting, self._sending):
                if copy:
                    copy.discard()  # of one that is being sent no further file is found
        self._thread = None
        if not self._refusal:
            self._tell_the_end(done)
        return done

    def _has_to_send(self) -> bool:
        return self._refusal is None and (self._busy or self._waiting is not None or self._results)

    def _tell_the_end(self, done: bool) -> None:
        counts = f"{self.uploaded} checkpoints copied"
        if done and not (self.uploaded or self.failed):
            counts = "all of it was there already"
        counts += f", {self.passed_over} passed over for newer ones" if self.passed_over else ""
        counts += f", {self.failed} attempts failed" if self.failed else ""
        late = "" if done else "; the last upload was given up, what it held lies on this disk alone"
        self.say(f"mirror {self.place.url}: {counts}{late}")

    # Below: the thread.

    def _work(self) -> None:
        pause = PAUSES[0]
        while not self._over:
            job, results = self._next()
            if job is None and not results and self._admitted:
                return
            problem = self._attempt(job, results)
            if problem is None:
                pause = PAUSES[0]
                continue
            if self._refusal or self._over:
                return
            self._note_failure(problem)
            if not self._hurry.wait(pause):
                pause = min(2 * pause, PAUSES[1])
            elif self._closing:
                time.sleep(PAUSES[0])  # the run is about to end, every second counts

    def _next(self) -> tuple[Copy | None, bool]:
        """What to send now: a checkpoint, or the results; neither when nothing is left, or when the place is not admitted yet."""
        with self._turn:
            self._busy, self._sending = False, None
            self._turn.notify_all()
            if self._admitted:
                self._turn.wait_for(lambda: self._waiting or self._results or self._closing)
            if self._over:
                return None, False
            job, self._waiting = self._waiting, None
            self._sending = job
            results = self._results and job is None
            self._busy = job is not None or results
            return job, results

    def _attempt(self, job: Copy | None, results: bool) -> Exception | None:
        """Send it. The error if that failed; the checkpoint then waits again, unless a newer one has come."""
        try:
            if not self._admitted:
                self._admit()
            sent = job is not None and self._send_checkpoint(job)
            if results:
                self._send_results()
        except Exception as error:  # whatever the client of the place raises
            if job is not None:
                self._wait_again(job)
            return error
        if job is not None:
            job.discard()
        with self._turn:
            self._results = self._results and not results
            self.uploaded += sent
            recovered, self._outage = self._outage and job is not None, self._outage and job is None
        if recovered and not self._over and job is not None:
            self.say(f"mirror {self.place.url}: works again, {job.name} is there")
        return None

    def _wait_again(self, job: Copy) -> None:
        with self._turn:
            if self._waiting is None and not self._refusal and not self._over:
                self._waiting, job = job, None  # type: ignore[assignment]
            else:
                self.passed_over += self._waiting is not None
            self._busy, self._sending = False, None
            self._turn.notify_all()
        if job:
            job.discard()

    def _note_failure(self, error: Exception) -> None:
        with self._turn:
            self.failed += 1
            new, self._outage = not self._outage, True
            self._turn.notify_all()
        if new:
            self.say(f"mirror {self.place.url}: {in_words(error)}; the run goes on, the upload is tried again")

    def _admit(self) -> None:
        """Learn whose place it is, and claim it if it is nobody's."""
        try:
            newest = self._checked()
        except Exception as error:
            refusal = self._refusal_for(error)
            if refusal is None:
                raise
            with self._turn:
                self._refusal = str(refusal)
                self._turn.notify_all()
            if self._last:  # the run is under way: nobody waits for the answer
                self.say(f"{refusal}; nothing is copied")
            raise refusal from error
        with self._turn:
            self.newest_there = newest
            self._admitted = True
            self._outage = False
            self._turn.notify_all()

    def _refusal_for(self, error: Exception) -> UsageError | None:
        """Why nothing will ever be copied there, None if it is worth another attempt. A run under way goes on hoping."""
        if isinstance(error, UsageError):
            return error
        if self.begins and self._last is None and is_mistake(error):
            return UsageError(f"mirror {self.place.url}: cannot be written to: {in_words(error)}")
        return None

    def _checked(self) -> int | None:
        names = self.place.names()
        there = files.whole(names)
        if CLAIM in names:
            claim = json.loads(self.place.read(CLAIM))
            if claim.get("format") != files.FORMAT_VERSION:
                raise UsageError(f"mirror {self.place.url}: format version {claim.get('format')}, of another groundup")
            if changes := changes_between(claim, self.identity):
                raise UsageError(f"mirror {self.place.url}: holds another run: {told(changes)}")
            if there and self.begins:
                raise UsageError(
                    f"mirror {self.place.url}: holds step {files.step_of(there[0])} of this very run already; "
                    f"`groundup resume {self.place.url}` goes on with it"
                )
        elif strange := sorted(name for name in names if name in files.SMALL or name.startswith("checkpoints/")):
            raise UsageError(f"mirror {self.place.url}: holds something else: {', '.join(strange[:3])}")
        else:
            claim = {"format": files.FORMAT_VERSION, "groundup": __version__, **self.identity}
            self.place.publish({CLAIM: json.dumps(claim, indent=2).encode()})
        return files.step_of(there[0]) if there else None

    def _send_checkpoint(self, copy: Copy) -> bool:
        names = self.place.names()
        if copy.best is not None:
            self._send_one(copy.best, names, small={})
        removed = self._outdated(names, copy)
        small = {name: text.encode() for name, text in copy.small.items()}
        return self._send_one(copy, names, small=small, removed=removed)

    def _send_one(self, copy: Copy, names: set[str], small: dict[str, bytes], removed: Iterable[str] = ()) -> bool:
        """False if it was there already."""
        manifest, last = copy.manifest(), f"checkpoints/{copy.name}/{MANIFEST}"
        if last in names and self._holds(last, manifest):
            return False
        form = self._form(lambda publisher: publisher.of_copy(copy)) if small else None
        beside: Mapping[str, Content] = small if form is None else form.files
        removed = [*removed, *(form.removed if form else ())]
        after = form.after if form else None
        try:
            self.place.publish({**copy.files(), **beside}, (last, _json(manifest)), removed, after)
        except NotRemoved as error:
            self._tell_once(f"mirror {self.place.url}: old copies stay, they may not be removed: {error}")
        return True

    def _send_results(self) -> None:
        form = self._form(lambda publisher: publisher.of_result())
        if form is None:
            self.place.publish(files.small_files(self.run))
        elif form.files or form.removed:
            self.place.publish(form.files, removed=form.removed, after=form.after)

    def _form(self, made: Callable[[Publisher], Form]) -> Form | None:
        """What the place holds besides the checkpoints; None if that is nothing, or cannot be had: the checkpoints go without it
        then. A place that does not answer is an error."""
        if self.publisher is None:
            return None
        try:
            form = made(self.publisher)
        except Exception as error:
            if is_of_the_place(error):
                raise
            self._tell_once(f"mirror {self.place.url}: the copies go without what loads them: {in_words(error)}")
            return None
        for note in form.notes:
            self._tell_once(f"mirror {self.place.url}: {note}")
        return form

    def _tell_once(self, text: str) -> None:
        if text not in self._told and not self._over:
            self._told.add(text)
            self.say(text)

    def _holds(self, name: str, manifest: dict[str, Any]) -> bool:
        with suppress(ValueError, FileNotFoundError):
            return bool(files.read_manifest(self.place.read(name))["files"] == manifest["files"])
        return False

    def _outdated(self, names: set[str], copy: Copy) -> list[str]:
        """Files of the checkpoints that are not kept when `copy` is there, and of those that were never finished. One that is kept
        needs the best of its own moment, which may not be that of today."""
        best = {copy.best.name} if copy.best else set()
        others = [name for name in files.whole(names) if name not in best | {copy.name}]
        kept = others[: self.keep - 1]
        return files.outdated(names, {copy.name, *best, *kept, *map(self._best_of, kept)})

    def _best_of(self, name: str) -> str:
        with suppress(ValueError, FileNotFoundError):
            return files.read_manifest(self.place.read(f"checkpoints/{name}/{MANIFEST}"))["best"] or name
        return name


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
