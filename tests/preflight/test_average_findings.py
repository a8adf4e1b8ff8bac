"""Every code of averages, stopping and selection: a recipe that has it, what it says, and that the proposed override mends it."""

import math

import numpy as np
import pytest

from groundup.basis.duration import Clock, Duration
from groundup.preflight.averages import AVERAGE_CODES, check_averages, shares_at_the_end
from groundup.preflight.findings import LEVELS, Finding, Level, overrides_of
from groundup.preflight.subject import subject_of
from groundup.recipe import load_recipe
from groundup.training import EMASettings

BASE = "cifar100-resnet18"  # 200 epochs of 390 steps (351 with a tenth held back), a cosine from 0.4 to 0
HELD_BACK = "data.validation=0.1"
RESTARTS = "schedule={name: cosine_restarts, lr: 0.1, period: 20ep}"

# code, level, a part of what it says, the overrides that bring it about
CASES: list[tuple[str, Level, str, list[str]]] = [
    ("GU501", "error", "evaluate.model=best", ["evaluate={optimistic: true, model: best}"]),
    (
        "GU501",
        "error",
        "stop.early.metric=validation_loss, stop.target.metric=validation_top1",
        [
            "evaluate.optimistic=true",
            "stop={early: {metric: validation_loss, patience: 20ep}, target: {value: 0.8}}",
        ],
    ),
    (
        "GU501",
        "error",
        "stop.target.metric=average_validation_top1",
        [
            "evaluate.optimistic=true",
            "average={name: ema, horizon: 2ep}",
            "stop={target: {metric: average_validation_top1, value: 0.8}}",
        ],
    ),
    (
        "GU501",
        "error",
        "schedule.metric=validation_loss",
        ["evaluate.optimistic=true", "schedule={name: plateau, lr: 0.1}"],
    ),
    ("GU502", "note", "nothing in the recipe chooses on it", ["evaluate.optimistic=true"]),
    (
        "GU503",
        "warning",
        "stop.early.patience=200ep: 70200 steps; the run has 70200",
        [HELD_BACK, "stop={early: {patience: 200ep}}"],
    ),
    (
        "GU503",
        "warning",
        "evaluate.every=50ep leaves 35100 between the first evaluation and the last",
        [HELD_BACK, "stop={early: {patience: 120ep}}", "evaluate.every=50ep"],
    ),
    ("GU503", "warning", "leaves 0 between", [HELD_BACK, "stop={early: {patience: 2ep}}", "evaluate.every=200ep"]),
    (
        "GU504",
        "warning",
        "stop.early.patience=100step: 100 steps; an evaluation comes every 351",
        [HELD_BACK, "stop={early: {patience: 100step}}"],
    ),
    ("GU504", "warning", "evaluate.every=5ep", [HELD_BACK, "stop={early: {patience: 5ep}}", "evaluate.every=5ep"]),
    (
        "GU504",
        "warning",
        "schedule.patience=3ep: 1053 steps",
        [HELD_BACK, "schedule={name: plateau, lr: 0.1, patience: 3ep}", "evaluate.every=5ep"],
    ),
    (
        "GU505",
        "warning",
        "takes 7020 steps from one restart to the next",
        [HELD_BACK, RESTARTS, "stop={early: {patience: 15ep}}"],
    ),
    (
        "GU505",
        "warning",
        "takes 28080 steps",
        [HELD_BACK, RESTARTS, "schedule.growth=2", "train.epochs=300", "stop={early: {patience: 40ep}}"],
    ),
    ("GU506", "note", "2 evaluations", [HELD_BACK, "evaluate={model: best, every: 0.5dur}"]),
    (
        "GU511",
        "warning",
        "of the average is from the first half of the run",
        ["average={name: ema, horizon: 0.5dur, warmup: false}"],
    ),
    (
        "GU511",
        "warning",
        "1950; at the end 61% of the average is from the first half of the run, 36.8% from its first sample",
        ["average={name: ema, horizon: 1dur, warmup: false}", "train.epochs=5"],
    ),
    ("GU512", "note", "worth 2.2 samples", ["average={name: ema, horizon: 1step}"]),
    ("GU512", "note", "sampled every 390", ["average={name: ema, horizon: 1ep, every: 1ep}"]),
    ("GU513", "warning", "and less; the peak is 0.4", ["average={name: swa, start: 0.95dur}"]),
    ("GU513", "warning", "step 75660 (epoch 194)", ["average={name: ema, horizon: 1ep, start: 0.97dur}"]),
    (
        "GU513",
        "warning",
        "at a rate of 0.0001 and less",
        ["schedule={name: step, lr: 0.1, milestones: [0.5dur], gamma: 0.001}", "average={name: swa, start: 0.6dur}"],
    ),
    (
        "GU514",
        "warning",
        "has come down to 0.0103 there; samples are taken at up to 0.05",
        ["average={name: swa, start: 0.9dur, lr: 0.05}"],
    ),
    (
        "GU514",
        "warning",
        "has come down to 0.001",
        [
            "schedule={name: sequence, parts: [{length: 180ep, schedule: {name: cosine, lr: 0.1, final_lr: 0.001}}, "
            "{schedule: {name: ramp, start_lr: 0.001, lr: 0.01}}]}",
            "average={name: swa, start: 180ep}",
        ],
    ),
    (
        "GU515",
        "note",
        "average.lr=0.001 is in force from step 62400 (epoch 160) on, where schedule has come to 0.04",
        ["average={name: swa, start: 160ep, lr: 0.001}"],
    ),
]

SOUND = [
    ("choosing on validation", {"GU501", "GU502"}, [HELD_BACK, "evaluate.model=best", "stop={target: {value: 0.8}}"]),
    ("watching the training loss", {"GU501"}, [
        "evaluate.optimistic=true", "schedule={name: plateau, lr: 0.1, metric: train_loss}"]),
    ("early stopping that can act", {"GU503", "GU504", "GU505"}, [HELD_BACK, "stop={early: {patience: 20ep}}"]),
    ("early stopping that is just in time", {"GU503"}, [
        HELD_BACK, "stop={early: {patience: 100ep}}", "evaluate.every=50ep"]),
    ("what can never act acts upon nothing", {"GU504"}, [
        HELD_BACK, "stop={early: {patience: 2ep}}", "schedule={name: plateau, lr: 0.1, patience: 2ep}", "evaluate.every=200ep"]),
    ("a patience of some evaluations", {"GU504"}, [HELD_BACK, "stop={early: {patience: 10ep}}", "evaluate.every=2ep"]),
    ("a plateau that allows one bad evaluation", {"GU504"}, [HELD_BACK, "schedule={name: plateau, lr: 0.1, patience: 1ep}"]),
    ("a patience longer than a cycle", {"GU505"}, [HELD_BACK, RESTARTS, "stop={early: {patience: 25ep}}"]),
    ("a ripple, which has a code of its own", {"GU505"}, [
        HELD_BACK, "schedule={name: cosine_restarts, lr: 0.1, period: 25step}", "stop={early: {patience: 15ep}}"]),
    ("one cycle and no restart", {"GU505"}, [
        HELD_BACK, "schedule={name: cosine_restarts, lr: 0.1, period: 200ep}", "stop={early: {patience: 15ep}}"]),
    ("the best of many", {"GU506"}, [HELD_BACK, "evaluate.model=best"]),
    ("the last of few", {"GU506"}, ["evaluate.every=1dur"]),
    ("an average of two epochs", {"GU511", "GU512", "GU513", "GU514", "GU515"}, ["average={name: ema, horizon: 2ep}"]),
    ("a long horizon with a warm-up of the decay", {"GU511"}, ["average={name: ema, horizon: 0.5dur}"]),
    ("a long memory of the second half", {"GU511"}, ["average={name: ema, horizon: 0.3dur, start: 0.5dur, warmup: false}"]),
    ("an average from the middle on", {"GU513"}, ["average={name: swa, start: 0.7dur}"]),
    ("a constant rate that moves the weights", {"GU513", "GU514", "GU515"}, [
        "average={name: swa, start: 160ep, anneal: 5ep, lr: 0.05}"]),
    ("samples at the ends of cycles", {"GU514"}, [RESTARTS, "average={name: swa, start: 100ep, every: 20ep}"]),
]  # fmt: skip


def found(*overrides: str) -> list[Finding]:
    return check_averages(subject_of(load_recipe(BASE, overrides)))


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def of_code(findings: list[Finding], code: str, said: str) -> list[Finding]:
    return [finding for finding in findings if finding.code == code and said in finding.saw]


@pytest.mark.parametrize(("code", "level", "said", "overrides"), CASES)
def test_a_recipe_that_has_it_is_told_so(code: str, level: Level, said: str, overrides: list[str]) -> None:
    findings = found(*overrides)
    (finding,) = of_code(findings, code, said) or pytest.fail(f"{findings}")
    assert finding.level == level == AVERAGE_CODES[code].level
    assert finding.mend


@pytest.mark.parametrize(("code", "level", "said", "overrides"), CASES)
def test_what_is_proposed_mends_it(code: str, level: Level, said: str, overrides: list[str]) -> None:
    (finding,) = of_code(found(*overrides), code, said)
    mended = found(*overrides, *overrides_of(finding.mend))
    assert code not in codes(mended), finding.mend
    assert min((LEVELS.index(left.level) for left in mended), default=9) > 0, "the mend brings about an error"


@pytest.mark.parametrize(("what", "absent", "overrides"), SOUND)
def test_a_sound_recipe_is_left_in_peace(what: str, absent: set[str], overrides: list[str]) -> None:
    findings = found(*overrides)
    assert not codes(findings) & absent, findings


def test_every_code_has_a_case_and_a_neighbour_without_it() -> None:
    assert {case[0] for case in CASES} == set(AVERAGE_CODES)
    assert {code for _, absent, _ in SOUND for code in absent} == set(AVERAGE_CODES)


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize(("start", "every"), [("0step", "1step"), ("0step", "3step"), ("20step", "4step")])
def test_the_shares_are_those_of_the_average_itself(warmup: bool, start: str, every: str) -> None:
    ema = EMASettings(
        horizon=Duration(30, "step"), warmup=warmup, start=Duration.parse(start), every=Duration.parse(every)
    )
    clock = Clock(10, 100)
    first, between = ema.first_sample(clock), clock.steps(ema.every)
    taken = [s for s in range(1, 101) if s >= first and (s - first) % between == 0]
    expected = np.zeros(len(taken))
    for number in range(len(taken)):
        share = ema.share(number, clock) if number else 1.0
        expected *= 1 - share
        expected[number] = share
    updates, shares = shares_at_the_end(ema, clock)
    assert updates.tolist() == taken
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert math.isclose(shares.sum(), 1)
