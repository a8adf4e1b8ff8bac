"""A sweep at a glance: how many runs are where, and what the configurations have shown so far, the best first."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from groundup.compare.sweeps.store import RunRecord, Store
from groundup.compare.sweeps.sweep_file import Sweep
from groundup.compare.sweeps.worker import told

if TYPE_CHECKING:
    from rich.table import Table

STATES = ("waiting", "running", "done", "pruned", "failed")
_AROUND = 8  # lines of the table that are no runs: a title of two, the heading, the frame, the caption, the cursor


def summary_of(store: Store) -> dict[str, Any]:
    """The sweep in numbers: runs by state, cost so far, the best configuration."""
    runs = store.runs()
    ranked = ranking(store.sweep, runs)
    return {
        "sweep": store.sweep.name,
        "folder": str(store.folder),
        "metric": store.sweep.metric,
        "runs": {state: sum(run.state == state for run in runs) for state in STATES},
        "pflop": math.fsum(run.pflop for run in runs),
        "seconds": round(math.fsum(run.seconds for run in runs), 3),
        "best": ranked[0] if ranked and ranked[0]["complete"] else None,
        "configurations": ranked,
        "failed": [{"name": run.name, "reason": run.reason} for run in runs if run.state == "failed"],
    }


def is_over(store: Store) -> bool:
    """Whether every run that will ever be carried out has come to its end: one beyond the budget will not be."""
    return store.is_over()


def ranking(sweep: Sweep, runs: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Configurations with at least one finished run: the mean over their finished seeds; the complete ones first, then those with
    most seeds, then the best.

    `spread`: standard deviation over seeds, None for one seed; `complete`: whether every seed of the sweep has finished; `missing`:
    the state of those that have not. The seeds that are left when others failed flatter: an incomplete one is never the best.
    """
    by_name: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_name.setdefault(run.name.partition("-")[0], []).append(run)
    rows = []
    for number, group in by_name.items():
        values = [run.value for run in group if run.state == "done" and run.value is not None]
        if not values:
            continue
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
        missing = {str(run.seed): run.state for run in group if run.state != "done"}
        rows.append(
            {
                "configuration": number,
                "mean": mean,
                "spread": spread,
                "seeds": len(values),
                "complete": not missing,
                "missing": missing,
                "point": group[0].point,
            }
        )
    sign = -1 if sweep.maximize else 1
    return sorted(rows, key=lambda row: (not row["complete"], -row["seeds"], sign * row["mean"]))


def table_of(store: Store, height: int | None = None) -> "Table":
    """The table that `groundup sweep status` shows. `height`: lines of the terminal that it has to fit; then the runs that run come
    first, the best of the others next, each on one line."""
    from rich.table import Table
    from rich.text import Text

    said = summary_of(store)
    counts = ", ".join(f"{count} {state}" for state, count in said["runs"].items() if count)
    table = Table(
        title=f"{store.sweep.name}: {counts or 'no run yet'}; {said['pflop']:.3g} PFLOP, {said['seconds']:.0f} s of training",
        title_justify="left",
    )
    fits = height is not None
    for heading in ("run", "state", "step", store.sweep.metric, "seconds"):
        table.add_column(heading, overflow="fold", no_wrap=fits)
    table.add_column("settings", overflow="fold")  # the one that gets narrower
    runs = shown = store.runs()
    if height is not None:
        shown = sorted(runs, key=lambda run: _first_to_see(run, store.sweep.maximize))[: max(1, height - _AROUND)]
        if len(shown) < len(runs):
            table.caption = f"{len(runs) - len(shown)} more: `groundup sweep status --once` lists all"
    for run in shown:
        table.add_row(
            run.name,
            run.state,
            "" if run.step is None else str(run.step),
            "" if run.value is None else f"{run.value:.4g}",
            f"{run.seconds:.1f}" if run.seconds else "",
            Text(run.reason or told(run.point), no_wrap=fits, overflow="ellipsis" if fits else "fold"),
        )
    return table


def _first_to_see(run: RunRecord, maximize: bool) -> tuple[int, float]:
    order = ("running", "done", "failed", "pruned", "waiting")
    return order.index(run.state), (-1 if maximize else 1) * (run.value or 0.0)


def result_lines(store: Store) -> list[str]:
    """The ranking in plain lines, and what failed."""
    lines = []
    for row in ranking(store.sweep, store.runs()):
        spread = f" (sd {row['spread']:.2g})" if row["spread"] is not None else ""
        seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
        if not row["complete"]:
            seeds += f" (INCOMPLETE: {', '.join(f'seed {seed} {state}' for seed, state in row['missing'].items())})"
        lines.append(
            f"{row['configuration']}  {store.sweep.metric} {row['mean']:.4g}{spread}, {seeds}  {told(row['point'])}"
        )
    lines += [f"{run.name}  failed: {run.reason}" for run in store.runs() if run.state == "failed"]
    return lines
