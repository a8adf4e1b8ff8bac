"""Hand-made runs as a diary: in the order in which they began, what was changed against the run before, the result, the verdict.

Result   the accuracy on test with its interval over test images, as the run's summary has it.
Verdict  the difference to the finished run before: on validation if both have the same validation images, so that whoever goes on
         from the better run has not chosen on test; else on test, if both were tested on the same images. With the interval of
         R. G. Newcombe for shares that were counted apart (`evaluation.intervals.newcombe`). The run folders do not hold who was
         right on which image; the paired interval of `groundup evaluate A B` is as a rule narrower, because networks agree on most
         images.
Hurts    one seed each: the verdict is on these two trained networks. Another seed may turn it round; a table of groups of seeds
         says what a change of the recipe does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from groundup.compare.report.collect import Run
from groundup.compare.report.effects import as_text
from groundup.evaluation import newcombe

_ABSENT = "(absent)"


def history(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run, in time order: {run, began, changes, top1, interval, split, verdict, judged_on, difference ...}."""
    rows = []
    before: Run | None = None
    finished: Run | None = None
    for run in runs:
        facts = verdict(run, finished)
        summary = run.summary or {}
        rows.append(
            {
                "run": run.name,
                "folder": str(run.folder),
                "began": run.began,
                "seed": run.seed,
                "changes": changes(before, run) if before else None,
                "top1": summary.get("top1"),
                "interval": summary.get("top1_interval"),
                "images": summary.get("images"),
                "split": summary.get("reported_on"),
                "optimistic": run.optimistic,
                "state": run.state,
                "against": finished.name if finished and run.finished else None,
                **facts,
            }
        )
        before = run
        finished = run if run.finished else finished
    return rows


def changes(before: Run, run: Run) -> list[dict[str, Any]]:
    """The keys of the recipe that differ: {key, before, now}, as text."""
    old, new = ({**other.settings, "seed": other.seed, **_own(other)} for other in (before, run))
    keys = [key for key in {**old, **new} if _shown(old, key) != _shown(new, key)]
    if any(key.startswith("data.") for key in keys):
        # Measured on the training images: they follow from the data.
        keys = [key for key in keys if not key.startswith("augment.normalize.")]
    return [{"key": key, "before": _shown(old, key), "now": _shown(new, key)} for key in keys]


def _own(run: Run) -> dict[str, Any]:
    """What was handed in from Python in place of the recipe's."""
    return {f"own {what}": value for what, value in ((run.summary or {}).get("own") or {}).items()}


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return as_text(settings[key]) if key in settings else _ABSENT


def verdict(run: Run, before: Run | None) -> dict[str, Any]:
    """{verdict, judged_on, difference, difference_interval, shown} of a run against the finished one before it."""
    none = {"judged_on": None, "difference": None, "difference_interval": None, "shown": None}
    if not run.finished:
        return {"verdict": f"no result: {run.state}" + (f", {run.reason}" if run.reason else ""), **none}
    if before is None:
        return {"verdict": "the first result", **none}
    if run.test_images != before.test_images:
        return {"verdict": f"not compared with {before.name}: other test data", **none}
    counts = _on_validation(run), _on_validation(before)
    split = "validation" if all(counts) and run.validation_images == before.validation_images else "test"
    now, then = counts if split == "validation" else (_on_test(run), _on_test(before))
    assert now is not None
    assert then is not None
    low, high = newcombe(now, then)
    difference = now[0] / now[1] - then[0] / then[1]
    shown = not low <= 0 <= high
    optimistic = run.optimistic or before.optimistic
    return {
        "verdict": _in_words(difference, (low, high), shown, f"{before.name} on {split}", optimistic),
        "judged_on": split,
        "difference": difference,
        "difference_interval": [low, high],
        "shown": shown,
    }


def _on_test(run: Run) -> tuple[int, int]:
    """(images that it has right, images)."""
    summary = run.summary or {}
    return round(summary["top1"] * summary["images"]), summary["images"]


def _on_validation(run: Run) -> tuple[int, int] | None:
    """The same; None where the run has no result on validation, or does not say on how many images."""
    images = (run.summary or {}).get("validation_images")
    return (round(run.validation_top1 * images), images) if images and run.validation_top1 is not None else None


def _in_words(difference: float, interval: tuple[float, float], shown: bool, before: str, optimistic: bool) -> str:
    points = f"{100 * difference:+.1f} points (95% interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})"
    said = f"no difference to {before} shown: {points}"
    if shown:
        said = f"{'better' if difference > 0 else 'worse'} than {before}: {points}"
    return f"{said}; optimistic, so this is no fair comparison" if optimistic else said
