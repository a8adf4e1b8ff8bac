"""Whether the run is as sure as it is right, as trained and with a temperature that is fitted on a validation split alone: its
own, or, for a run that was trained on everything, that of a twin (`runs/twins.py`).

An ECE has no interval: beside it stands what calibrated probabilities like these get by chance (`evaluation.chance_ece`)."""

from typing import Any

from groundup.basis.errors import GroundupError
from groundup.basis.evaluation_pictures import reliability_picture
from groundup.basis.seeding import generator
from groundup.evaluation import calibration, calibration_intervals, chance_ece, fit_temperature, with_temperature
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, percent

_MEANS = {"nll": "NLL (nats)", "brier": "Brier score"}
_ERRORS = {"ece_equal_mass": "ECE, equal mass", "ece_equal_width": "ECE, equal width"}
_BY_CHANCE = (
    "by chance: the ECE of a network that is exactly as right as these probabilities say, on as many images (mean, and the range "
    "of 95%); one in this range shows no miscalibration"
)
_TWIN = "a twin run with data.validation=0.1 gives one (--temperature-from)"


def measure(subject: Subject) -> Facts:
    """Calibration before and after, with bootstrap intervals and ECEs by chance; draws the reliability diagram."""
    logits, labels = subject.logits()
    before = calibration(logits, labels)
    found: Facts = {
        "images": len(labels),
        "as_trained": before.to_dict(),
        "intervals": _intervals(logits, labels),
        "by_chance": _by_chance(logits),
        "temperature": None,
    }
    curves = {"as trained": before}
    temperature, why = _temperature(subject)
    if temperature is not None:
        cooled = with_temperature(logits, temperature)
        after = calibration(cooled, labels)
        curves[f"temperature {temperature:.3g}"] = after
        found |= {
            "temperature": temperature,
            "fitted_on": len(subject.twin.labels if subject.twin else subject.part("validation")),
            "temperature_from": subject.twin and subject.twin.name,
            "with_temperature": after.to_dict(),
            "intervals_with_temperature": _intervals(cooled, labels),
            "by_chance_with_temperature": _by_chance(cooled),
        }
    # A picture of its own: what is measured without the twin later leaves the twin's facts, and what they show, as they are.
    picture = subject.picture("reliability", "twin" if subject.twin else "")
    reliability_picture(curves, picture, f"{subject.recipe.name}: {subject.view}")
    return {**found, "no_temperature": why, "pictures": [picture.name]}


def _temperature(subject: Subject) -> tuple[float | None, str]:
    """The temperature, or None and why there is none."""
    if subject.twin is None and subject.splits.validation is None:
        return None, f"no temperature: it is fitted on a validation split, and this run has none; {_TWIN}"
    if subject.split == "validation":
        return None, "no temperature: it is fitted on the validation split, and cannot be judged on it too"
    try:
        twin = subject.twin
        return fit_temperature(*((twin.logits, twin.labels) if twin else subject.logits("validation"))), ""
    except GroundupError as error:
        return None, f"no temperature: {error.message}" + (f"; {error.hint}" if error.hint else "")


def _intervals(logits: Any, labels: Any) -> dict[str, list[float]]:
    if len(labels) < 2:
        return {}
    # The same draws for both: the two columns differ by the temperature alone.
    drawn = calibration_intervals(logits, labels, generator=generator("calibration intervals"))
    finite = {
        name: interval for name, interval in drawn.items() if all(abs(bound) < float("inf") for bound in interval)
    }
    return {name: list(interval) for name, interval in finite.items()}


def _by_chance(logits: Any) -> dict[str, dict[str, float]]:
    # The same draws for both here too.
    drawn = chance_ece(logits, generator=generator("ECE by chance"))
    return {name: {"mean": mean, "low": low, "high": high} for name, (mean, low, high) in drawn.items()}


def show(facts: Facts) -> Shown:
    """As trained beside what the temperature makes of it."""
    # Files of before have no ECEs by chance; the intervals that they have for ECEs were too narrow.
    columns = {"as trained": (facts["as_trained"], facts["intervals"], facts.get("by_chance", {}))}
    lines = [_confidence(facts["as_trained"])]
    if facts["temperature"] is not None:
        name = f"temperature {facts['temperature']:.3g}"
        chance = facts.get("by_chance_with_temperature", {})
        columns[name] = (facts["with_temperature"], facts["intervals_with_temperature"], chance)
        lines.append(f"{name}, {fitted_on(facts)}; the predicted classes stay the same")
    else:
        lines.append(facts["no_temperature"])
    means = [
        [title, *(cell for values, around, _ in columns.values() for cell in _mean(values[key], around.get(key)))]
        for key, title in _MEANS.items()
    ]
    errors = [
        [title, *(cell for values, _, chance in columns.values() for cell in _error(values[key], chance.get(key)))]
        for key, title in _ERRORS.items()
    ]
    tables = [
        Table(["", *(cell for name in columns for cell in (name, "95% interval"))], means),
        Table(["", *(cell for name in columns for cell in (name, "by chance"))], errors),
    ]
    if any(chance for _, _, chance in columns.values()):
        lines.append(_BY_CHANCE)
    return Shown(lines, tables, pictures=facts["pictures"])


def fitted_on(facts: Facts) -> str:
    """In words, which images the temperature was fitted on."""
    images = f"fitted on the {facts['fitted_on']:,} validation images"
    return f"{images} of a twin run, {twin}" if (twin := facts.get("temperature_from")) else images


def _keep_temperature(old: Facts, new: Facts) -> Facts:
    """A twin's temperature stays where the same is measured again without one."""
    return old if new["temperature"] is None and old.get("temperature_from") else new


def _confidence(values: dict[str, Any]) -> str:
    excess = values["confidence"] - values["accuracy"]
    side = "over-confident" if excess > 0 else "under-confident"
    return (
        f"mean confidence {percent(values['confidence'])} at accuracy {percent(values['accuracy'])}: "
        f"{side} by {100 * abs(excess):.2f} points"
    )


def _mean(value: float, interval: list[float] | None) -> list[str]:
    return [f"{value:.4f}", f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""]


def _error(value: float, chance: dict[str, float] | None) -> list[str]:
    return [percent(value), f"{chance['mean']:.2%} ({chance['low']:.2%} to {chance['high']:.2%})" if chance else ""]


SECTION = Section("Calibration", measure, show, join=_keep_temperature)
