"""Does a network generalise better with constant regularisation, or with one that is reduced while it trains?

System 000 says so of its session 02 (constant, 71.20%) against session 04 (reduced in phases, 72.98%) and cannot know: one run
each, unseeded, with a learning rate that was an accident, the best epoch chosen on test. Here both arms have the same network and
data, schedule, length and seeds, and differ in the phases alone, whose places are session 04's as shares of the run.

    python bench/regularisation.py parquet:PATH/TO/cifar100 --seeds 0 1 2 --out bench/results/regularisation.json

Every run reports its last step; test is read once. Measured of each: accuracy on test and on clean training images, calibration as
trained and with a temperature fitted on validation, accuracy under the 15 corruptions. Differences are paired by seed.

What it can show: the direction at a small scale, where the network still learns (it ends far from knowing its training images by
heart, and says how far: train_top1). What it cannot: the size of the difference for WRN-28-10 over 100 epochs of all images, which
knows them. The command goes on where it stopped; runs and results of other settings or other data are refused.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from groundup.basis.errors import UsageError
from groundup.basis.files import write_json
from groundup.basis.interruption import StopRequest
from groundup.evaluation import mean_interval
from groundup.recipe import Recipe, load_recipe
from groundup.runs.evaluate import evaluate
from groundup.runs.evaluation_file import fullest, read_sections
from groundup.runs.folder import environment, open_run_folder
from groundup.runs.identity import differences, told, what_decides
from groundup.runs.prepare import open_data
from groundup.runs.train import resume, train
from groundup.runs.trained import fingerprint_of

RECIPE = "000-session-04"
SHARED = [
    *("data={limit: 5000, validation: 0.1}", "model={name: wide_resnet, depth: 10, width: 2, dropout: 0.3}"),
    *("train={epochs: 40, batch_size: 128}", "schedule={name: cosine, lr: 0.1, final_lr: 1.0e-5, warmup: 0.05dur}"),
    *("stop.target=null", "evaluate={model: last, every: 5ep}", "checkpoint.every=5ep", "track.tensorboard=false"),
]
CONSTANT = ["phases=[]"]
REDUCED = [  # session 04's, at the same shares of the run
    "phases=[{from: 0.4dur, set: {mix: {methods: [{name: mixup, alpha: 0.15}]}, augment.policy: [{name: flip}, "
    "{name: shift_scale_rotate, p: 0.35, shift_limit: 0.05, scale_limit: 0.07, rotate_limit: 10}, "
    "{name: coarse_dropout, p: 0.35, holes: [1, 1], side: [6, 6], unit: px, fill: black}, "
    "{name: brightness_contrast, p: 0.2, brightness_limit: 0.15, contrast_limit: 0.15}]}}, "
    "{from: 0.5dur, set: {model.dropout: 0.2, loss.label_smoothing: 0.05}}, "
    "{from: 0.7dur, set: {mix: {methods: []}, augment.policy: [{name: flip}, "
    "{name: coarse_dropout, p: 0.3, holes: [1, 1], side: [4, 4], unit: px, fill: black}]}}, "
    "{from: 0.8dur, set: {model.dropout: 0.1}}]"
]
ARMS = {"constant": CONSTANT, "reduced": REDUCED}
SECTIONS = ("calibration", "corruptions", "generalisation")


def meant(arm: str, source: str, seed: int) -> Recipe:
    """The recipe of a run."""
    return load_recipe(RECIPE, [f"name={arm}", f"data.source={source}", *SHARED, *ARMS[arm], f"seed={seed}"])


def settings(source: str, fingerprint: str) -> dict[str, Any]:
    """What decides the results of the arms, the seed apart; kept beside them. `fingerprint`: of the data."""
    return {"data": fingerprint, **{arm: what_decides(meant(arm, source, 0)) for arm in ARMS}}


def trained(arm: str, source: str, seed: int, runs: Path, fingerprint: str) -> Path:
    """The folder of a run, made or gone on with."""
    folder, recipe = runs / f"{arm}-seed{seed}", meant(arm, source, seed)
    if (folder / "recipe.yaml").exists():
        require_meant(folder, recipe, fingerprint)
        return resume(folder).folder
    return train(recipe, run=folder).folder


def require_meant(folder: Path, recipe: Recipe, fingerprint: str) -> None:
    """UsageError if the run in `folder` is of another recipe than `recipe`, or of data with another fingerprint."""
    if (trained_on := fingerprint_of(open_run_folder(folder))) not in (None, fingerprint):
        raise UsageError(
            f"{folder}: is a run on other data: fingerprint {trained_on}, here {fingerprint}",
            hint="name another --runs",
        )
    there, here = what_decides(open_run_folder(folder).recipe()), what_decides(recipe)
    for key, value in here["augment"]["normalize"].items():
        if value is None:  # a run keeps what was measured
            there["augment"]["normalize"][key] = None
    if changes := differences(there, here):
        raise UsageError(f"{folder}: is a run of other settings: {told(changes)}", hint="name another --runs")


def known_seeds(out: Path | None, now: dict[str, Any]) -> list[dict[str, Any]]:
    """The results that `out` holds. UsageError if they are of other settings than `now`; those that do not say of which are read
    again from their runs."""
    if out is None or not out.exists():
        return []
    kept = json.loads(out.read_text())
    if "settings" not in kept:
        return []
    if changes := differences(kept["settings"], json.loads(json.dumps(now))):
        raise UsageError(f"{out}: holds results of other settings: {told(changes)}", hint="name another --out")
    seeds: list[dict[str, Any]] = kept["seeds"]
    return seeds


def measured(folder: Path) -> dict[str, float | None]:
    """What is compared, of one finished run. Shares are 0 to 1, NLL in nats; None where no finite temperature was found."""
    kept = open_run_folder(folder)
    if any(fullest(read_sections(kept), section) is None for section in SECTIONS):
        evaluate(folder, sections=SECTIONS)
    sections, summary = read_sections(kept), kept.summary() or {}
    calibration, corruptions, general = (fullest(sections, section) or {} for section in SECTIONS)
    train_top1 = general["accuracies"]["train"]
    cooled = calibration.get("with_temperature") or {}
    return {
        "test_top1": summary["top1"],
        "train_top1": train_top1,
        "gap": train_top1 - summary["top1"],
        "nll": calibration["as_trained"]["nll"],
        "ece": calibration["as_trained"]["ece_equal_mass"],
        "temperature": calibration["temperature"],
        "ece_with_temperature": cooled.get("ece_equal_mass"),
        "nll_with_temperature": cooled.get("nll"),
        "corruption_top1": corruptions["mean"],
        "pflop": summary["pflop"],
    }


def commits(runs: Path, seeds: list[dict[str, Any]]) -> list[str]:
    """Of which commits the runs are."""
    folders = [runs / f"{arm}-seed{entry['seed']}" for entry in seeds for arm in ARMS]
    known = [json.loads((folder / "environment.json").read_text()) for folder in folders if folder.exists()]
    return sorted({environment_["commit"] for environment_ in known if environment_.get("commit")})


def summarized(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """For each number: mean of both arms, and reduced minus constant, each with its 95% t interval over the `seeds` of which both
    arms have it; None where there are too few."""
    rows = {}
    for key in seeds[0]["constant"]:
        pairs = [seed for seed in seeds if all(seed[arm][key] is not None for arm in ARMS)]
        row: dict[str, Any] = {"seeds": len(pairs)}
        for arm in ARMS:
            row[arm], row[f"{arm}_interval"] = over_seeds([seed[arm][key] for seed in pairs])
        row["difference"], row["interval"] = over_seeds(
            [seed["reduced"][key] - seed["constant"][key] for seed in pairs]
        )
        rows[key] = row
    return rows


def over_seeds(values: list[float]) -> tuple[float | None, list[float] | None]:
    """The mean and its 95% t interval; None for what so few values do not give."""
    if len(values) < 2:
        return (values[0] if values else None), None
    mean, low, high = mean_interval(values)
    return mean, [low, high]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As Markdown: shares in percent, their differences in points."""
    lines = [
        "Means over seeds (95% t interval).\n",
        "| | constant | reduced | reduced - constant | seeds |",
        "|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        share = key.startswith("ece") or key.endswith("top1") or key == "gap"
        size, form = (100, ".2f") if share else (1, ".3f")
        cells = [cell(row[arm], row[f"{arm}_interval"], size, form) for arm in ARMS]
        cells += [cell(row["difference"], row["interval"], size, f"+{form}"), str(row["seeds"])]
        lines.append(f"| {key}{' (%)' if share else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(value: float | None, interval: list[float] | None, size: int, form: str) -> str:
    """A mean with its interval; a dash where there is none."""
    if value is None:
        return "-"
    low, high = interval or (-math.inf, math.inf)
    return f"{size * value:{form}} ({size * low:{form}} to {size * high:{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="CIFAR-100, such as parquet:DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/regularisation"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    fingerprint = open_data(meant("constant", chosen.source, 0), StopRequest()).fingerprint
    now = settings(chosen.source, fingerprint)
    seeds = known_seeds(chosen.out, now)
    for seed in chosen.seeds:
        if all(entry["seed"] != seed for entry in seeds):
            arms = {arm: measured(trained(arm, chosen.source, seed, chosen.runs, fingerprint)) for arm in ARMS}
            seeds = sorted([*seeds, {"seed": seed, **arms}], key=lambda entry: entry["seed"])
        if chosen.out:
            result = {"recipe": RECIPE, "settings": now, "rows": summarized(seeds), "seeds": seeds}
            result["runs_of_commits"] = commits(chosen.runs, seeds)
            write_json(chosen.out, {**result, **environment()})
    print(table(summarized(seeds)))


if __name__ == "__main__":
    main()
