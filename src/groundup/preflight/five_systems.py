"""The mistakes of the five systems, the recipes that hold them, and the codes by which `groundup check` names them.

A test holds the table against what is found: every recipe as run has the codes of its rows and no others. The page of it is
written by `groundup.preflight.pages`. Bugs are counted as in the headers of the recipes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from groundup.preflight.findings import Code

PAGE = "five-systems.md"

SESSIONS = ("000-session-02-as-run", "000-session-04-as-run")
BASES = ("000-base-resnet18-as-run", "000-base-resnet34-as-run", "000-base-wrn-as-run")
_MEMBERS = ("sgd-basic", "sgd-advanced", "adamw-basic", "adamw-advanced")
PREACTS = tuple(f"003-preact-{member}-as-run" for member in _MEMBERS)
RESNETS = tuple(f"003-resnet18-{member}-as-run" for member in _MEMBERS)
IMAGENET = ("004-as-run", "004-swa-as-run")


@dataclass(frozen=True)
class Mistake:
    """One mistake. bugs: as in "000, bug 1"; what: in words; recipes: that hold it; codes: that name it; overrides: what the
    recipe needs besides, for a mistake that no recipe as run has in it."""

    bugs: str
    what: str
    recipes: tuple[str, ...]
    codes: tuple[str, ...]
    overrides: tuple[str, ...] = ()


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "000, bugs 1 and 3",
        "restarts meant every 25 (20) epochs come every 25 (20) iterations; the run ends at a chance place of a cycle",
        SESSIONS,
        ("GU102", "GU106"),
    ),
    Mistake(
        "000, bug 2", "the peak of the warm-up is lost: 0.01 after it in place of 0.1 (0.15)", SESSIONS, ("GU101",)
    ),
    Mistake(
        "000, bug 4; 001, bug 1; 002, bug 2; 003, bug 4; 004",
        "best epoch, stopping or plateau by the test split, which is then reported",
        (*SESSIONS, "001-as-run", "002-plateau-as-run", *PREACTS, *RESNETS, *IMAGENET),
        ("GU501",),
    ),
    Mistake(
        "000, bug 9; 003, bug 5",
        "an ImageNet stem on images of 32 px",
        (*BASES[:2], *RESNETS),
        ("GU201", "GU202"),
    ),
    Mistake(
        "000, bug 14",
        "one cycle from the rate that a rate finder left behind, 1e-6",
        ("000-base-resnet18",),
        ("GU105",),
        ("schedule.max_lr=0.1265", "schedule.div_factor=126500"),
    ),
    Mistake(
        "001, bug 2; 000",
        "every batch is mixed, so that batch-norm statistics know no clean image",
        ("001-as-run", "000-session-02-as-run", *BASES),
        ("GU302",),
    ),
    Mistake(
        "001, bug 5; 000",
        "the schedule replaces the momentum of the optimizer",
        ("001-as-run", *BASES),
        ("GU107",),
    ),
    Mistake(
        "000, 001",
        "mixing, label smoothing and dropout are all strong",
        (*SESSIONS, "001-as-run"),
        ("GU305",),
    ),
    Mistake(
        "002, bug 1",
        "a cosine that was never stepped: the rate is constant",
        ("002-constant-as-run", "002-cosine-as-run"),
        ("GU106",),
    ),
    Mistake("003, bug 6", "no norm between the last convolution and the pooling", PREACTS, ("GU206",)),
    Mistake(
        "004, bugs 4 and 9",
        "the rate climbs while weights are averaged",
        ("004-swa-as-run",),
        ("GU514",),
    ),
    Mistake(
        "004, bugs 4 and 9",
        "the same with groundup's own setting: the average's rate cuts the cosine off above its end",
        ("004-swa",),
        ("GU514", "GU515"),
        ("average.lr=0.01",),
    ),
    Mistake(
        "004, bug 1",
        "an average over 10,000 steps in a run of some epochs, the smaller half of the bug",
        ("004",),
        ("GU511",),
        ("train.epochs=5", "average={name: ema, horizon: 10000step, warmup: false}"),
    ),
    Mistake(
        "004, bug 12",
        "a try of six epochs of which five are warm-up",
        ("004",),
        ("GU104",),
        ("schedule.warmup=5ep", "train.epochs=6"),
    ),
    Mistake(
        "004, bug 13; all",
        "weight decay on norms and biases",
        (
            *SESSIONS,
            *BASES,
            "001-as-run",
            "002-cosine-as-run",
            "002-plateau-as-run",
            *PREACTS,
            *RESNETS,
            *IMAGENET,
        ),
        ("GU207",),
    ),
)

# What no recipe can say, and so no check can find in one: bugs, what, why.
IMPOSSIBLE: tuple[tuple[str, str, str], ...] = (
    (
        "000, bug 5; 001, bug 3; 002, bug 6",
        "arguments of operations that a library drops",
        "an unknown key is an error; the recipes as run have what was really drawn",
    ),
    (
        "000, bug 6; 001, bug 4",
        "the same augmentation parameters in every epoch, no seed",
        "they are a function of seed, epoch and image",
    ),
    (
        "000, bug 10; 004, bug 11",
        "training accuracy of mixed images compared with test accuracy",
        "it is labelled `mixed`; the gap is measured on clean images",
    ),
    ("000, bug 13; 004, bugs 7 and 8", "checkpoints that do not go on where they were", "resume is exact"),
    (
        "002, bug 6",
        "training and test normalised by different constants",
        "there is one function, and one pair of constants",
    ),
    ("003, bug 1", "augmented samples are cached", "what is cached are the images as they are"),
    ("003, bug 2", "test images go through the training transform", "evaluation has no augmentation but `--tta`"),
    ("003, bug 3", "a plateau that looks the wrong way", "the direction follows from what is watched"),
    (
        "003, bug 7",
        "a piece of the last batch leaks into the next epoch",
        "micro-batches belong to one batch",
    ),
    (
        "004, bug 1",
        "an average with the batch-norm statistics of the start",
        "statistics are measured for the average",
    ),
    ("004, bug 2", "CutMix with alpha 0, which mixes nothing", "refused: alpha is above 0"),
)

_HEAD = """# The mistakes of the five systems, and what `groundup check` says of them

Written by `python -m groundup.preflight.pages docs/findings` from the table that a test holds against the checks: every recipe
as run is told of the mistakes in its rows and of nothing else, and the corrected recipes of nothing graver than a note. The
systems are those of [the five systems](../five-systems.md). [All findings](README.md)

| system and bug | mistake | recipes | code | told as |
|---|---|---|---|---|
"""
_BETWEEN = """
## What no recipe can say

| system and bug | mistake | why there is nothing to find |
|---|---|---|
"""


def page(codes: Mapping[str, Code]) -> str:
    """The page of both tables, Markdown."""
    rows = [
        f"| {row.bugs} | {row.what} | {_recipes(row)} | {', '.join(f'[{code}]({code}.md)' for code in row.codes)} | "
        f"{', '.join(dict.fromkeys(codes[code].level for code in row.codes))} |"
        for row in MISTAKES
        if codes.keys() >= set(row.codes)
    ]
    rest = [f"| {bugs} | {what} | {why} |" for bugs, what, why in IMPOSSIBLE]
    return _HEAD + "\n".join(rows) + "\n" + _BETWEEN + "\n".join(rest) + "\n"


def _recipes(row: Mistake) -> str:
    called = ", ".join(f"`{name}`" for name in row.recipes)
    return f"{called} with `{' '.join(row.overrides)}`" if row.overrides else called
