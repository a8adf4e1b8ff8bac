"""A claim: one recipe over several seeds, each trained on all of train and read once on test; mean and interval over seeds.

    python bench/claim.py cifar100-speed data.source=parquet:PATH --seeds 0 1 2 --out bench/results/claims/NAME.json

Every seed is a run folder of its own below --runs. A seed that has a summary is not trained again, and one that was
stopped goes on, so the command can be repeated until all seeds are there; the JSON is written after each.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from groundup.basis.files import write_json
from groundup.evaluation import mean_interval
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.train import resume, train

_KEPT = ("seed", "top1", "top1_interval", "top5", "nll", "images", "selected_on", "reported_on", "optimistic", "pflop", "seconds",
         "images_per_second", "precision", "threads", "compiled", "steps", "epochs", "parameters", "train_images")  # fmt: skip


def run_of(recipe: str, overrides: list[str], seed: int, folder: Path) -> dict[str, Any]:
    """The summary of one seed, trained now, finished now, or read."""
    if (folder / "recipe.yaml").exists():
        return resume(folder).summary
    return train(recipe, [*overrides, f"seed={seed}"], run=folder).summary


def claim(recipe: str, overrides: list[str], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """What is written down: the command, the numbers of every seed, mean and 95% t interval over seeds."""
    values = [summary["top1"] for summary in summaries]
    mean, low, high = mean_interval(values) if len(values) > 1 else (values[0], None, None)
    return {
        "recipe": recipe,
        "command": " ".join(["groundup train", recipe, *overrides, "seed=SEED"]),
        "top1_mean": mean,
        "top1_interval_over_seeds": [low, high],
        "pflop": summaries[0]["pflop"],
        "seconds": [summary["seconds"] for summary in summaries],
        "runs": [{key: summary[key] for key in _KEPT} for summary in summaries],
        **environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    name = load_recipe(chosen.recipe, chosen.overrides).name
    summaries: list[dict[str, Any]] = []
    for seed in chosen.seeds:
        summaries.append(run_of(chosen.recipe, chosen.overrides, seed, chosen.runs / f"{name}-seed{seed}"))
        result = claim(chosen.recipe, chosen.overrides, summaries)
        print(json.dumps(result["runs"][-1]), flush=True)
        if chosen.out:
            write_json(chosen.out, result)
    print(json.dumps({key: result[key] for key in ("top1_mean", "top1_interval_over_seeds", "pflop", "seconds")}))


if __name__ == "__main__":
    main()
