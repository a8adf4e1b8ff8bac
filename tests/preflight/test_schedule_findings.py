"""Every code of the schedule: a recipe that has it, what it says, and that the override it proposes mends it."""

import time

import pytest

from groundup.preflight.drawn import Drawn
from groundup.preflight.findings import LEVELS, Finding, Level, overrides_of
from groundup.preflight.schedule import SCHEDULE_CODES, check_schedule
from groundup.preflight.subject import subject_of
from groundup.recipe import library, load_recipe

BASE = "cifar100-resnet18"  # SGD, 200 epochs of 390 steps, a cosine from 0.4 after 2.5% of warm-up
RISE_TO_A_TENTH = "{length: 5ep, schedule: {name: ramp, start_lr: 0.01, lr: 0.1}}"

# code, level, a part of what it says, the overrides that bring it about
CASES: list[tuple[str, Level, str, list[str]]] = [
    (
        "GU101",
        "warning",
        "never above 0.01",
        [
            f"schedule={{name: sequence, parts: [{RISE_TO_A_TENTH}, {{schedule: {{name: cosine, lr: 0.01}}}}]}}",
        ],
    ),
    (
        "GU101",
        "warning",
        "never above 0.02",
        [
            f"schedule={{name: sequence, parts: [{RISE_TO_A_TENTH}, {{schedule: {{name: one_cycle, max_lr: 0.02}}}}]}}",
        ],
    ),
    (
        "GU101",
        "warning",
        "its rate of 0.4 is never reached",
        ["schedule.warmup=20ep", "phases=[{from: 5ep, set: {schedule: {name: linear, lr: 0.1}}}]"],
    ),
    (
        "GU101",
        "warning",
        "its rate of 0.3 is never reached",
        ["schedule={name: one_cycle, max_lr: 0.3}", "phases=[{from: 20ep, set: {schedule: {name: linear, lr: 0.1}}}]"],
    ),
    (
        "GU101",
        "warning",
        "its rate of 0.4 is never reached",
        ["schedule.warmup=0.4dur", "average={name: swa, start: 0.2dur, lr: 0.1}"],
    ),
    (
        "GU102",
        "warning",
        "25 steps, an epoch has 390",
        ["schedule={name: cosine_restarts, lr: 0.1, period: 25step}"],
    ),
    (
        "GU102",
        "warning",
        "100 steps",
        ["schedule={name: cosine_restarts, lr: 0.1, period: 100step}", "train.epochs=10"],
    ),
    (
        "GU102",
        "warning",
        "4 cycles are shorter than an epoch",
        ["schedule={name: cosine_restarts, lr: 0.1, period: 40step, growth: 2}"],
    ),
    (
        "GU102",
        "warning",
        "phases.0.set.schedule.period",
        [
            "phases=[{from: 100ep, set: {schedule: {name: cosine_restarts, lr: 0.1, period: 40step, rebound: true}}}]",
        ],
    ),
    (
        "GU103",
        "warning",
        "from 0.001 to 0.1 in one step",
        [
            "schedule={name: sequence, parts: [{length: 5ep, schedule: {name: constant, lr: 0.001}}, "
            "{schedule: {name: cosine, lr: 0.1}}]}",
        ],
    ),
    (
        "GU103",
        "warning",
        "where schedule.parts.1.schedule takes over",
        [
            f"schedule={{name: sequence, parts: [{RISE_TO_A_TENTH}, {{schedule: {{name: cosine, lr: 0.1, warmup: 5ep}}}}]}}",
        ],
    ),
    ("GU103", "warning", "from 0.004 to 0.4", ["schedule.warmup=1step", "schedule.warmup_start=0.01"]),
    ("GU103", "warning", "from 0.004 to 0.1", ["schedule={name: one_cycle, max_lr: 0.1, rise: 2step}"]),
    (
        "GU103",
        "note",
        "where phases.0.set.schedule takes over",
        ["phases=[{from: 100ep, set: {schedule: {name: linear, lr: 0.02}}}]"],
    ),
    ("GU104", "warning", "60% of the run", ["schedule.warmup=0.6dur"]),
    (
        "GU104",
        "warning",
        "step 1950 (epoch 5) of 2340 steps, 83% of the run",
        ["schedule.warmup=5ep", "train.epochs=6"],
    ),
    ("GU104", "warning", "of the run", ["schedule={name: one_cycle, max_lr: 0.1, rise: 0.9dur}"]),
    (
        "GU104",
        "warning",
        "75% of the run",
        ["phases=[{from: 0.7dur, set: {schedule: {name: cosine, lr: 0.5, warmup: 10ep}}}]"],
    ),
    ("GU104", "warning", "100% of the run", ["schedule={name: ramp, start_lr: 0.01, lr: 0.1}"]),
    ("GU105", "note", "begins with 1e-06", ["schedule={name: one_cycle, max_lr: 0.1265, div_factor: 126500}"]),
    (
        "GU105",
        "note",
        "until step 3900",
        [
            "schedule={name: sequence, parts: [{length: 10ep, schedule: {name: constant, lr: 1.0e-4}}, "
            "{schedule: {name: cosine, lr: 0.1}}]}",
        ],
    ),
    ("GU106", "warning", "100% of the highest", ["schedule={name: constant, lr: 0.1}"]),
    ("GU106", "note", "100% of the highest", ["schedule={name: constant, lr: 0.1}", "data.validation=0.1"]),
    ("GU106", "warning", "of the highest", ["schedule={name: cosine_restarts, lr: 0.1, period: 60ep}"]),
    ("GU106", "note", "50% of the highest", ["schedule.final_lr=0.2"]),
    ("GU106", "note", "of the highest", ["schedule={name: inverse_sqrt, lr: 0.1, warmup: 10ep}"]),
    (
        "GU106",
        "note",
        "50% of the highest",
        ["schedule.final_lr=0.2", "average={name: ema, horizon: 2ep}", "evaluate.weights=model"],
    ),
    (
        "GU107",
        "note",
        "from 0.95 to 0.85 and back; optimizer.momentum=0.9 is not used",
        ["schedule={name: one_cycle, max_lr: 0.1, cycle_momentum: true}"],
    ),
    (
        "GU107",
        "note",
        "the first of optimizer.betas, 0.9, is not used",
        ["schedule={name: one_cycle, max_lr: 0.001, cycle_momentum: true}", "optimizer={name: adamw}"],
    ),
    ("GU108", "warning", "sgd at a rate of up to 4 (schedule); usual are 2 at most", ["schedule.lr=4"]),
    ("GU108", "warning", "adamw at a rate of up to 0.1", ["optimizer={name: adamw}", "schedule.lr=0.1"]),
    ("GU108", "note", "usual are 0.001 and more", ["schedule.lr=0.0003"]),
    (
        "GU109",
        "warning",
        "name=cosine: the rate is 0.4 from step 1950 (epoch 5) to the last",
        ["schedule.final_lr=0.4"],
    ),
    (
        "GU109",
        "warning",
        "name=linear: the rate is 0.1 from the first step",
        ["schedule={name: linear, lr: 0.1, final_lr: 0.1}"],
    ),
    ("GU109", "warning", "name=trapezoid", ["schedule={name: trapezoid, lr: 0.1, warmup: 0step, cooldown: 0step}"]),
    (
        "GU109",
        "warning",
        "name=exponential",
        ["schedule={name: exponential, lr: 0.1, gamma: 0.5, per: 1dur, stepwise: true}"],
    ),
    (
        "GU109",
        "warning",
        "cosine_restarts",
        ["schedule={name: cosine_restarts, lr: 0.1, period: 999ep}", "train.epochs=9"],
    ),
    (
        "GU110",
        "warning",
        "schedule.parts.1.schedule (name=cosine): a phase is in force from step 3900 (epoch 10) on",
        [
            "schedule={name: sequence, parts: [{length: 10ep, schedule: {name: constant, lr: 0.1}}, "
            "{schedule: {name: cosine, lr: 0.1}}]}",
            "phases=[{from: 10ep, set: {schedule: {name: linear, lr: 0.1}}}]",
        ],
    ),
    ("GU110", "warning", "average.lr is in force from step 0", ["average={name: swa, start: 0dur, lr: 0.1}"]),
]

# Codes that such a recipe must not have: the neighbours of the cases, all of them in order.
SOUND = [
    ("a warm-up that leads to the rate of what follows", {"GU101", "GU103", "GU106"}, [
        f"schedule={{name: sequence, parts: [{RISE_TO_A_TENTH}, {{schedule: {{name: cosine, lr: 0.1}}}}]}}"]),
    ("a phase after the warm-up", {"GU101"}, [
        "schedule.warmup=4ep", "phases=[{from: 5ep, set: {schedule: {name: linear, lr: 0.4}}}]"]),
    ("restarts of some epochs", {"GU102", "GU103", "GU106"}, ["schedule={name: cosine_restarts, lr: 0.1, period: 50ep}"]),
    ("restarts whose cycles soon are long", {"GU102"}, [
        "schedule={name: cosine_restarts, lr: 0.1, period: 100step, growth: 4}"]),
    ("a restart between two parts", {"GU101", "GU103", "GU106"}, [
        "schedule={name: sequence, parts: [{length: 100ep, schedule: {name: cosine, lr: 0.1}}, "
        "{schedule: {name: cosine, lr: 0.1}}]}"]),
    ("a step down between two constant rates", {"GU101", "GU103"}, [
        "schedule={name: sequence, parts: [{length: 100ep, schedule: {name: constant, lr: 0.1}}, "
        "{schedule: {name: linear, lr: 0.01}}]}"]),
    ("steps down", {"GU103", "GU106", "GU109"}, ["schedule={name: step, lr: 0.1, milestones: [0.5dur, 0.75dur], gamma: 0.1}"]),
    ("a warm-up of a tenth", {"GU103", "GU104", "GU105"}, ["schedule.warmup=0.1dur"]),
    ("a warm-up from next to nothing", {"GU103", "GU105"}, ["schedule.warmup=2ep", "schedule.warmup_start=1e-4"]),
    ("one cycle", {"GU103", "GU104", "GU105", "GU106", "GU107"}, ["schedule={name: one_cycle, max_lr: 0.1}"]),
    ("a cosine of three steps", {"GU106"}, ["schedule={name: cosine, lr: 0.1, warmup: 0step}", "train.epochs=0.008"]),
    ("a constant rate that is averaged", {"GU106"}, [
        "schedule={name: constant, lr: 0.1}", "average={name: ema, horizon: 0.05dur}"]),
    ("a cosine to a hundredth", {"GU106"}, ["schedule.final_lr=0.004"]),
    ("a plateau", {"GU106", "GU109"}, ["schedule={name: plateau, lr: 0.1, metric: train_loss}"]),
    ("a rate for a large batch", {"GU108"}, ["train.batch_size=16384", "schedule.lr=6"]),
    ("AdamW at its own rate", {"GU108"}, ["optimizer={name: adamw}", "schedule.lr=0.002"]),
    ("SAM, which says more than SGD", {"GU108"}, ["optimizer.sam={rho: 0.05}", "schedule.lr=4"]),
    ("a constant rate that is called one", {"GU109"}, ["schedule={name: constant, lr: 0.1}"]),
    ("a warm-up before a constant rate", {"GU109"}, ["schedule={name: constant, lr: 0.1, warmup: 5ep}"]),
    ("a part before a phase", {"GU110"}, ["phases=[{from: 1step, set: {schedule: {name: linear, lr: 0.1}}}]"]),
    ("an average with a rate of its own, late", {"GU101", "GU110"}, ["average={name: swa, start: 160ep, lr: 0.05}"]),
]  # fmt: skip


def found(*overrides: str) -> list[Finding]:
    return check_schedule(subject_of(load_recipe(BASE, overrides)))


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def of_code(findings: list[Finding], code: str, said: str) -> list[Finding]:
    return [finding for finding in findings if finding.code == code and said in finding.saw]


@pytest.mark.parametrize(("code", "level", "said", "overrides"), CASES)
def test_a_recipe_that_has_it_is_told_so(code: str, level: str, said: str, overrides: list[str]) -> None:
    findings = found(*overrides)
    (finding,) = of_code(findings, code, said) or pytest.fail(f"{findings}")
    assert finding.level == level
    assert finding.mend


@pytest.mark.parametrize(("code", "level", "said", "overrides"), CASES)
def test_what_is_proposed_mends_it(code: str, level: str, said: str, overrides: list[str]) -> None:
    (finding,) = of_code(found(*overrides), code, said)
    mend = overrides_of(finding.mend)
    if not mend:
        assert "=" not in finding.mend, "an override that is not recognised as one"
        return
    assert code not in codes(found(*overrides, *mend)), finding.mend


@pytest.mark.parametrize(("what", "absent", "overrides"), SOUND)
def test_a_sound_recipe_is_left_in_peace(what: str, absent: set[str], overrides: list[str]) -> None:
    findings = found(*overrides)
    assert not codes(findings) & absent, findings


def test_every_code_has_a_case_and_a_neighbour_without_it() -> None:
    assert {case[0] for case in CASES} == set(SCHEDULE_CODES)
    assert {code for _, absent, _ in SOUND for code in absent} == set(SCHEDULE_CODES)


def test_a_level_is_never_above_that_of_its_code() -> None:
    assert all(LEVELS.index(level) >= LEVELS.index(SCHEDULE_CODES[code].level) for code, level, _, _ in CASES)


def test_a_schedule_that_changes_nothing_is_not_also_told_to_end_high() -> None:
    assert codes(found("schedule.final_lr=0.4")) == {"GU109"}


def test_a_lost_rise_is_told_once() -> None:
    parts = f"schedule={{name: sequence, parts: [{RISE_TO_A_TENTH}, {{schedule: {{name: cosine, lr: 0.01}}}}]}}"
    assert [finding.code for finding in found(parts)] == ["GU101"]


@pytest.mark.parametrize("name", ["000-session-04-as-run", "004-swa-as-run", "cifar100-resnet50", "001", "002-plateau"])
def test_the_drawn_rates_are_those_of_the_run(name: str) -> None:
    subject = subject_of(load_recipe(name, []))
    curve = Drawn.of(subject).curve
    steps = [step for step, _ in curve]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, subject.clock.total_steps - 1)
    assert all(lr == subject.rates.at(step).lr for step, lr in curve[::7])


def test_the_drawn_rates_end_where_a_phase_or_an_average_takes_over() -> None:
    phases = "phases=[{from: 50ep, set: {schedule: {name: linear, lr: 0.1}}}]"
    subject = subject_of(load_recipe(BASE, [phases, "average={name: swa, start: 160ep, lr: 0.05}"]))
    first, second = Drawn.of(subject).pieces
    assert (first.key, first.first, first.until) == ("schedule", 0, 50 * 390)
    assert (second.key, second.first, second.until) == ("phases.0.set.schedule", 50 * 390, 160 * 390)
    for piece in (first, second):
        assert all(lr == subject.rates.at(step).lr for step, lr in piece.curve)


def test_parts_inside_parts_are_found_with_their_keys() -> None:
    inner = "{name: sequence, parts: [{length: 0.5dur, schedule: {name: linear, lr: 0.1}}, {schedule: {name: cosine, lr: 0.1}}]}"
    outer = f"schedule={{name: sequence, parts: [{{length: 20ep, schedule: {inner}}}, {{schedule: {{name: linear, lr: 0.1}}}}]}}"
    subject = subject_of(load_recipe(BASE, [outer]))
    pieces = Drawn.of(subject).pieces
    assert [piece.key for piece in pieces] == [
        "schedule.parts.0.schedule.parts.0.schedule",
        "schedule.parts.0.schedule.parts.1.schedule",
        "schedule.parts.1.schedule",
    ]
    assert [piece.first for piece in pieces] == [0, 3900, 7800]


def test_the_longest_runs_of_the_library_are_checked_in_a_moment() -> None:
    longest = max(
        (load_recipe(name, []) for name in library()), key=lambda recipe: recipe.train.epochs / recipe.train.batch_size
    )
    subject = subject_of(longest, train_images=1_281_167)
    assert subject.clock.total_steps > 1_000_000
    begun = time.process_time()
    check_schedule(subject)
    assert time.process_time() - begun < 0.3
