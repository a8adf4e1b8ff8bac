"""Run folders and sweeps under given paths, read as they are: a recipe of another version, or a run that broke off, is shown too.

Run      a folder with recipe.yaml and one of metrics.jsonl, summary.json, environment.json. `settings` are the keys of its recipe,
         dotted; accuracies are fractions, costs PFLOP and seconds of training.
Sweep    a folder with sweep.json: {"format": 1, "name", "file", "metric", "mode", "runs": [{"name", "overrides", "seed", "state",
         "reason", "value", "pflop", "seconds"}]}, the run folders under runs/NAME. `overrides` are the values and labels of the
         axes; `file` is the sweep file, which says what recipe keys they stand for. A run whose folder lies on another machine has
         the value that the sweep noted.
Split    where `evaluate.optimistic` is on, what a run calls validation was measured on the test split: it is called test here.
Began    the time in the first TensorBoard record, which a copy keeps; without one, the time of recipe.yaml on the disk.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from groundup.basis.errors import GroundupError, UsageError
from groundup.compare.sweeps.sweep_file import Sweep as SweepFile
from groundup.compare.sweeps.sweep_file import validate_sweep
from groundup.runs.evaluation_file import Sections, fullest, read_sections
from groundup.runs.folder import RunFolder
from groundup.tracking import jsonl

SWEEP_FILE = "sweep.json"
SWEEP_FORMAT = 1
_RUN_FILES = ("metrics.jsonl", "summary.json", "environment.json")
# What a folder that cannot be read raises.
_UNREADABLE = (GroundupError, OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError)
# Keys that do not change what is learned or how it is judged.
_BESIDE = ("name", "about", "claim", "extends", "track", "checkpoint", "check")
_WALL_TIME = b"\x09"  # the tag of the first field of a TensorBoard event, after 12 bytes of length and checksum


@dataclass(frozen=True)
class Run:
    """One run. `state`: finished, unfinished, damaged, or what the sweep says of a run that is neither.

    Of a sweep's run: `value` of its metric, `overrides` (axis -> number or label), and `plan`, the keys that the sweep file sets
    there, dotted; `cost` is PFLOP and seconds.
    """

    folder: Path
    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    sections: Sections = field(default_factory=dict)
    fingerprint: str | None = None
    began: float = 0.0
    state: str = "unfinished"
    reason: str = ""
    seed: int | None = None
    value: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    cost: tuple[float | None, float | None] = (None, None)

    @property
    def finished(self) -> bool:
        return self.state == "finished" and self.summary is not None

    @property
    def is_elsewhere(self) -> bool:
        """Whether its folder is not here, and the sweep alone knows its result."""
        return self.state == "finished" and self.summary is None

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of the recipe that decide the result, dotted, but the seed."""
        return {
            key: value
            for key, value in flat(self.recipe).items()
            if key != "seed" and key.partition(".")[0] not in _BESIDE
        }

    @property
    def looks_at_test(self) -> bool:
        """Whether what the run calls validation is its test split."""
        return bool((self.recipe.get("evaluate") or {}).get("optimistic"))

    @property
    def optimistic(self) -> bool:
        """Whether its result was chosen with the test split in sight."""
        return bool(self.summary and self.summary.get("optimistic"))

    @property
    def test_images(self) -> tuple[Any, ...]:
        """What says which images are the test split: runs are compared where it is equal."""
        data = self.recipe.get("data") or {}
        own = ((self.summary or {}).get("own") or {}).get("data")
        return (self.fingerprint, own, data.get("split_seed"), (self.summary or {}).get("images"))

    @property
    def validation_images(self) -> tuple[Any, ...]:
        """What says which images are the validation split."""
        data = self.recipe.get("data") or {}
        own = ((self.summary or {}).get("own") or {}).get("data")
        return (self.fingerprint, own, *(data.get(key) for key in ("split_seed", "validation", "limit")))

    @property
    def validation_top1(self) -> float | None:
        """The accuracy of the reported weights on validation, None where there is none, or where it is the test split."""
        if self.looks_at_test or self.summary is None:
            return None
        if (self.recipe.get("evaluate") or {}).get("model") == "best":
            return self.summary.get("validation_top1")
        key = "average_validation_top1" if self.summary.get("weights") == "average" else "validation_top1"
        last = self.metrics[-1] if self.metrics else {}
        return last.get(key) if last.get("step") == self.summary.get("steps") else None

    @property
    def pflop(self) -> float | None:
        return self.summary.get("pflop") if self.summary else self.cost[0]

    @property
    def seconds(self) -> float | None:
        return self.summary.get("seconds") if self.summary else self.cost[1]

    def fact(self, section: str, view: str = "test") -> dict[str, Any]:
        """What evaluation.json holds under `section`, on the most images if on several inputs; empty if nothing."""
        return fullest(self.sections, section, view) or {}


# What a table needs of a finished run.
_NEEDED = ("top1", "top1_interval", "images", "pflop", "seconds")


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep. `mode`: max or min of `metric`; `labels`: what its labels stand for, see `_labels`."""

    folder: Path
    name: str
    metric: str
    mode: str
    runs: Sequence[Run]
    labels: Sequence[tuple[str, Mapping[str, Any]]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Collection:
    """What was found: sweeps, runs that belong to none (in the order in which they began), and what could not be read."""

    sweeps: Sequence[Sweep]
    runs: Sequence[Run]
    notes: Sequence[str] = ()


def collect(paths: Sequence[Path]) -> Collection:
    """Everything under `paths`. UsageError where there is nothing to be found."""
    sweeps: list[Sweep] = []
    runs: list[Run] = []
    notes: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise UsageError(
                f"{path}: there is no such folder" if not path.exists() else f"{path}: is a file, not a folder",
                hint="name run folders, sweep folders, or a folder that holds some, such as runs/",
            )
        for folder in _found(path, set()):
            if (place := folder.resolve()) in seen or any(parent in seen for parent in place.parents):
                continue
            seen.add(place)
            try:
                if (folder / SWEEP_FILE).is_file():
                    sweeps.append(sweep := read_sweep(folder))
                    notes += sweep.notes
                else:
                    runs.append(read_run(folder))
            except _UNREADABLE as error:
                notes.append(f"{folder}: left out, it cannot be read: {_first_line(error)}")
    if not sweeps and not runs:
        where = ", ".join(map(str, paths))
        raise UsageError(
            f"{where}: no run folder and no sweep in it" + "".join(f"\n{note}" for note in notes),
            hint="a run folder is what `groundup train` makes: it holds recipe.yaml and metrics.jsonl",
        )
    return Collection(sweeps, sorted(runs, key=lambda run: (run.began, str(run.folder))), notes)


def _found(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """Sweeps and run folders at or below `folder`; what lies inside one is its own. Links are followed, each place visited once."""
    if (place := folder.resolve()) in visited:
        return
    visited.add(place)
    is_run = (folder / "recipe.yaml").is_file() and any((folder / name).is_file() for name in _RUN_FILES)
    if is_run or (folder / SWEEP_FILE).is_file():
        yield folder
        return
    for entry in sorted(
        folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry)
    ):  # a run by its own name, not a link's
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _found(entry, visited)


def read_run(folder: Path, **known: Any) -> Run:
    """The run in `folder`. `known`: what a sweep says about it."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise GroundupError(f"{folder / 'recipe.yaml'}: not a recipe")
    summary = _json(folder / "summary.json")
    if summary is not None and (missing := [key for key in _NEEDED if key not in summary]):
        raise GroundupError(f"{folder / 'summary.json'}: lacks {', '.join(missing)}")
    metrics = jsonl.read(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    classifier = _json(folder / "classifier.json") or {}
    facts: dict[str, Any] = {
        "name": folder.name,
        "recipe": recipe,
        "summary": summary,
        "metrics": metrics,
        "sections": read_sections(RunFolder(folder)) if summary else {},
        "fingerprint": classifier.get("data"),
        "began": _began(folder),
        "state": "finished" if summary else "unfinished",
        "seed": recipe.get("seed"),
    }
    return Run(folder, **{**facts, **known})


def read_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`, with every run that it names."""
    document = _json(folder / SWEEP_FILE)
    if not document or document.get("format") != SWEEP_FORMAT:
        version = document.get("format") if document else None
        raise GroundupError(
            f"{folder / SWEEP_FILE}: has format version {version}; this groundup reads version {SWEEP_FORMAT}"
        )
    file = _file(document.get("file"))
    runs = [_run_of_sweep(folder / "runs" / entry["name"], entry, file) for entry in document["runs"]]
    notes = [f"{run.folder}: cannot be read: {run.reason}" for run in runs if run.state == "damaged"]
    name, mode = str(document.get("name") or folder.name), document.get("mode", "max")
    return Sweep(folder, name, document["metric"], mode, runs, _labels(file) if file else (), notes)


def _run_of_sweep(folder: Path, entry: Mapping[str, Any], file: SweepFile | None) -> Run:
    value, point = entry.get("value"), dict(entry.get("overrides") or {})
    known: dict[str, Any] = {
        "name": entry["name"],
        "seed": entry.get("seed"),
        "value": value if isinstance(value, int | float) and math.isfinite(value) else None,
        "overrides": point,
        "plan": flat(_settings(file, point)),
        "reason": str(entry.get("reason") or ""),
        "cost": (entry.get("pflop"), entry.get("seconds")),
        "state": "finished" if entry.get("state") == "done" else str(entry.get("state") or "unknown"),
    }
    if not folder.is_dir():
        return Run(folder, **known)
    try:
        return read_run(folder, **known)
    except _UNREADABLE as error:
        return Run(folder, **{**known, "state": "damaged", "reason": _first_line(error)})


def _file(values: Any) -> SweepFile | None:
    """The sweep file that sweep.json holds; None where there is none, or one of another version that is no longer valid."""
    try:
        return validate_sweep(values) if values else None
    except UsageError:
        return None


def _settings(file: SweepFile | None, point: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe keys at `point`; the point itself where the file does not say."""
    try:
        return file.settings_at(dict(point)) if file else point
    except (KeyError, StopIteration, RuntimeError):  # no such axis or label
        return point


def _labels(file: SweepFile) -> list[tuple[str, Mapping[str, Any]]]:
    """Where the sweep file sets further keys: ("optimizer=sgd", {key: value}) of every label with a bundle, then of every rule."""
    bundles = [
        (f"{name}={label}", keys)
        for name, axis in file.axes.items()
        if isinstance(axis.choice, Mapping)
        for label, keys in axis.choice.items()
    ]
    rules = [
        (", ".join(f"{key}={_listed(value)}" for key, value in rule.when.items()), rule.set) for rule in file.rules
    ]
    return [(where, flat(keys)) for where, keys in (*bundles, *rules)]


def _listed(labels: Any) -> str:
    return " or ".join(map(str, labels)) if isinstance(labels, list | tuple) else str(labels)


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of a recipe under dotted keys; a list is one leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value
    return leaves


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _began(folder: Path) -> float:
    """Seconds since 1970."""
    for events in sorted((folder / "tensorboard").glob("events.out.tfevents.*"))[:1]:
        with open(events, "rb") as stream:
            head = stream.read(21)
        if len(head) == 21 and head[12:13] == _WALL_TIME:
            return float(struct.unpack("<d", head[13:])[0])
    return (folder / "recipe.yaml").stat().st_mtime


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
