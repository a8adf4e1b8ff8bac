"""The result of a finished run: the test split is read here, once, and summary.json says what it was chosen and reported on."""

from typing import Any

from groundup.basis.interruption import StopRequest
from groundup.evaluation import headline
from groundup.models import count_parameters, forward_flops
from groundup.runs.folder import RunFolder
from groundup.runs.prepare import Plan, SharedSplit
from groundup.runs.reported import chosen_checkpoint
from groundup.training import AVERAGE, MODEL, Job, TrainingState, load_weights
from groundup.version import __version__

FORMAT_VERSION = 1
_FALLEN_BACK = "before its average had a sample: the trained weights are reported"


def summarize(
    folder: RunFolder, plan: Plan, job: Job, state: TrainingState, stop: StopRequest, own: dict[str, str]
) -> dict[str, Any]:
    """Evaluate the reported weights on the test split. `Interrupted` leaves the run resumable: only this is still to do.

    Each process evaluates its share; process 0 gets the summary, the others {}.
    """
    recipe, splits, world = plan.recipe, plan.splits, job.world
    assert splits.test is not None
    weights = AVERAGE if state.reports_average and state.averaged else MODEL
    if world.is_main:
        load_weights(chosen_checkpoint(folder, recipe, weights), state.model, weights)
    world.share_state(state)
    shared = SharedSplit.of(splits.test, plan, job.engine, world)
    logits, labels = map(world.gather, shared.logits(state.model, recipe, job.engine, stop.check))
    if not world.is_main:
        return {}
    result = headline(logits, labels)
    optimistic = recipe.evaluate.optimistic
    return {
        "format": FORMAT_VERSION,
        "groundup": __version__,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "steps": state.step,
        "epochs": recipe.train.epochs if state.ended is None else round(plan.clock.epoch(state.step), 4),
        "ended": state.ended,
        "top1": result["top1"],
        "top1_interval": list(result["top1_interval"]),
        "top5": result["top5"],
        "top5_interval": list(result["top5_interval"]),
        "nll": result["nll"],
        "images": result["images"],
        "selected_on": selected_on(plan, state),
        "reported_on": "test",
        "optimistic": optimistic and uses_selection(plan),
        "weights": "average" if weights == AVERAGE else "model",
        "validation_top1": (state.best or {}).get("validation_top1") if recipe.evaluate.model == "best" else None,
        "pflop": state.flops / 1e15,
        "evaluation_pflop": _flops(job, state, splits.image_size) * result["images"] / 1e15,
        "seconds": round(state.seconds, 3),
        "images_per_second": round(state.images / state.seconds, 2) if state.seconds else None,
        "device": job.engine.device,
        "hardware": ", then ".join(folder.machines()),
        "threads": job.engine.threads,
        "processes": world.size,
        "precision": job.engine.precision,
        "compiled": job.engine.compiled,
        "parameters": count_parameters(state.model),
        "classes": len(splits.classes),
        "train_images": len(splits.train),
        "validation_images": 0 if splits.validation is None else len(splits.validation),
        "skipped_updates": state.skipped_updates,
        "bad_images": len(splits.skipped),
        "own": own,
        "notes": [*splits.notes, *_without_average(state)],
    }


def _flops(job: Job, state: TrainingState, side: int) -> int:
    """Of the forward pass of one image of `side` px; training may have seen that size."""
    return job.flops[side] if side in job.flops else forward_flops(state.model, side)


def _without_average(state: TrainingState) -> list[str]:
    if not state.reports_average or state.averaged:
        return []
    return [f"the run ended at step {state.step}, {_FALLEN_BACK}"]


def uses_selection(plan: Plan) -> bool:
    """Whether anything in the run was chosen by what was measured on the split that selects."""
    recipe = plan.recipe
    watched = [*recipe.stop.metrics.values(), *plan.rates.metrics_needed]
    return recipe.evaluate.model == "best" or any("validation" in metric for metric in watched)


def selected_on(plan: Plan, state: TrainingState) -> str:
    """What the reported weights were chosen on, in words."""
    recipe = plan.recipe
    split = "test (optimistic)" if recipe.evaluate.optimistic else "validation"
    chosen = (
        f"{split}: step {int((state.best or {})['step'])}"
        if recipe.evaluate.model == "best"
        else "nothing: the last step"
    )
    watched = [("the schedule", plan.rates.metrics_needed), ("the end", tuple(recipe.stop.metrics.values()))]
    followed = [what for what, metrics in watched if any("validation" in metric for metric in metrics)]
    return f"{chosen}; {' and '.join(followed)} followed {split}" if followed else chosen


def result_record(summary: dict[str, Any]) -> dict[str, Any]:
    """The result as trackers are told it."""
    return {
        "step": summary["steps"],
        "test_loss": summary["nll"],
        "test_top1": summary["top1"],
        "test_top5": summary["top5"],
    }


def result_line(summary: dict[str, Any]) -> str:
    """The result in one line, with its interval, what it was reported on, how the run ended before its length, if it did, and what
    it cost."""
    low, high = summary["top1_interval"]
    ended = f"ended at step {summary['steps']} ({summary['ended']}); " if summary["ended"] else ""
    fallen_back = next((f"{note}; " for note in summary["notes"] if note.endswith(_FALLEN_BACK)), "")
    return (
        f"{summary['reported_on']} top-1 {summary['top1']:.2%} "
        f"(95% interval {low:.2%} to {high:.2%}, {summary['images']:,} images), "
        f"top-5 {summary['top5']:.2%}; selected on {summary['selected_on']}; {ended}{fallen_back}"
        f"{'OPTIMISTIC: the test split was used to choose; ' if summary['optimistic'] else ''}"
        f"{summary['pflop']:.3g} PFLOP, {summary['seconds']:.0f} s, {summary['images_per_second'] or 0:,.0f} images/s"
    )
