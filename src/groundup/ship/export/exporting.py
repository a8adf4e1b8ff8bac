"""From a finished run to a file that works without groundup, checked against the run on real images before anybody sees it.

What is in a file is said in `module`, what is compared in `check`, where it lies in `place`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.errors import GroundupError, UsageError, unknown_name
from groundup.basis.interruption import StopRequest
from groundup.data import ImageSet, Splits
from groundup.recipe import Recipe, validate
from groundup.recipe.compose import lay_override
from groundup.runs.evaluation_file import fitted_temperature, weights_checksum
from groundup.runs.folder import RunFolder
from groundup.runs.load import Classifier, classifier_of
from groundup.runs.trained import Trained, data_of, open_trained, require_same_data
from groundup.ship.export import int8_format, onnx_format, pt2_format, safetensors_format
from groundup.ship.export.check import (
    IMAGES,
    IMAGES_INT8,
    Sample,
    accuracies,
    agreement_of,
    require_accuracy,
    sample_of,
    speed,
)
from groundup.ship.export.module import ExportedClassifier, Facts, Runner, as_runner, facts_of
from groundup.ship.export.place import Place, Record
from groundup.ship.export.text import said

FORMATS = ("onnx", "pt2", "safetensors")
FOLDER = "export"

_FILES = {"onnx": onnx_format.FILE, "pt2": pt2_format.FILE, "safetensors": safetensors_format.FILE}
_BESIDE = {"safetensors": ("classifier.json", "recipe.yaml")}
_DATA_KEYS = ("data.source", "data.image", "data.label", "data.cache")
# Raised when the files that are written change, so that older ones are made again.
_REVISION = 1
_MOVED = "say where it is now, e.g. data.source=parquet:DIR"


@dataclass(frozen=True)
class Wanted:
    """What to export. images: test images to compare on, None for the default; out: a folder, None for RUN/export."""

    to: str
    int8: bool = False
    images: int | None = None
    calibration_images: int = int8_format.CALIBRATION_IMAGES
    out: Path | None = None
    overrides: tuple[str, ...] = ()

    def check(self) -> None:
        """UsageError where options do not fit together, or a package is missing."""
        if self.to not in FORMATS:
            raise unknown_name("--to", self.to, FORMATS)
        if self.int8 and self.to != "onnx":
            raise UsageError(f"--int8: quantises the ONNX file, and --to is {self.to}", hint="--to onnx --int8")
        for option, count in (("images", self.images), ("calibration-images", self.calibration_images)):
            if count is not None and count < 1:
                raise UsageError(f"--{option} {count}: needs a whole number of 1 or more")
        for override in self.overrides:
            if override.partition("=")[0].strip() not in _DATA_KEYS:
                raise UsageError(
                    f"override {override!r}: an export is of the run as it was trained; only where its data lies can be told: "
                    f"{', '.join(_DATA_KEYS)}"
                )
        if self.to == "onnx":
            onnx_format.require_onnx()


@dataclass(frozen=True)
class Exported:
    """One file. `left`: it was there already, of the same weights; `record`: what is noted beside it."""

    path: Path
    left: bool
    record: Record = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As `json` can write it."""
        return {"file": str(self.path), "left_as_it_was": self.left, **self.record}


@dataclass(frozen=True)
class _Subject:
    """The run, and what its exports are made of and compared with."""

    folder: RunFolder
    classifier: Classifier
    splits: Splits
    facts: Facts
    module: ExportedClassifier
    wanted: Wanted
    stop: StopRequest
    tell: Callable[[str], None]

    @property
    def original(self) -> Runner:
        """The run itself: through `augment.normalize` as in evaluation, not through the module that is exported."""
        read, temperature = self.classifier, self.facts.temperature or 1.0

        def probabilities(images: Tensor) -> Tensor:
            seen = augment.normalize(images.permute(0, 3, 1, 2), read.mean, read.std)
            return (read.model(seen).float() / temperature).softmax(1)

        return as_runner(probabilities)

    def place(self, file: str, beside: tuple[str, ...] = ()) -> Place:
        return Place(self.wanted.out or self.folder.path / FOLDER, file, beside)

    def test(self, default: int) -> Sample:
        assert self.splits.test is not None
        return sample_of(self.splits.test, self.wanted.images or default, "export")

    def identity(self, **more: Any) -> Record:
        """What decides what is in a file."""
        return {**self.facts.to_dict(), "revision": _REVISION, **more}


def export(
    run: Path | str,
    wanted: Wanted,
    stop: StopRequest | None = None,
    tell: Callable[[str], None] = lambda text: None,
    *,
    model: nn.Module | None = None,
    data: Splits | None = None,
) -> list[Exported]:
    """Export a finished run, compare each file with it, measure its speed. GroundupError, and no file, beyond the tolerance.

    `model`, `data`: the network and splits of a run that was trained with your own.
    """
    wanted.check()
    trained = open_trained(run)
    if wanted.out is None and not trained.is_ours:
        raise UsageError(f"{run}: has no folder to export into", hint="name one with --out DIR")
    file = _FILES[wanted.to]
    # Whose files lie there is told before anything is computed.
    out = wanted.out or trained.folder.path / FOLDER
    Place(out, file, _BESIDE.get(wanted.to, ())).require_ours()
    if wanted.int8:
        Place(out, int8_format.FILE).require_ours()
    subject = _open(trained, wanted, stop or StopRequest(), tell, model, data)
    done = [_same_as_the_run(subject)]
    if wanted.int8:
        done.append(_quantised(subject, done[0].path))
    return done


def _open(
    trained: Trained,
    wanted: Wanted,
    stop: StopRequest,
    tell: Callable[[str], None],
    model: nn.Module | None,
    data: Splits | None,
) -> _Subject:
    folder = trained.folder
    if not trained.published and folder.summary() is None:
        raise UsageError(
            f"run {str(folder.path)!r}: is not finished, and an export is of its result",
            hint=f"`groundup resume {folder.path}` finishes it",
        )
    classifier = classifier_of(trained, model)
    if data is None:
        splits = data_of(trained, stop, _where_it_lies(trained, wanted), hint=_MOVED)
    else:
        require_same_data(folder, data)
        splits = data
    if splits.test is None:
        raise UsageError(
            f"run {str(folder.path)!r}: its data has no test split, and an export is compared on real images"
        )
    temperature = fitted_temperature(folder)
    facts = facts_of(classifier, trained.recipe.name, weights_checksum(folder), temperature)
    return _Subject(folder, classifier, splits, facts, ExportedClassifier(classifier, temperature), wanted, stop, tell)


def _where_it_lies(trained: Trained, wanted: Wanted) -> Recipe:
    """The recipe with the data where the caller says that it is now."""
    values = trained.recipe.model_dump(mode="json", by_alias=True)
    for override in wanted.overrides:
        lay_override(values, override)
    return validate(values)


def _same_as_the_run(subject: _Subject) -> Exported:
    """The fp32 file, compared with the run."""
    to = subject.wanted.to
    place = subject.place(_FILES[to], _BESIDE.get(to, ()))
    sample = subject.test(IMAGES)
    subject.tell(f"exporting to {to}")

    def examine(path: Path) -> Record:
        runner = _opened(subject, path)
        agreement = agreement_of(
            sample.ask(subject.original, subject.stop.check), sample.ask(runner, subject.stop.check)
        )
        agreement.require(path.name)
        subject.tell("measuring its speed")
        measured = speed(subject.original, runner, sample, ("run", to), subject.stop.check)
        return {"agreement": agreement.to_dict(), "speed": measured}

    return _made(place, subject.identity(), lambda path: _written(subject, path), examine)


def _written(subject: _Subject, path: Path) -> Record:
    if subject.wanted.to == "onnx":
        return onnx_format.write_onnx(subject.module, subject.facts, path)
    if subject.wanted.to == "pt2":
        return pt2_format.write_pt2(subject.module, subject.facts, path)
    return safetensors_format.write_safetensors(subject.module, subject.facts, path, subject.folder)


def _opened(subject: _Subject, path: Path) -> Runner:
    if subject.wanted.to == "onnx":
        return _onnx(path)
    if subject.wanted.to == "pt2":
        return pt2_format.open_pt2(path)
    network = copy.deepcopy(subject.classifier.model)
    return safetensors_format.open_safetensors(path, subject.classifier, network, subject.facts.temperature)


def _onnx(path: Path) -> Runner:
    return onnx_format.open_onnx(path, torch.get_num_threads())


def _quantised(subject: _Subject, source: Path) -> Exported:
    """The int8 file, made of the fp32 file at `source` and compared with it."""
    place = subject.place(int8_format.FILE)
    count = subject.wanted.calibration_images
    train: ImageSet = subject.splits.train
    sample = subject.test(IMAGES_INT8)
    subject.tell(f"quantising, with the ranges of {min(count, len(train)):,} training images")

    def write(path: Path) -> Record:
        calibration = sample_of(train, count, "calibration images")
        return int8_format.write_int8(source, subject.facts, path, calibration, subject.stop.check)

    def examine(path: Path) -> Record:
        before, after = _onnx(source), _onnx(path)
        subject.tell(f"comparing on {len(sample.images):,} test images")
        asked = [sample.ask(runner, subject.stop.check) for runner in (before, after)]
        found = accuracies(asked[0], asked[1], sample.labels)
        require_accuracy(found, path.name)
        agreement = agreement_of(asked[0], asked[1])
        measured = speed(before, after, sample, ("fp32", "int8"), subject.stop.check)
        found |= {"largest_difference": agreement.difference, "agreement": agreement.agreement}
        return {"accuracy": found, "fp32_bytes": source.stat().st_size, "speed": measured}

    return _made(place, subject.identity(int8=True, calibration_images=count), write, examine)


def _made(
    place: Place, identity: Record, write: Callable[[Path], Record], examine: Callable[[Path], Record]
) -> Exported:
    """The file at its place: the one that is there if it is made of the same, else a new one, which is moved in once it is good."""
    if place.holds(identity):
        written = place.known()["written"]
        try:
            found = examine(place.path)
        except GroundupError:
            place.remove()
            raise
        record = {"made_of": identity, "written": written, "bytes": place.path.stat().st_size, **found}
        place.write(record)
        return Exported(place.path, True, record)
    with place.building() as building:
        path = building / place.file
        written = write(path)
        record = {"made_of": identity, "written": written, "bytes": path.stat().st_size, **examine(path)}
        place.take(building, record)
    return Exported(place.path, False, record)


def lines_of(done: list[Exported]) -> list[str]:
    """What was exported, for the terminal."""
    lines = []
    for exported in done:
        record = exported.record
        lines += [str(exported.path), *(f"  {line}" for line in said(record))]
        if exported.left:
            lines.append("  left as it was: made of the same weights")
    return lines
