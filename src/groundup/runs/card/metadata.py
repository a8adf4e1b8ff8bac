"""The head of a model card: metadata in the form of the Hugging Face Hub, `model-index` included.

Values are fractions in [0, 1], except the NLL (nats). The licence of weights is their owner's to choose: `unknown`
until the owner writes one.
"""

from typing import Any

import yaml

from groundup.recipe import Recipe
from groundup.runs.evaluation_file import Sections, fullest

_TASK = {"type": "image-classification", "name": "Image classification"}


def front_matter(recipe: Recipe, summary: dict[str, Any], sections: Sections) -> str:
    """YAML without its fences. `model-index` is the last key."""
    own = summary.get("own") or {}
    data = {**_data_set(recipe, own), "split": summary["reported_on"]}
    index = [{"name": recipe.name, "results": _results(data, summary, sections)}]
    return _yaml({**_head(recipe, own), "model-index": index})


def without_results(recipe: Recipe, own: dict[str, str]) -> str:
    """The same for a run that is not finished. `own`: what was handed in from Python in place of the recipe's."""
    return _yaml(_head(recipe, own))


def _head(recipe: Recipe, own: dict[str, str]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "license": "unknown",
        "library_name": "groundup",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "groundup", recipe.model.name],
    }
    if recipe.data.kind == "hub" and "data" not in own:
        head["datasets"] = [_data_set(recipe, own)["type"]]
    return {**head, "metrics": ["accuracy"]}


def _yaml(head: dict[str, Any]) -> str:
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110)


def _data_set(recipe: Recipe, own: dict[str, str]) -> dict[str, Any]:
    """The `dataset` of the results: of the Hub its own name, of anything else the kind of source and the last part
    of its path."""
    if "data" in own:
        return {"type": "custom", "name": "handed in from Python"}
    place, _, options = recipe.data.place.partition("?")
    if recipe.data.kind != "hub":
        last = place.rstrip("/").rpartition("/")[2]
        return {"type": recipe.data.kind, "name": last or recipe.data.kind}
    config = options.partition("config=")[2].partition("&")[0]
    named = {"type": place, "name": place}
    return {**named, "config": config} if config else named


def _results(data: dict[str, Any], summary: dict[str, Any], sections: Sections) -> list[dict[str, Any]]:
    chosen = ", optimistic: chosen on this split" if summary["optimistic"] else ""
    metrics = [
        _metric("accuracy", summary["top1"], f"top-1 accuracy{chosen}"),
        _metric("accuracy", summary["top5"], f"top-5 accuracy{chosen}"),
    ]
    if summary.get("nll") is not None:
        metrics.append(_metric("nll", summary["nll"], "negative log-likelihood, nats"))
    calibration = fullest(sections, "calibration")
    if calibration:
        metrics.append(_metric("ece", calibration["as_trained"]["ece_equal_mass"], "ECE, equal mass, as trained"))
    results = [{"task": dict(_TASK), "dataset": dict(data), "metrics": metrics}]
    corruptions = fullest(sections, "corruptions")
    if corruptions:
        corrupted = {**data, "name": f"{data['name']}, generated corruptions", "args": {"corruptions": "generated"}}
        found = [_metric("accuracy", corruptions["mean"], "mean top-1 accuracy over corruptions and severities")]
        results.append({"task": dict(_TASK), "dataset": corrupted, "metrics": found})
    return results


def _metric(kind: str, value: float, name: str) -> dict[str, Any]:
    return {"type": kind, "value": round(float(value), 6), "name": name}
