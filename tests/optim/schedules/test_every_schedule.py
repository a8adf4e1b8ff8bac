"""What holds for each member of SCHEDULES."""

import json
import random

import pytest
from pydantic import TypeAdapter, ValidationError

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.optim import SCHEDULES, ScheduleSettings, curve

CLOCK = Clock(steps_per_epoch=12, total_steps=120)
ADAPTER = TypeAdapter(ScheduleSettings)
EXAMPLES = {
    "constant": {"lr": 0.2, "warmup": "1ep"},
    "linear": {"lr": 0.2, "warmup": "1ep", "warmup_start": 0.1},
    "cosine": {"lr": 0.2, "warmup": "0.1dur", "final_lr": 0.001},
    "one_cycle": {"max_lr": 0.2, "cycle_momentum": True},
    "trapezoid": {"lr": 0.2},
    "step": {"lr": 0.2, "milestones": ["0.5dur", "9ep"]},
    "cosine_restarts": {"lr": 0.2, "warmup": "1ep", "final_lr": 0.001, "period": "1.5ep", "growth": 2},
    "ramp": {"start_lr": 0.01, "lr": 0.2},
    "exponential": {"lr": 0.2, "warmup": "1ep", "gamma": 0.9},
    "polynomial": {"lr": 0.2, "warmup": "1ep", "power": 2, "final_lr": 0.001},
    "inverse_sqrt": {"lr": 0.2, "warmup": "1ep", "timescale": "2ep"},
    "plateau": {"lr": 0.2, "warmup": "1ep", "patience": "2ep"},
    "sequence": {
        "parts": [
            {"schedule": {"name": "ramp", "start_lr": 0.01, "lr": 0.2}, "length": "2ep"},
            {"schedule": {"name": "cosine", "lr": 0.2, "warmup": "0.1dur"}},
        ]
    },
}
WARMED_UP = [name for name in EXAMPLES if name not in ("one_cycle", "ramp", "sequence")]
PEAK_KEYS = {"one_cycle": "max_lr", "sequence": "parts"}


def example(name, **changes):
    return ADAPTER.validate_python({"name": name, **EXAMPLES[name], **changes})


def test_every_schedule_has_an_example_here():
    assert set(EXAMPLES) == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_name_in_a_recipe_gives_the_settings_class_of_the_family(name):
    assert type(example(name)) is SCHEDULES[name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_has_a_positive_rate_up_to_the_peak(name):
    settings = example(name)
    settings.check(CLOCK)
    lrs = [rates.lr for rates in curve(settings, CLOCK)]
    assert len(lrs) == 120
    assert min(lrs) > 0
    assert max(lrs) == pytest.approx(settings.peak, rel=0.01)
    assert max(lrs) <= settings.peak


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_do_not_depend_on_the_order_of_the_calls(name):
    settings = example(name)
    in_order = curve(settings, CLOCK)
    steps = list(range(120)) * 2
    random.Random(0).shuffle(steps)
    assert all(settings.at(step, CLOCK) == in_order[step] for step in steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_without_memory_are_those_of_the_memory_before_the_first_step(name):
    settings = example(name)
    assert [settings.at(step, CLOCK, settings.memory()) for step in range(120)] == curve(settings, CLOCK)


@pytest.mark.parametrize("name", SCHEDULES)
def test_memory_is_that_of_a_stateful_schedule_and_goes_into_a_checkpoint(name):
    settings = example(name)
    memory = settings.memory()
    assert bool(memory) == settings.stateful == bool(settings.metrics_needed) == (name == "plateau")
    seen = settings.observe(memory, dict.fromkeys(settings.metrics_needed, 1.5), 60, CLOCK)
    assert json.loads(json.dumps(seen)) == seen
    assert (seen != memory) == settings.stateful


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("step", [-1, 120, 121])
def test_step_outside_the_run_is_refused(name, step):
    with pytest.raises(ValueError, match=rf"step {step} is outside the run: its steps are 0 to 119"):
        example(name).at(step, CLOCK)


@pytest.mark.parametrize("name", SCHEDULES)
def test_settings_survive_a_round_trip_through_json(name):
    settings = example(name)
    again = ADAPTER.validate_python(json.loads(json.dumps(settings.model_dump(mode="json"))))
    assert again == settings
    assert curve(again, CLOCK) == curve(settings, CLOCK)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_field_has_a_description_and_name_comes_first(name):
    fields = SCHEDULES[name].model_fields
    assert next(iter(fields)) == "name"
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("name", SCHEDULES)
def test_peak_is_required_and_positive(name):
    key = PEAK_KEYS.get(name, "lr")
    with pytest.raises(ValidationError, match=key):
        example(name, **{key: 0})
    with pytest.raises(ValidationError, match=f"{key}\n  Field required"):
        ADAPTER.validate_python({"name": name, **{k: v for k, v in EXAMPLES[name].items() if k != key}})


@pytest.mark.parametrize("name", WARMED_UP)
@pytest.mark.parametrize("warmup", ["10ep", "1dur", "121step"])
def test_warmup_that_fills_the_run_is_refused_by_name(name, warmup):
    with pytest.raises(UsageError, match="allowed: less than the run") as error:
        example(name, warmup=warmup).check(CLOCK)
    assert error.value.message.startswith(f"schedule.warmup={warmup}: ")
    assert "schedule.warmup=0.1dur" in (error.value.hint or "")


@pytest.mark.parametrize("name", WARMED_UP)
def test_warmup_start_without_warmup_is_refused(name):
    with pytest.raises(ValidationError, match="does nothing without a warm-up"):
        example(name, warmup="0step", warmup_start=0.1)


@pytest.mark.parametrize("name", WARMED_UP)
def test_warmup_as_a_bare_number_is_refused_with_its_unit(name):
    with pytest.raises(ValidationError, match="did you mean '5ep'"):
        example(name, warmup=5)


@pytest.mark.parametrize("name", ["linear", "cosine", "trapezoid", "cosine_restarts", "polynomial"])
def test_final_rate_above_the_peak_is_refused(name):
    with pytest.raises(ValidationError, match=r"final_lr=0\.3 is above lr=0\.2"):
        example(name, final_lr=0.3)


def test_unknown_schedule_is_refused_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"'constant'.*'one_cycle'"):
        ADAPTER.validate_python({"name": "cosin", "lr": 0.1})
