"""What is probably wrong with the images that a run would show to its network: too much erased, nothing clean, foreign constants,
operations that change nothing, flips where a mirror image is another thing. What is shown is drawn by `sampling.py`.
"""

import json
import re
from collections.abc import Iterator

from groundup.augment import Operation
from groundup.augment.coarse_dropout import CoarseDropout
from groundup.augment.cutout import Cutout
from groundup.augment.flip import Flip
from groundup.augment.geometry import VerticalFlip
from groundup.augment.one_of import OneOf
from groundup.augment.random_erasing import RandomErasing
from groundup.basis.settings import Settings
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.sampling import ERASING, Erased, Samples, sample_facts, see_samples, shown
from groundup.preflight.subject import Subject

__all__ = ["SAMPLE_CODES", "Erased", "Samples", "check_samples", "sample_facts", "see_samples"]

_MUCH = 0.25  # mean share of erased pixels
_MANY = 0.1  # share of the images that lose more than half
_OFF_CENTRE = 0.3  # of the mean after normalisation
_SPREAD = (0.67, 1.5)  # of the standard deviation after normalisation
_SHORT = 10  # epochs
_LETTERS = re.compile(r"(?<![a-z])(digits|[ekq]?mnist|svhn|usps|omniglot|letters)(?![a-z])")

SAMPLE_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU301",
            "warning",
            "Augmentation erases much of the images",
            f"On average more than {_MUCH:.0%} of the pixels are blanked, or more than {_MANY:.0%} of the images lose "
            "over half of theirs. The size of a square in px that suits one data set covers most of a smaller image.",
            "Erase less: a smaller size, fewer holes, a smaller p.",
        ),
        Code(
            "GU302",
            "note",
            "No clean batch under mixing",
            "Every batch is mixed, and the network never trains on an image as it will be tested. Running batch-norm "
            "statistics then describe mixed images only. Usual in long runs; in short ones, and for the last epochs "
            "of a run, some clean batches help.",
            "Set mix.clean=0.2, or end the mixing in a phase: mix={methods: []}.",
            ("001, bug 2",),
        ),
        Code(
            "GU303",
            "warning",
            "The constants of normalisation do not fit the data",
            "Real training images should have a mean of about 0 and a standard deviation of about 1 after "
            f"normalisation. More than {_OFF_CENTRE:g} off in the mean, or a deviation outside {_SPREAD[0]:g} to "
            f"{_SPREAD[1]:g}, are the constants of another data set.",
            "Leave the constants out: they are measured on the training split.",
        ),
        Code(
            "GU304",
            "warning",
            "An operation that changes no image",
            "A setting that does nothing is taken for the cause of what the run shows: system 004 reported on a "
            "CutMix that never mixed.",
            "Remove it, or give it values that act on such images.",
            ("004, bug 2",),
        ),
        Code(
            "GU305",
            "note",
            "Mixing, label smoothing and dropout are all strong",
            "Each keeps the network from being sure; together they often cost more than they give, above all in runs "
            "of under 100 epochs. The loss and the accuracy on training batches then say little.",
            "Take one of them back, such as loss.label_smoothing=0 or model.dropout=0.",
        ),
        Code(
            "GU306",
            "warning",
            "Mirrored digits or letters",
            "What is told by left and right, or above and below, is no longer itself in a mirror: 6 and 9, b and d, 2 "
            "and 5.",
            "Remove the flip from augment.policy.",
        ),
        Code(
            "GU307",
            "note",
            "Erasing in a short run",
            f"In runs under {_SHORT} epochs erasing takes away more than it gives: leaving cutout out gained over a "
            "point in under 10 epochs at CIFAR-100.",
            "Remove the erasing, or train longer.",
        ),
    )
}


def check_samples(subject: Subject, samples: Samples) -> list[Finding]:
    """Everything about the samples that is very likely not meant; see `SAMPLE_CODES`."""
    return [
        *_much_erased(subject, samples),
        *_never_clean(subject, samples),
        *_foreign_constants(samples),
        *_without_effect(subject, samples),
        *_all_at_once(subject),
        *_mirrored(subject),
        *_erasing_in_short(subject),
    ]


def _much_erased(subject: Subject, samples: Samples) -> Iterator[Finding]:
    worst = max(samples.erased, key=lambda erased: (erased.mean, erased.heavily))
    if worst.mean <= _MUCH and worst.heavily <= _MANY:
        return
    found = (_erases_less(operation, subject.image_size) for operation in subject.recipe.augment.policy)
    mend = " ".join(override for override in found if override) if worst.step == 0 else ""
    yield find(
        SAMPLE_CODES["GU301"],
        f"from step {worst.step} on: {worst.mean:.0%} of the pixels; {worst.heavily:.0%} of the images lose more than "
        "half",
        mend or SAMPLE_CODES["GU301"].mend,
    )


def _erases_less(operation: Operation, side: int) -> str:
    key = f"augment.policy.{operation.name}"
    if isinstance(operation, Cutout):
        return f"{key}.size={max(1, side // 4)}"
    if isinstance(operation, RandomErasing):
        return f"{key}.scale=[0.02,0.2] {key}.p=0.5"
    if isinstance(operation, CoarseDropout):
        return f"{key}.holes=[1,2] {key}.side=[0.1,0.25] {key}.unit=share"
    return ""


def _never_clean(subject: Subject, samples: Samples) -> Iterator[Finding]:
    if samples.clean == 0 and not any(values.mix.clean for values in subject.live.everything()):
        yield find(
            SAMPLE_CODES["GU302"],
            f"0% of {samples.batches} batches drawn over the run; {samples.nearly_clean:.0%} of the images keep nine "
            "tenths of themselves",
            "mix.clean=0.2",
        )


def _foreign_constants(samples: Samples) -> Iterator[Finding]:
    low, high = _SPREAD
    if max(map(abs, samples.mean)) > _OFF_CENTRE or min(samples.std) < low or max(samples.std) > high:
        yield find(
            SAMPLE_CODES["GU303"],
            f"{samples.looked_at} training images have mean {shown(samples.mean)} and std {shown(samples.std)} after "
            "normalisation",
            "augment.normalize.mean=null augment.normalize.std=null",
        )


def _without_effect(subject: Subject, samples: Samples) -> Iterator[Finding]:
    for name in samples.idle:
        yield find(
            SAMPLE_CODES["GU304"],
            f"{name} changed none of {samples.looked_at} images",
            _policy_without(subject, name) or SAMPLE_CODES["GU304"].mend,
        )


def _all_at_once(subject: Subject) -> Iterator[Finding]:
    model = subject.recipe.model
    for values in subject.live.everything():
        inside = values.dropout if values.dropout is not None else getattr(model, "dropout", 0.0)
        dropout = max(inside, getattr(model, "head_dropout", 0.0))
        mixes = values.mix.active and values.mix.clean <= 0.5
        if mixes and values.label_smoothing >= 0.1 and dropout >= 0.2:
            yield find(
                SAMPLE_CODES["GU305"],
                f"{1 - values.mix.clean:.0%} of the batches mixed, label smoothing {values.label_smoothing:g}, dropout "
                f"{dropout:g}, {subject.recipe.train.epochs:g} epochs",
                "loss.label_smoothing=0",
            )
            return


def _mirrored(subject: Subject) -> Iterator[Finding]:
    source = subject.recipe.data.source
    name = source.lower()
    flips = [each.name for each in _everywhere(subject) if isinstance(each, Flip | VerticalFlip)]
    if flips and _LETTERS.search(name) and "fashion" not in name:
        yield find(
            SAMPLE_CODES["GU306"],
            f"{', '.join(dict.fromkeys(flips))} on data.source={source}",
            _policy_without(subject, *flips) or SAMPLE_CODES["GU306"].mend,
        )


def _erasing_in_short(subject: Subject) -> Iterator[Finding]:
    epochs = subject.clock.total_steps / subject.clock.steps_per_epoch
    erasing = [each.name for each in _everywhere(subject) if isinstance(each, ERASING)]
    if erasing and epochs < _SHORT:
        yield find(
            SAMPLE_CODES["GU307"],
            f"{', '.join(dict.fromkeys(erasing))} in a run of {epochs:g} epochs",
            _policy_without(subject, *erasing) or SAMPLE_CODES["GU307"].mend,
        )


def _everywhere(subject: Subject) -> list[Operation]:
    """The operations of all policies of the run, and those inside a choice."""
    return [each for values in subject.live.everything() for operation in values.policy for each in _inside(operation)]


def _inside(operation: Operation) -> Iterator[Operation]:
    yield operation
    if isinstance(operation, OneOf):
        for member in operation.members():
            yield from _inside(member)


def _policy_without(subject: Subject, *unwanted: str) -> str:
    """The override that takes operations out of augment.policy; "" where they stand in a phase or inside a choice."""
    policy = subject.recipe.augment.policy
    kept = [operation for operation in policy if operation.name not in unwanted]
    if len(kept) == len(policy):
        return ""
    written = json.dumps([_written(operation) for operation in kept])
    return f"'augment.policy={written}'" if kept else "augment.policy=[]"


def _written(operation: Operation) -> dict[str, object]:
    """An operation as it stands in a recipe."""
    assert isinstance(operation, Settings)
    return {"name": operation.name, **operation.model_dump(mode="json", exclude_unset=True)}
