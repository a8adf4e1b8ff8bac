"""Whether a search with pruning finds a setting at least as good as a grid of as many runs, for less compute.

    python bench/search.py parquet:PATH/TO/cifar100 --repetitions 5 --out bench/results/search.json

Both look for the learning rate and weight decay of a narrow speed_net on 5,000 CIFAR-100 images of 20 px, a tenth of them for
validation, in 20 runs: a grid of 5 x 4 values, and TPE over the same ranges, which stops what falls behind. The values of the grid
are evenly spaced on a logarithmic scale; where the first one lies is drawn for each repetition, because a grid that happens to hold
the best rate, as the first version of this bench did, says nothing of grids. Each chooses by
validation accuracy. The validation split has 500 images, so the winner's own number is lucky; what is compared is the test accuracy
of the chosen setting, trained again with two seeds that no choice has seen. The repetitions differ in the seed of everything.

PFLOP: training compute of all runs of a sweep, stopped ones as far as they got. `--processes` repetitions run side by side, each on
one thread; nothing is timed. The command goes on where it stopped.
"""

import argparse
import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from groundup.basis.files import write_json
from groundup.basis.interruption import StopRequest
from groundup.compare.report.collect import Run, read_sweep
from groundup.compare.sweeps.sweep_file import validate_sweep
from groundup.compare.sweeps.sweeping import begin, run_workers
from groundup.evaluation import mean_interval
from groundup.runs.folder import environment
from groundup.runs.train import train

RUNS = 20
RATES, DECAYS = (0.02, 1.6, 5), (1.0e-4, 8.0e-3, 4)  # from, to, values of the grid
BASE = "cifar100-speed"
FIXED: dict[str, Any] = {
    **{"data.limit": 5000, "data.validation": 0.1, "data.resolution": 20, "phases": []},
    "model": {"name": "speed_net", "widths": [24, 64, 128], "middles": [24, 48, 96]},
    **{"train.epochs": 6, "train.batch_size": 128, "train.micro_batch": None, "train.threads": 1},
    **{"evaluate.every": "1ep", "checkpoint.every": "3ep", "track.tensorboard": False},
}
SPACE = {
    "schedule.lr": {"low": RATES[0], "high": RATES[1], "log": True},
    "optimizer.weight_decay": {"low": DECAYS[0], "high": DECAYS[1], "log": True},
}


def spaced(low: float, high: float, count: int, shift: float) -> list[float]:
    """`count` values between `low` and `high`, by equal factors; `shift`, 0 to 1: where the first lies in its part of the range."""
    return [float(f"{low * (high / low) ** ((place + shift) / count):.4g}") for place in range(count)]


def sweep_of(kind: str, source: str, repetition: int) -> dict[str, Any]:
    """The sweep file of one contestant."""
    shared = {
        "name": f"{kind}-{repetition}",
        "base": BASE,
        "fixed": {**FIXED, "data.source": source},
        "seeds": [repetition],
    }
    if kind == "grid":
        drawn = random.Random(repetition)
        grid = {
            "schedule.lr": spaced(*RATES, drawn.random()),
            "optimizer.weight_decay": spaced(*DECAYS, drawn.random()),
        }
        return {**shared, "grid": grid}
    return {
        **shared,
        "search": {"sampler": "tpe", "startup": 6, "draw_seed": repetition, "space": SPACE},
        "prune": {"name": "median", "start": "2ep", "finished": 4},
        "budget": {"runs": RUNS},
    }


def best(runs: list[Run]) -> Run:
    """The run of the highest validation accuracy at its end."""
    return max((run for run in runs if run.finished and run.value is not None), key=lambda run: run.value or 0.0)


def again(run: Run, source: str, seeds: list[int], folder: Path) -> float:
    """Mean test accuracy of the setting of `run` with other seeds."""
    chosen = [f"{key}={json.dumps(value)}" for key, value in {**FIXED, "data.source": source, **run.overrides}.items()]
    summaries = [
        train(BASE, [*chosen, f"seed={seed}"], run=folder / f"seed{seed}", pictures=False).summary for seed in seeds
    ]
    return float(sum(summary["top1"] for summary in summaries) / len(summaries))


def contestant(kind: str, source: str, repetition: int, folder: Path) -> dict[str, Any]:
    """One sweep, and what its choice is worth."""
    store = begin(validate_sweep(sweep_of(kind, source, repetition)), folder / f"{kind}-{repetition}")
    run_workers(store, StopRequest(), lambda text: None)
    runs = list(read_sweep(store.folder).runs)
    chosen = best(runs)
    fresh = [1000 + 2 * repetition, 1001 + 2 * repetition]
    return {
        "runs": len(runs),
        "stopped_early": sum(run.state == "pruned" for run in runs),
        "pflop": sum(run.pflop or 0.0 for run in runs),
        "seconds": sum(run.seconds or 0.0 for run in runs),
        "chosen": dict(chosen.overrides),
        "validation_top1": chosen.value,
        "test_top1_again": again(chosen, source, fresh, store.folder / "again"),
    }


def both(source: str, repetition: int, folder: Path) -> dict[str, Any]:
    """One repetition."""
    return {kind: contestant(kind, source, repetition, folder) for kind in ("grid", "search")}


def summarized(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over repetitions; search against grid, paired by repetition, with 95% t intervals."""
    gains = [entry["search"]["test_top1_again"] - entry["grid"]["test_top1_again"] for entry in repetitions]
    shares = [entry["search"]["pflop"] / entry["grid"]["pflop"] for entry in repetitions]
    several = len(repetitions) > 1
    return {
        "grid_test_top1": sum(entry["grid"]["test_top1_again"] for entry in repetitions) / len(repetitions),
        "search_test_top1": sum(entry["search"]["test_top1_again"] for entry in repetitions) / len(repetitions),
        "gain": mean_interval(gains) if several else gains[0],
        "compute_share": mean_interval(shares) if several else shares[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="CIFAR-100, such as parquet:DIR")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="repetitions at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    done: dict[str, dict[str, Any]] = {}
    if chosen.out and chosen.out.exists():
        done = json.loads(chosen.out.read_text())["repetitions"]
    missing = [number for number in range(chosen.repetitions) if str(number) not in done]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(chosen.processes, mp_context=spawned, max_tasks_per_child=1) as pool:
        runs = {pool.submit(both, chosen.source, number, chosen.runs): number for number in missing}
        for run in as_completed(runs):
            done[str(runs[run])] = run.result()
            if chosen.out:
                ordered = dict(sorted(done.items()))
                write_json(chosen.out, {**summarized(list(ordered.values())), "repetitions": ordered, **environment()})
    print(json.dumps(summarized(list(done.values())), indent=2))


if __name__ == "__main__":
    main()
