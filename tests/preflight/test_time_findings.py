"""Every code of intervals, patience and phases: a recipe that has it, what it says, that it is so, and that the mend helps."""

import pytest

from groundup.preflight.findings import Finding, overrides_of
from groundup.preflight.static import static_findings
from groundup.preflight.subject import subject_of
from groundup.preflight.times import TIME_CODES, check_times
from groundup.recipe import load_recipe

BASE = "cifar100-resnet18"
SHORT = ["data.validation=0.1", "train.epochs=20"]  # 20 epochs of 351 steps
PLATEAU = "schedule={name: plateau, lr: 0.1, patience: %s}"
LATE = "phases=[{from: 10ep, set: {schedule: {name: plateau, lr: 0.1, patience: %s}}}]"

CASES: list[tuple[str, str, list[str]]] = [
    ("GU507", "evaluate.every=50ep: 17550 steps, the run has 7020", ["evaluate.every=50ep"]),
    ("GU507", "checkpoint.keep_every=50ep: 17550 steps, the run has 7020", ["checkpoint.keep_every=50ep"]),
    (
        "GU508",
        "schedule.patience=18ep: 6318 steps; evaluate.every=5ep leaves 3510",
        [PLATEAU % "18ep", "evaluate.every=5ep"],
    ),
    (
        "GU508",
        "schedule.patience=2ep: 702 steps; evaluate.every=20ep leaves 0",
        [PLATEAU % "2ep", "evaluate.every=20ep"],
    ),
    (
        "GU508",
        "schedule.patience=10ep: 3510 steps; evaluate.every=5ep leaves 3510",
        [PLATEAU % "10ep", "evaluate.every=5ep"],
    ),
    ("GU508", "phases.0.set.schedule.patience=8ep", [LATE % "8ep", "evaluate.every=4ep"]),
    (
        "GU508",
        "leaves 1755 steps",
        ["schedule={name: plateau, lr: 0.1, patience: 6ep, warmup: 10ep}", "evaluate.every=5ep"],
    ),
    (
        "GU509",
        "phases.0, from 5ep: loss.label_smoothing set to",
        ["phases=[{from: 5ep, set: {loss.label_smoothing: 0}}]"],
    ),
    (
        "GU509",
        "phases.1, from 10ep: train.resolution set to",
        ["phases=[{from: 5ep, set: {train.resolution: 24}}, {from: 10ep, set: {train.resolution: 24}}]"],
    ),
    (
        "GU509",
        "phases.1, from 0.50001dur: mix set to",
        [
            "phases=[{from: 0.50002dur, set: {mix: {methods: [{name: mixup, alpha: 0.2}]}}}, "
            "{from: 0.50001dur, set: {mix: {methods: [{name: cutmix, alpha: 1}]}}}]"
        ],
    ),
]
SOUND: list[tuple[str, str, list[str]]] = [
    ("once, at the end, and asked for in so many words", "GU507", ["evaluate.every=1dur", "checkpoint.keep_every=20ep"]),
    ("a checkpoint at the end is always there", "GU507", ["checkpoint.every=50ep"]),
    ("a plateau that can act at the last evaluation but one", "GU508", [PLATEAU % "9.9ep", "evaluate.every=5ep"]),
    ("one in a phase that is long enough", "GU508", [LATE % "5ep", "evaluate.every=2ep"]),
    ("a phase that repeats a value and sets another", "GU509", [
        "phases=[{from: 5ep, set: {loss.label_smoothing: 0, train.resolution: 24}}]"]),
    ("back to the first value", "GU509", [
        "phases=[{from: 5ep, set: {train.resolution: 24}}, {from: 10ep, set: {train.resolution: 32}}]"]),
    ("a schedule", "GU509", ["phases=[{from: 5ep, set: {schedule: {name: constant, lr: 0.1}}}]"]),
]  # fmt: skip


def found(*overrides: str) -> list[Finding]:
    return check_times(subject_of(load_recipe(BASE, [*SHORT, *overrides])))


@pytest.mark.parametrize(("code", "said", "overrides"), CASES)
def test_a_recipe_that_has_it_is_told_so_and_the_mend_helps(code: str, said: str, overrides: list[str]) -> None:
    findings = found(*overrides)
    (finding,) = [each for each in findings if each.code == code and said in each.saw] or pytest.fail(f"{findings}")
    assert finding.level == TIME_CODES[code].level == "warning"
    if mends := overrides_of(finding.mend):
        assert [each.saw for each in found(*overrides, *mends)] == []


@pytest.mark.parametrize(("what", "absent", "overrides"), SOUND)
def test_a_sound_recipe_is_left_in_peace(what: str, absent: str, overrides: list[str]) -> None:
    assert [finding for finding in found(*overrides) if finding.code == absent] == []


def test_every_code_has_a_case_and_a_neighbour_without_it() -> None:
    assert {case[0] for case in CASES} == {case[1] for case in SOUND} == set(TIME_CODES)


def test_they_are_part_of_what_opens_every_run() -> None:
    subject = subject_of(load_recipe(BASE, [*SHORT, PLATEAU % "2ep", "evaluate.every=20ep"]))
    codes = [finding.code for finding in static_findings(subject)]
    assert "GU508" in codes
    assert "GU504" not in codes, "nothing is acted upon"


@pytest.mark.parametrize("every", [1, 3, 7, 10, 30])
@pytest.mark.parametrize("patience", [0, 3, 6, 9])
def test_what_is_said_to_never_act_never_does_and_the_rest_can(every: int, patience: int) -> None:
    """Against the schedule itself, with a metric that gets worse from one evaluation to the next, in a run of 20 steps."""
    for warmup, first in ((0, 0), (7, 0), (0, 5), (4, 5)):
        settings = f"{{name: plateau, lr: 0.1, patience: {patience}step, warmup: {warmup}step}}"
        recipe = load_recipe(
            "digits",
            [
                "data={limit: 100, validation: 0.1}",
                "train={epochs: 20, batch_size: 50}",
                f"evaluate.every={every}step",
                "schedule={name: constant, lr: 0.1}",
                f"phases=[{{from: {first}step, set: {{schedule: {settings}}}}}]",
            ],
        )
        subject = subject_of(recipe, train_images=100, classes=10, image_size=8)
        assert subject.clock.total_steps == 20
        memory, lowest = subject.rates.memory(), 0.1
        for step in range(1, 20):
            if step % every == 0:
                memory = subject.rates.observe(memory, {"validation_loss": float(step)}, step)
            if step >= first + warmup:
                lowest = min(lowest, subject.rates.at(step, memory).lr)
        idle = "GU508" in [finding.code for finding in check_times(subject)]
        assert idle == (lowest == 0.1), (warmup, first)
