"""The honest report on finished runs, from their stored weights: one run in depth, several against each other.

What is asked for is measured and added to the run's evaluation.json, evaluation.html and card; the weights, and everything else in
the folder, stay as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from groundup.basis.errors import UsageError, unknown_name
from groundup.basis.interruption import StopRequest
from groundup.data import Splits
from groundup.evaluation import TTA, Evaluation
from groundup.evaluation.corruptions import SMALLEST
from groundup.runs.card.writing import left_alone, write_card
from groundup.runs.evaluation_file import (
    Sections,
    alone,
    read_sections,
    require_known_format,
    view_of,
    weights_checksum,
    write_sections,
)
from groundup.runs.evaluation_page import NAME, text, write_page
from groundup.runs.folder import RunFolder
from groundup.runs.load import classifier_of
from groundup.runs.publication import LOADED
from groundup.runs.reports import SECTIONS, Subject, chosen
from groundup.runs.reports.accuracy import evaluation_of
from groundup.runs.reports.base import Twin, view_name
from groundup.runs.reports.comparison import Member, compare, short_names
from groundup.runs.reports.corruptions import open_given
from groundup.runs.reports.merging import merged, usable
from groundup.runs.trained import Trained, data_of, fingerprint_of, open_trained, require_same_data
from groundup.runs.twins import OPTION, name_of, require_other_split, require_twin
from groundup.training import choose_engine

# What can be asked for by name; accuracy always is, and what compares runs follows from their number.
EXTRA = ("calibration", "corruptions", "generalisation", "recalibrated", "duplicates", "mistakes")

_APART = ("accuracy", "comparison")  # not keys of their own in the JSON of a run


@dataclass(frozen=True)
class Wanted:
    """What to measure. sections: names of EXTRA; full: corruptions of all images; corrupted: a source of corrupted images; images:
    places in the split of images to look at;
    temperature_from: the run whose validation split the temperature is fitted on."""

    tta: str = "none"
    split: str = "test"
    sections: tuple[str, ...] = ()
    full: bool = False
    corrupted: str | None = None
    ensemble: bool = False
    temperature_from: Path | str | None = None
    images: tuple[int, ...] = ()

    @property
    def view(self) -> str:
        return view_name(self.split, self.tta)

    def check(self, runs: int) -> None:
        """UsageError where options do not fit together."""
        if self.tta not in TTA:
            raise UsageError(f"--tta {self.tta}: unknown; allowed: {', '.join(TTA)}")
        for section in self.sections:
            if section not in EXTRA:
                raise unknown_name("sections", section, EXTRA)
        if self.full and "corruptions" not in self.sections:
            raise UsageError("--full: does nothing without --corruptions", hint="add --corruptions")
        if self.temperature_from is not None and "calibration" not in self.sections:
            raise UsageError(f"{OPTION}: does nothing without --calibration", hint="add --calibration")
        if len(self.images) > chosen.MOST:
            raise UsageError(f"--image: {len(self.images)} images named; allowed: at most {chosen.MOST}")
        if self.ensemble and runs < 2:
            raise UsageError("--ensemble: needs at least 2 runs, got 1", hint="name the runs it is made of")
        if "duplicates" in self.sections and self.split == "train":
            raise UsageError(
                "--duplicates: looks for images of another split in train; allowed: --split test, validation"
            )


@dataclass(frozen=True)
class Report:
    """What one evaluation of one run found. `sections`: only what was measured now."""

    run: Trained
    name: str
    result: Evaluation
    sections: Sections
    optimistic: bool
    notes: tuple[str, ...] = ()

    @property
    def page(self) -> Path | None:
        """The page that shows it, None where nothing is kept: for a repository of the Hub."""
        return self.run.folder.path / NAME if self.run.is_ours else None


def evaluate(
    run: Path | str,
    *,
    tta: str = "none",
    split: str = "test",
    sections: Sequence[str] = (),
    temperature_from: Path | str | None = None,
    stop: StopRequest | None = None,
    model: nn.Module | None = None,
    data: Splits | None = None,
) -> Evaluation:
    """Evaluate a run; adds to the evaluation.json and evaluation.html of its folder. Of `hf:OWNER/NAME` nothing is kept.

    sections: names of EXTRA. temperature_from: for calibration of a run without a validation split, a run of its recipe with one.
    `model`, `data`: the network and splits of a run that was trained with your own.
    """
    wanted = Wanted(tta, split, tuple(sections), temperature_from=temperature_from)
    wanted.check(1)
    stop = stop or StopRequest()
    with _writable([run]) as (trained,):
        twin = _open_twin([trained], wanted, stop, lambda text: None)
        subject = _open(trained, wanted, stop, lambda text: None, model, data)
        return _measure(trained, _with_twin(trained, subject, twin), Path(run).name, wanted).result


def evaluate_runs(
    runs: Sequence[Path], wanted: Wanted, stop: StopRequest, tell: Callable[[str], None] = lambda text: None
) -> list[Report]:
    """Evaluate every run, and compare them if there are several. What is done is kept if a later part is interrupted."""
    wanted.check(len(runs))
    names = short_names(runs)
    if len({run.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is named twice", hint="name every run once")
    with _writable(runs) as opened:
        _require_one_data(opened)
        return _evaluated(opened, names, wanted, stop, tell)


@contextmanager
def _writable(runs: Sequence[Path | str]) -> Iterator[list[Trained]]:
    """The runs, with folders that may be written to. A repository's is a temporary one: the Hub's copy stays as it is."""
    with ExitStack() as stack:
        opened = []
        for run in runs:
            trained = open_trained(run)
            if not trained.is_ours:
                place = Path(stack.enter_context(TemporaryDirectory(prefix="groundup-")))
                for name in LOADED:
                    if (file := trained.folder.path / name).is_file():
                        (place / name).symlink_to(file.resolve())  # what is written takes the place of the link
                trained = replace(trained, folder=RunFolder(place))
            require_known_format(trained.folder)
            opened.append(trained)
        yield opened


def _evaluated(
    opened: Sequence[Trained], names: Sequence[str], wanted: Wanted, stop: StopRequest, tell: Callable[[str], None]
) -> list[Report]:
    reports, members = [], []
    first: Splits | None = None
    twin = _open_twin(opened, wanted, stop, tell)
    for trained, name in zip(opened, names, strict=True):
        if len(opened) > 1:
            tell(f"evaluating {name}")
        subject = _with_twin(trained, _open(trained, wanted, stop, tell), twin)
        if first is not None:
            _require_same_images(first, subject, str(opened[0].reference), str(trained.reference))
        first = first or subject.splits
        reports.append(_measure(trained, subject, name, wanted))
        chosen = f"{name} (chosen on test)" if reports[-1].optimistic else name
        weights = weights_checksum(subject.folder)
        members.append(Member(chosen, subject.recipe, *subject.logits(), wanted.tta, subject.flop, weights))
    if len(opened) == 1:
        return reports
    found = compare(members, wanted.ensemble)
    facts = {"comparison": {view_of(wanted.view, SECTIONS["comparison"].measured_on(found)): found}}
    return [_kept(report, facts) for report in reports]


def _is_optimistic(folder: RunFolder) -> bool:
    return bool((folder.summary() or {}).get("optimistic"))


def json_of(reports: Sequence[Report]) -> dict[str, Any]:
    """What was measured now as `json` can write it: of one run its numbers, of several a list and their comparison."""
    several = [
        {
            "run": str(report.run.reference),
            "optimistic": report.optimistic,
            **report.result.to_dict(),
            "cost": next(iter(report.sections["accuracy"].values()))["cost"],
            **{key: facts for key, views in report.sections.items() for facts in views.values() if key not in _APART},
            "notes": list(report.notes),
            "page": None if report.page is None else str(report.page),
        }
        for report in reports
    ]
    if len(several) == 1:
        return several[0]
    (compared,) = reports[0].sections["comparison"].values()
    return {"runs": several, "comparison": compared}


def text_of(reports: Sequence[Report]) -> list[str]:
    """What was measured now, for the terminal: a screen of plain text for one run."""
    lines: list[str] = []
    for report in reports:
        own = {key: views for key, views in report.sections.items() if key != "comparison"}
        lines += [*([report.name] if len(reports) > 1 else []), *text(own)]
        if report.optimistic:
            lines.append("OPTIMISTIC: the run was chosen on the test split, so new images will be classified less well")
        lines += [*(f"note: {note}" for note in report.notes), *([str(report.page)] if report.page else []), ""]
    if len(reports) > 1:
        lines += text({"comparison": reports[0].sections["comparison"]})
    return lines if lines[-1] else lines[:-1]


def _open(
    trained: Trained,
    wanted: Wanted,
    stop: StopRequest,
    tell: Callable[[str], None],
    model: nn.Module | None = None,
    data: Splits | None = None,
) -> Subject:
    run, folder, recipe = trained.reference, trained.folder, trained.recipe
    if wanted.split == "test" and folder.summary() is None:
        raise UsageError(
            f"run {str(run)!r}: is not finished, and the test split is read once, at the end",
            hint=f"`groundup resume {run}` finishes it; --split validation can be read at any time",
        )
    if "generalisation" in wanted.sections and folder.summary() is None:
        raise UsageError(f"run {str(run)!r}: is not finished, and --generalisation reads the test split")
    classifier = classifier_of(trained, model)
    if data is None:
        splits = data_of(trained, stop)
    else:
        require_same_data(folder, data)
        splits = data
    if "corruptions" in wanted.sections and splits.image_size < SMALLEST:
        raise UsageError(f"--corruptions: images of {splits.image_size} px; needs {SMALLEST} or more (data.resolution)")
    engine = choose_engine(recipe.train, total_steps=1)
    engine.activate()
    engine.take(classifier.model)
    subject = Subject(
        folder,
        recipe,
        splits,
        classifier,
        engine,
        wanted.split,
        wanted.tta,
        full=wanted.full,
        chosen=tuple(dict.fromkeys(wanted.images)),
        corrupted=wanted.corrupted,
        own_data=data is not None,
        stop=stop,
        tell=tell,
    )
    # An unknown split, or a source that is none, is told before anything is computed.
    images = len(subject.part())
    if wanted.corrupted is not None:
        open_given(subject, wanted.corrupted)
    if outside := [place for place in subject.chosen if not 0 <= place < images]:
        raise UsageError(f"--image {outside[0]}: the {wanted.split} split has images 0 to {images - 1}")
    return subject


def _open_twin(
    runs: Sequence[Trained], wanted: Wanted, stop: StopRequest, tell: Callable[[str], None]
) -> tuple[Trained, Subject] | None:
    """The run that the temperature is taken from, where one is named. UsageError if it is no twin of one of `runs`."""
    if wanted.temperature_from is None:
        return None
    twin = open_trained(wanted.temperature_from)
    for run in runs:
        require_twin(run, twin)
    # Of its splits validation is asked for by name: that it has one is checked with the images of the run.
    return twin, _open(twin, Wanted(wanted.tta, split="train"), stop, tell)


def _with_twin(run: Trained, subject: Subject, opened: tuple[Trained, Subject] | None) -> Subject:
    """The subject with the logits of the twin, computed once for all runs."""
    if opened is None:
        return subject
    twin, of_twin = opened
    require_other_split(run, subject.splits, twin, of_twin.splits)
    return replace(subject, twin=Twin(name_of(twin), *of_twin.logits("validation")))


def _measure(run: Trained, subject: Subject, name: str, wanted: Wanted) -> Report:
    """Measure what is wanted, and write down each section before the next begins."""
    keys = [*wanted.sections, *(["corrupted"] if wanted.corrupted else []), *(["chosen"] if wanted.images else [])]
    report = Report(run, name, evaluation_of(subject), {}, _is_optimistic(subject.folder))
    for key, section in SECTIONS.items():
        if section.measure and (key == "accuracy" or key in keys):
            if key != "accuracy":
                subject.tell(f"measuring: {section.title.lower()}")
            found = section.measure(subject)
            report = _kept(report, {key: {view_of(subject.view, section.measured_on(found)): found}})
    return report


def _kept(report: Report, facts: Sections) -> Report:
    """The report with `facts` added, which are in the run folder then: evaluation.json, evaluation.html, the card."""
    folder, recipe = report.run.folder, report.run.recipe
    with alone(folder):
        known, unread = usable(read_sections(folder))
        everything = merged(known, facts)
        write_sections(folder, everything)
        write_page(folder, recipe, everything)
        summary = folder.summary()
        ours = summary is None or write_card(folder, recipe, summary, everything)
    note = () if ours else (left_alone(folder),)
    notes = tuple(dict.fromkeys((*report.notes, *unread, *note)))
    return replace(report, sections={**report.sections, **facts}, notes=notes)


def _require_one_data(runs: Sequence[Trained]) -> None:
    """UsageError if two runs were trained on different images; told before any of them is evaluated."""
    one = fingerprint_of(runs[0].folder)
    for run in runs:
        found = fingerprint_of(run.folder)
        if None not in (found, one) and found != one:
            why = "data.source, data.resolution or data.resize differs"
            raise _other_data(str(runs[0].reference), str(run.reference), why)


def _require_same_images(first: Splits, subject: Subject, one: str, other: str) -> None:
    """UsageError if the split of two runs on one data set is not the same images in the same order."""
    images, own = getattr(first, subject.split), subject.part()
    same = np.array_equal(images.indices, own.indices) and np.array_equal(images.labels, own.labels)
    if first.fingerprint != subject.splits.fingerprint or not same:
        raise _other_data(one, other, f"their {subject.split} splits hold different images")


def _other_data(one: str, other: str, why: str) -> UsageError:
    return UsageError(
        f"{one} and {other} cannot be compared: {why}",
        hint="runs are compared on the same images; evaluate these one by one",
    )
