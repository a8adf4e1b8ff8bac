"""Several runs on the same test images: each against each, seeds of one recipe together, and asked as an ensemble.

Runs whose recipes differ in nothing but the seed (and in what changes no result, or only the machine: `recipe_differences`) are one
group; where runs with one recipe name are not, it is said why. Two groups of two seeds or more are compared over seeds and images,
which is what "this recipe is better" asks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from groundup.evaluation import (
    Comparison,
    compare_groups,
    compare_runs,
    correct,
    diversity,
    ensemble,
    ensemble_cost,
    mean_interval,
    top_k,
    wilson,
)
from groundup.recipe import Recipe
from groundup.runs.identity import recipe_differences, told
from groundup.runs.reports.base import Facts, Section, Shown, Table, between, cost_per_image, percent

_MANY = 5  # comparisons from which on one that is shown by chance is worth a word


@dataclass(frozen=True)
class Member:
    """A run among others: its logits (N, C) and labels (N,). `flop`: of an answer for one image, with its test-time augmentation;
    `weights`: their checksum."""

    name: str
    recipe: Recipe
    logits: Tensor
    labels: Tensor
    tta: str
    flop: int
    weights: str = ""

    @property
    def hits(self) -> Tensor:
        return correct(self.logits, self.labels)


def short_names(runs: Sequence[Path]) -> list[str]:
    """The names of the folders, with as much of what stands before them as tells them apart."""
    parts = [run.resolve().parts for run in runs]
    length = next(
        (size for size in range(1, max(map(len, parts)) + 1) if len({part[-size:] for part in parts}) == len(parts)), 1
    )
    return ["/".join(part[-length:]) for part in parts]


def compare(members: Sequence[Member], asked_together: bool) -> Facts:
    """Every pair, every two groups of seeds, and the ensemble if `asked_together`."""
    groups = _groups(members)
    seeds = {name: group for name, group in groups.items() if len(group) > 1}
    return {
        "images": len(members[0].labels),
        "tta": members[0].tta,
        "runs": [
            {**_accuracy(member.name, member.hits), "flop": member.flop, "weights": member.weights}
            for member in members
        ],
        "pairs": [
            _plain(compare_runs(one.hits, other.hits, names=(one.name, other.name)))
            for one, other in combinations(members, 2)
        ],
        "groups": [_group(name, group) for name, group in seeds.items()],
        "group_pairs": [
            _plain(compare_groups(_stacked(seeds[one]), _stacked(seeds[other]), names=(one, other)))
            for one, other in combinations(seeds, 2)
        ],
        "apart": _apart(list(groups.values())),
        "ensemble": _ensemble(members) if asked_together else None,
    }


def _groups(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The runs of each recipe, each seed once, by a name: the recipe's, with the first run's where two recipes share one."""
    found: list[list[Member]] = []
    for member in members:
        group = next((group for group in found if not recipe_differences(group[0].recipe, member.recipe)), None)
        if group is None:
            found.append([member])
        elif member.recipe.seed not in {other.recipe.seed for other in group}:
            group.append(member)
    names = [group[0].recipe.name for group in found]
    return {
        name if names.count(name) == 1 else f"{name} as in {group[0].name}": group
        for name, group in zip(names, found, strict=True)
    }


def _apart(groups: list[list[Member]]) -> list[Facts]:
    """Runs that one might take for seeds of one recipe by its name, and where they differ: each group beside the first of its
    name."""
    firsts: dict[str, Member] = {}
    found = []
    for member, *_ in groups:
        first = firsts.setdefault(member.recipe.name, member)
        if first is not member:
            changes = recipe_differences(first.recipe, member.recipe)
            found.append({"names": [first.name, member.name], "recipe": member.recipe.name, "differ": told(changes)})
    return found


def _stacked(group: list[Member]) -> Tensor:
    return torch.stack([member.hits for member in group])


def _accuracy(name: str, hits: Tensor) -> Facts:
    right = int(hits.sum())
    return {"name": name, "top1": right / len(hits), "top1_interval": list(wilson(right, len(hits)))}


def _group(name: str, group: list[Member]) -> Facts:
    mean, low, high = mean_interval([float(member.hits.double().mean()) for member in group])
    return {
        "name": name,
        "runs": [member.name for member in group],
        "seeds": [member.recipe.seed for member in group],
        "mean": mean,
        "interval": [max(0.0, low), min(1.0, high)],
    }


def _plain(compared: Comparison) -> Facts:
    return {
        "names": list(compared.names),
        "difference": compared.difference,
        "interval": list(compared.interval),
        "p": compared.p,
        "over": compared.over,
        "shown": compared.shown,
        "in_words": compared.in_words(),
    }


def _ensemble(members: Sequence[Member]) -> Facts:
    logits, labels = [member.logits for member in members], members[0].labels
    together = ensemble(logits)
    found = diversity(logits, labels)
    return {
        **found.to_dict(),
        **_accuracy(f"ensemble of {len(members)}", correct(together, labels)),
        "top5": top_k(together, labels, 5),
        "forward_passes": ensemble_cost([member.tta for member in members]),
        "flop": sum(member.flop for member in members),
        "in_words": str(found),
    }


def show(facts: Facts) -> Shown:
    """Every comparison in a sentence, and the accuracies behind them."""
    lines = [f"{pair['names'][0]} against {pair['names'][1]}: {pair['in_words']}" for pair in facts["pairs"]]
    lines += [
        f"{group['name']}: mean of {len(group['seeds'])} seeds {percent(group['mean'])} "
        f"(95% interval {between(group['interval'])} over the choice of seeds)"
        for group in facts["groups"]
    ]
    lines += [
        f"{pair['names'][0]} against {pair['names'][1]}, as recipes: {pair['in_words']}"
        for pair in facts["group_pairs"]
    ]
    lines += [
        f"{apart['names'][0]} and {apart['names'][1]} are called {apart['recipe']}, but are no seeds of one recipe: "
        f"{apart['differ']}"
        for apart in facts.get("apart", [])
    ]
    if len(facts["pairs"]) >= _MANY:
        lines.append(
            f"{len(facts['pairs'])} comparisons: where there is no difference at all, one in twenty is still shown at 95%"
        )
    rows = [_row(run) for run in facts["runs"]]
    if together := facts["ensemble"]:
        rows.append(_row(together))
        lines.append(f"{together['in_words']}; {cost_per_image(together)}, mean of the probabilities")
    view = "" if facts["tta"] == "none" else f" ({facts['tta']})"
    return Shown(lines, [Table(["run", f"top-1{view}", "95% interval", "GFLOP per image"], rows)])


def _row(run: Facts) -> list[str]:
    cost = f"{run['flop'] / 1e9:.3g}" if "flop" in run else "-"  # files of before do not say
    return [run["name"], percent(run["top1"]), between(run["top1_interval"]), cost]


def _with_whom(facts: Facts) -> str:
    """The runs by name, whatever their order, and by their weights: two runs in different folders may have one name."""
    names = ", ".join(sorted(run["name"] for run in facts["runs"]))
    weights = sorted(run.get("weights", "") for run in facts["runs"])
    return f"{names} {hashlib.sha256(' '.join(weights).encode()).hexdigest()[:8]}" if all(weights) else names


def _with_the_ensemble(old: Facts, new: Facts) -> Facts:
    """The new facts, with what is known of the ensemble if it was not asked for this time."""
    return {**new, "ensemble": new["ensemble"] or old.get("ensemble")}


SECTION = Section("Runs compared on the same images", None, show, _with_whom, _with_the_ensemble)
