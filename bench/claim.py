"""A claim: one recipe over several seeds, each trained on all of train and read once on test; mean and interval over seeds.

    python bench/claim.py cifar100-speed data.source=parquet:PATH --seeds 0 1 2 --out bench/results/claims/NAME.json

Every seed is a run folder of its own below --runs. A seed that stands in --out already, from the same command, is not
trained again, and one that was stopped goes on: the command can be repeated until all seeds are there, on another
machine too. Each seed's entry names the hardware and the commit it ran on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.files import write_json
from groundup.evaluation import mean_interval
from groundup.recipe import load_recipe
from groundup.runs.train import resume, train

_KEPT = (
    *("seed", "top1", "top1_interval", "top5", "nll", "images", "selected_on", "reported_on", "optimistic", "pflop"),
    *("seconds", "images_per_second", "device", "hardware", "threads", "precision", "compiled", "steps", "epochs"),
    *("parameters", "train_images", "skipped_updates", "groundup"),
)


def entry(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a seed: its result, and what it ran on."""
    environment = json.loads((folder / "environment.json").read_text())
    machine = {key: environment[key] for key in ("commit", "python", "packages", "system", "cpu_capability", "cores")}
    later = [part["commit"] for part in environment.get("resumed_on", [])]
    return {**{key: summary[key] for key in _KEPT}, **machine, "resumed_on_commits": later}


def train_seed(recipe: str, overrides: list[str], seed: int, folder: Path) -> dict[str, Any]:
    """The entry of one seed, trained now or gone on with."""
    if (folder / "recipe.yaml").exists():
        return entry(folder, resume(folder).summary)
    return entry(folder, train(recipe, [*overrides, f"seed={seed}"], run=folder).summary)


def claim(recipe: str, command: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is written down: the command, mean and 95% t interval over seeds, every seed's entry."""
    values = [run["top1"] for run in runs]
    mean, low, high = mean_interval(values) if len(values) > 1 else (values[0], None, None)
    return {
        "recipe": recipe,
        "command": command,
        "seeds": len(runs),
        "top1_mean": mean,
        "top1_interval_over_seeds": [low, high],
        "pflop": max(run["pflop"] for run in runs),  # seeds of different commits may have paid differently
        "runs": runs,
    }


def recorded(out: Path | None, command: str) -> list[dict[str, Any]]:
    """The seeds that `out` holds already. UsageError if it holds those of another command."""
    if out is None or not out.exists():
        return []
    kept = json.loads(out.read_text())
    if kept["command"] != command:
        raise UsageError(f"--out {out}: holds the seeds of another command: {kept['command']}; this is: {command}")
    runs: list[dict[str, Any]] = kept["runs"]
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    name = load_recipe(chosen.recipe, chosen.overrides).name
    command = " ".join(["groundup train", chosen.recipe, *chosen.overrides, "seed=SEED"])
    runs = recorded(chosen.out, command)
    for seed in chosen.seeds:
        if all(run["seed"] != seed for run in runs):
            runs.append(train_seed(chosen.recipe, chosen.overrides, seed, chosen.runs / f"{name}-seed{seed}"))
        result = claim(chosen.recipe, command, sorted(runs, key=lambda run: run["seed"]))
        if chosen.out:
            write_json(chosen.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
