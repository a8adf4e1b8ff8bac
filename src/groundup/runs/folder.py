"""The run folder: what lies where, created once and never overwritten.

Nothing in it names the machine or its user: paths under the home directory are written with `~`.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from groundup.basis.errors import GroundupError, UsageError, unknown_name
from groundup.basis.files import write_json, write_text
from groundup.recipe import Recipe, load_recipe, to_yaml
from groundup.training import CheckpointStore, Engine
from groundup.version import __version__

FORMAT_VERSION = 1
JOB_FILE = ".job"  # of a run that torchrun started: see `restarts`
_PACKAGES = ("torch", "numpy", "pydantic", "datasets", "safetensors", "pillow", "simplejpeg")


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Every property is a path inside it."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def classifier_file(self) -> Path:
        """What a picture has to go through before the network, and what its outputs are called."""
        return self.path / "classifier.json"

    @property
    def samples_picture(self) -> Path:
        return self.path / "samples.png"

    @property
    def curves_picture(self) -> Path:
        return self.path / "training_curves.png"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def store(
        self, keep: int = 2, keep_every: int | None = None, extra: dict[str, Any] | None = None
    ) -> CheckpointStore:
        """The checkpoints of the run. `keep_every`: steps; `extra` is saved with each of them."""
        return CheckpointStore(self.path / "checkpoints", keep, keep_every, extra or {})

    def recipe(self) -> Recipe:
        """The recipe of the run, as it stands in the folder now."""
        return load_recipe(str(self.recipe_file))

    def summary(self) -> dict[str, Any] | None:
        """The result, None while the run is not finished. A damaged file counts as none: a resume makes the result again."""
        if not self.summary_file.exists() or (found := _read(self.summary_file)) is None:
            return None
        _check_format(self.summary_file, found.get("format"))
        return found

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the complete recipe; training from it is the same run again."""
        head = f"# The complete recipe of this run; `groundup train` on this file is the same run again. groundup {__version__}\n"
        write_text(self.recipe_file, head + to_yaml(recipe))

    def write_environment(self, engine: Engine, own: Mapping[str, str]) -> None:
        """Versions, hardware and engine, for whoever wants to repeat the run. The machine it started on stays on top; one that
        differs from the last is added to `resumed_on`. `own`: what was handed in from Python in place of the recipe's."""
        here = {**environment(engine), "engine": engine.to_dict()}
        if not self.environment_file.exists():
            handed_in = {"own": dict(own)} if own else {}
            write_json(self.environment_file, {"format": FORMAT_VERSION, **here, **handed_in, "resumed_on": []})
            return
        known = self._environment()
        last = known["resumed_on"][-1] if known["resumed_on"] else {key: known.get(key) for key in here}
        if last != here:
            known["resumed_on"].append(here)
            write_json(self.environment_file, known)

    def machines(self) -> list[str]:
        """The names of the hardware that the run was trained on, in order, each once."""
        known = self._environment()
        return list(dict.fromkeys(part["gpu"] or part["cpu"] for part in (known, *known["resumed_on"])))

    def _environment(self) -> dict[str, Any]:
        """environment.json, which carries the format version of the folder."""
        known = _read(self.environment_file) or {}
        if "format" in known:
            _check_format(self.environment_file, known["format"])
        parts = [known, *known["resumed_on"]] if isinstance(known.get("resumed_on"), list) else [None]
        if "format" not in known or not all(isinstance(part, dict) and {"gpu", "cpu"} <= part.keys() for part in parts):
            raise GroundupError(
                f"{self.environment_file}: damaged: it is not what groundup wrote",
                hint="put it back from a copy; or remove it: `groundup resume` writes it again, with the machine that goes on",
            )
        return known

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains into the folder while inside. UsageError if somebody does; a killed process holds nothing."""
        from filelock import FileLock, Timeout

        # Beside the run and not in it: the folder holds what a person is meant to find.
        lock = FileLock(self.path.parent / f".{self.path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"run {str(self.path)!r}: another process is training it", hint="wait for it, or stop it first"
            ) from None
        try:
            yield
        finally:
            # Removed while it is still held: whoever opened it before is refused, whoever comes later makes a new one.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def create_run_folder(recipe: Recipe, wanted: Path | None) -> RunFolder:
    """A new folder: `wanted`, or runs/NAME-001, -002 ... An existing folder is never used again."""
    if wanted is not None:
        if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
            is_run = RunFolder(wanted).recipe_file.is_file()
            what = "exists already, and a run is never overwritten" if is_run else "exists already, and is no run"
            raise UsageError(
                f"--run {wanted}: {what}",
                hint=f"`groundup resume {wanted}` goes on with it; another --run starts a new one"
                if is_run
                else "give --run a folder that does not exist yet, or is empty",
            )
        wanted.mkdir(parents=True, exist_ok=True)
        return RunFolder(wanted)
    for number in range(1, 1_000_000):
        path = Path("runs") / f"{recipe.name}-{number:03d}"
        try:
            path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError:
            continue
    raise UsageError("runs/: a million runs of this recipe; choose a name with --run")


def discard_if_unused(folder: RunFolder) -> None:
    """Remove a folder in which there is nothing but its recipe, so that the corrected command can use the same place."""
    if {entry.name for entry in folder.path.iterdir()} - {JOB_FILE} == {folder.recipe_file.name}:
        (folder.path / JOB_FILE).unlink(missing_ok=True)
        folder.recipe_file.unlink()
        folder.path.rmdir()


def open_run_folder(path: Path | str) -> RunFolder:
    """An existing run folder. UsageError if it is not one, or was written by another version; GroundupError if its
    environment.json is damaged."""
    folder = RunFolder(Path(path))
    if not folder.recipe_file.is_file():
        if folder.path.exists():
            raise UsageError(f"run {str(path)!r}: not a run folder (it has no recipe.yaml)")
        parent = folder.path.parent
        runs = sorted(file.parent.name for file in parent.glob("*/recipe.yaml")) if parent.is_dir() else []
        if runs:
            raise unknown_name("run", folder.path.name, runs, what=f"no such run in {parent}")
        raise UsageError(
            f"run {str(path)!r}: not a run folder (there is no such folder)",
            hint="runs lie in runs/ unless --run said otherwise",
        )
    if folder.environment_file.exists():
        folder._environment()
    return folder


def _read(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file of a run folder; None if it is damaged: empty, cut short, or something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise GroundupError(f"{file}: cannot be read: {error.strerror or error}") from error
    return found if isinstance(found, dict) else None


def _check_format(file: Path, version: object) -> None:
    """UsageError unless this groundup reads a file of the run folder that has format `version`."""
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{file}: the run folder has format version {version}; this groundup reads version {FORMAT_VERSION}",
            hint="use the version of groundup named in environment.json",
        )


def without_home(recipe: Recipe) -> Recipe:
    """The recipe with a data path, or a mirror's, under the home directory written as `~/...`."""
    home = str(Path.home())
    if (recipe.checkpoint.mirror or "").startswith(f"file://{home}{os.sep}"):
        mirror = f"file://~{str(recipe.checkpoint.mirror)[len('file://') + len(home) :]}"
        recipe = recipe.model_copy(update={"checkpoint": recipe.checkpoint.model_copy(update={"mirror": mirror})})
    kind, separator, place = recipe.data.source.partition(":")
    if not separator or not place.startswith(home + os.sep):
        return recipe
    data = recipe.data.model_copy(update={"source": f"{kind}:~{place[len(home) :]}"})
    return recipe.model_copy(update={"data": data})


def environment(engine: Engine | None = None) -> dict[str, Any]:
    """Versions and hardware of this machine, without anything that names it. `gpu`: the engine's, null if it uses none."""
    import torch

    gpu = engine.hardware() if engine else torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "groundup": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of groundup's own source, with `+changes` if it was edited; None for an installed package."""
    package = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(package)]
    try:
        # An installed copy may lie inside somebody's checkout: only a tracked source file counts.
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, capture_output=True, timeout=10)
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True, timeout=10
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", str(package)], check=True, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
