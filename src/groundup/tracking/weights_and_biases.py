"""Weights & Biases: the same scalars as TensorBoard, the pictures, and the recipe as the run's config.

A process of its own talks to wandb (`wandb_process.py`), so that neither a slow network nor a dead service can hold up
a step or the end of the run, wandb's prompts and signal handlers stay away from it, and a killed run leaves a whole
file. `step` puts a line into a queue, from which a thread hands it on: measured, 45 microseconds on a busy CPU.

Written into the run folder: `wandb/id` (a resume continues the run of that id) and, per start,
`wandb/offline-run-TIME-ID/` (online: `run-TIME-ID/`): the records (`run-ID.wandb`, which `wandb sync` sends) and
pictures; wandb's logs too while it runs or if it failed. They hold what is told here, start and running time, the
versions of Python and wandb, which features of wandb were used, the kind of system (`linux-x86_64`) and a random
session id. They hold no host or user name, no path, code, git state, list of packages or hardware: all that is switched
off. wandb's other files go to a temporary folder that is removed, and nothing new appears in the home folder. All this
is tested offline; what an online run adds to it, such as the account, has not been examined.

A resume repeats the steps since its checkpoint. Online, wandb keeps the first values of a step (says its manual);
offline each start has a file of its own, in which those steps stand again.
"""

import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from groundup.basis.errors import GroundupError
from groundup.basis.files import write_text
from groundup.tracking.background import BackgroundWriter
from groundup.tracking.base import Picture, Record, Tracker, as_png
from groundup.tracking.scalars import ScalarNames

_LAST_WORDS = 2.0  # seconds that a process whose pipe is broken is given to end
_CLOSING = {"offline": 30.0, "online": 60.0}  # seconds to write out and, online, to send; wandb starts in them too


class WandbTracker(Tracker):
    """Writes the run in `folder` to Weights & Biases. ImportError if the package is missing.

    `project`: None for "groundup". `closing_seconds`: how long `close` waits; then the process is ended and GroundupError
    raised (what it wrote until then stays).
    """

    def __init__(
        self,
        folder: Path,
        mode: Literal["offline", "online"],
        project: str | None = None,
        *,
        closing_seconds: float | None = None,
    ) -> None:
        try:
            version("wandb")
        except PackageNotFoundError:
            raise ImportError(
                f"track.wandb={mode}: the package wandb is not installed; install it with "
                "`pip install 'groundup[wandb]'`, or set track.wandb=off"
            ) from None
        self.folder = Path(folder)
        self._mode, self._project = mode, project or "groundup"
        self._closing_seconds = _CLOSING[mode] if closing_seconds is None else closing_seconds
        self._id = _run_id(self.folder / "wandb" / "id")
        self._names = ScalarNames()
        self._process: _Process | None = None

    def start(self, info: Record) -> None:
        recipe = info.get("recipe")
        config = dict(recipe) if isinstance(recipe, Mapping) else {}
        where = {"mode": self._mode, "project": self._project, "id": self._id, "name": self.folder.resolve().name}
        self._process = _Process(self.folder, where)
        self._process.send({"config": {**config, "total_steps": info.get("total_steps")}})

    def step(self, record: Record) -> None:
        self._scalars(int(record["step"]), self._names.step(record))

    def evaluation(self, record: Record) -> None:
        self._scalars(int(record["step"]), self._names.evaluation(record))

    def result(self, record: Record) -> None:
        self.evaluation(record)

    def image(self, name: str, picture: Picture, step: int) -> None:
        if self._process:
            self._process.send({"step": step, "picture": name, "png": base64.b64encode(as_png(picture)[0]).decode()})

    def close(self) -> None:
        if self._process:
            process, self._process = self._process, None
            process.finish(self._closing_seconds)

    def _scalars(self, step: int, scalars: dict[str, float]) -> None:
        if self._process and scalars:
            self._process.send({"step": step, "scalars": scalars})


class _Process:
    """A running `wandb_process`, the queue of lines before it, and the thread between them."""

    def __init__(self, folder: Path, where: dict[str, Any]) -> None:
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="groundup-wandb-", ignore_cleanup_errors=True)
        self._said = Path(self._scratch.name, "said")
        with open(self._said, "wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "groundup.tracking.wandb_process", json.dumps({**where, "folder": str(folder)})],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env=_environment(self._scratch.name, offline=where["mode"] == "offline"),
                start_new_session=True,  # Ctrl-C at the terminal is for the run alone
            )
        pipe = self._process.stdin
        assert pipe is not None

        def feed(line: bytes) -> None:
            pipe.write(line)
            pipe.flush()

        self._lines = BackgroundWriter("wandb", feed, pipe.close)

    def send(self, message: dict[str, Any]) -> None:
        """Never waits. GroundupError if the process has ended or takes nothing any more."""
        if self._process.poll() is not None:
            raise GroundupError(f"wandb ended: {self._last_words()}")
        try:
            self._lines.put(json.dumps(message).encode() + b"\n")
        except OSError:  # the pipe is broken: the process is at its end, and may be about to say why
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS)
            raise GroundupError(f"wandb ended: {self._last_words()}") from None

    def finish(self, seconds: float) -> None:
        """Wait for the process to write out, at most that long. GroundupError if it failed or did not come to its end."""
        try:
            with contextlib.suppress(GroundupError):
                with contextlib.suppress(OSError):  # the process has ended, or is about to
                    self._lines.put(b'{"close": true}\n')
                self._lines.end()
                self._process.wait(seconds)
            if self._process.poll() is None:
                raise GroundupError(f"wandb takes nothing any more and was ended; {self._kept()}")
            if self._process.returncode:
                raise GroundupError(f"wandb ended: {self._last_words()}")
        except subprocess.TimeoutExpired:
            raise GroundupError(f"wandb did not finish within {seconds:g} s and was ended; {self._kept()}") from None
        finally:
            self._end()

    def _kept(self) -> str:
        return f"what it had written is in {self._folder.name}/wandb"

    def _last_words(self) -> str:
        lines = self._said.read_text(errors="replace").split("\n") if self._said.exists() else []
        return next((line for line in reversed(lines) if line.strip()), f"exit status {self._process.returncode}")

    def _end(self) -> None:
        """Whatever happened, nothing is left running. wandb's service may be stopped, so it is not asked."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            for process in (*parent.children(recursive=True), parent):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()
        self._lines.end()
        self._lines.join()  # its pipe is broken now
        self._scratch.cleanup()


def _environment(scratch: str, *, offline: bool) -> dict[str, str]:
    """The environment for the process: wandb's caches in `scratch`, no error reports, groundup where it is here."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")}
    source = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    scratched = ["WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR", *(["WANDB_CONFIG_DIR"] if offline else [])]
    return {**inherited, **dict.fromkeys(scratched, scratch), "WANDB_ERROR_REPORTING": "false", "PYTHONPATH": search}


def _run_id(file: Path) -> str:
    """The id in `file`, or a new one written there."""
    if file.exists() and (known := file.read_text().strip()):
        return known
    write_text(file, (fresh := secrets.token_hex(4)) + "\n")
    return fresh
