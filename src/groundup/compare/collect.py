"""Run folders and sweeps under given paths, read as they are: a recipe of another version, or a run that broke off, is shown too.

Run      a folder with recipe.yaml and one of metrics.jsonl, summary.json, environment.json. `settings` are the keys of its recipe,
         dotted; accuracies are fractions, costs PFLOP and seconds of training.
Sweep    a folder with sweep.json: {"format": 1, "name", "file", "metric", "mode", "runs": [{"name", "overrides", "seed", "state",
         "reason", "value", "pflop", "seconds"}]}, the run folders under runs/NAME.
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
from groundup.runs.evaluation_file import Sections, fullest, read_sections
from groundup.runs.folder import RunFolder
from groundup.tracking import jsonl

SWEEP_FILE = "sweep.json"
SWEEP_FORMAT = 1
_RUN_FILES = ("metrics.jsonl", "summary.json", "environment.json")
_DONE = ("done", "finished", "complete", "completed")
# Keys that do not change what is learned or how it is judged.
_BESIDE = ("name", "about", "claim", "extends", "track", "checkpoint", "check")
_WALL_TIME = b"\x09"  # the tag of the first field of a TensorBoard event, after 12 bytes of length and checksum


@dataclass(frozen=True)
class Run:
    """One run. `value`: of the sweep's metric; `state`: finished, unfinished, or what the sweep says of a run that is neither."""

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
    cost: tuple[float | None, float | None] = (None, None)  # of a sweep's run: PFLOP, seconds

    @property
    def finished(self) -> bool:
        return self.state == "finished" and self.summary is not None

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
    """The runs of one sweep. `mode`: max or min of `metric`."""

    folder: Path
    name: str
    metric: str
    mode: str
    runs: Sequence[Run]


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
        for folder in _found(path):
            if (place := folder.resolve()) in seen or any(parent in seen for parent in place.parents):
                continue
            seen.add(place)
            try:
                if (folder / SWEEP_FILE).is_file():
                    sweeps.append(read_sweep(folder))
                else:
                    runs.append(read_run(folder))
            except (GroundupError, OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
                notes.append(f"{folder}: left out, it cannot be read: {_first_line(error)}")
    if not sweeps and not runs:
        where = ", ".join(map(str, paths))
        raise UsageError(
            f"{where}: no run folder and no sweep in it" + "".join(f"\n{note}" for note in notes),
            hint="a run folder is what `groundup train` makes: it holds recipe.yaml and metrics.jsonl",
        )
    return Collection(sweeps, sorted(runs, key=lambda run: (run.began, str(run.folder))), notes)


def _found(folder: Path) -> Iterator[Path]:
    """Sweeps and run folders at or below `folder`; what lies inside one is its own."""
    is_run = (folder / "recipe.yaml").is_file() and any((folder / name).is_file() for name in _RUN_FILES)
    if is_run or (folder / SWEEP_FILE).is_file():
        yield folder
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _found(entry)


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
    runs = [_run_of_sweep(folder / "runs" / entry["name"], entry) for entry in document["runs"]]
    return Sweep(
        folder, str(document.get("name") or folder.name), document["metric"], document.get("mode", "max"), runs
    )


def _run_of_sweep(folder: Path, entry: Mapping[str, Any]) -> Run:
    value = entry.get("value")
    known = {
        "name": entry["name"],
        "seed": entry.get("seed"),
        "value": value if isinstance(value, int | float) and math.isfinite(value) else None,
        "overrides": _overrides(entry.get("overrides")),
        "reason": str(entry.get("reason") or ""),
        "cost": (entry.get("pflop"), entry.get("seconds")),
    }
    state = str(entry.get("state") or "unknown")
    known["state"] = "finished" if state in _DONE else state
    if not (folder / "recipe.yaml").is_file():
        return Run(folder, **{**known, "state": "no run folder" if state in _DONE else state})
    return read_run(folder, **known)


def _overrides(given: Any) -> dict[str, Any]:
    """The overrides of a run of a sweep as key -> value, whether written as a mapping or as key=value."""
    if isinstance(given, Mapping):
        pairs: list[tuple[str, Any]] = list(given.items())
    else:
        pairs = [(key, yaml.safe_load(text)) for key, _, text in (str(item).partition("=") for item in given or [])]
    return {key: value for key, value in pairs if key != "seed"}


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
