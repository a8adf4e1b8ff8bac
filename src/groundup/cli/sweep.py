"""The commands `groundup sweep run`, `work` and `status`."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import StopRequest
from groundup.cli.options import AsJson, say

sweep_app = typer.Typer(help="Many runs of one recipe: a grid, random draws, a search.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option(help="Folder of the sweep; by default runs/NAME.", show_default=False)]
StoreArgument = Annotated[
    str, typer.Argument(help="Folder of a sweep, e.g. runs/003-grid, or postgresql://...", show_default=False)
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Let runs that have failed wait again, first.")]
Name = Annotated[str | None, typer.Option(help="Which sweep, where a database holds several.", show_default=False)]


@sweep_app.command()
def run(
    file: Annotated[Path, typer.Argument(help="Sweep file, YAML.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="KEY=VALUE: a key of the sweep file, or a recipe key for every run.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their cost; start nothing.")] = False,
    folder: Folder = None,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
    """Carry out a sweep, or go on with it.

    Example: groundup sweep run sweeps/003-grid.yaml train.epochs=20 --dry-run
    """
    with StopRequest().listening() as stop:
        _refuse_torchrun()
        from groundup.compare.sweeps.sweep_file import read_sweep
        from groundup.compare.sweeps.sweeping import begin, run_workers

        sweep = read_sweep(file, overrides or [])
        if dry_run:
            _list(sweep, stop, as_json)
            return
        store = begin(sweep, folder, stop)
        if retry_failed:
            _retry(store)
        run_workers(store, stop, say)
    _result(store, as_json)


@sweep_app.command()
def work(
    store: StoreArgument,
    folder: Folder = None,
    name: Name = None,
    retry_failed: RetryFailed = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no result at the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Join a sweep as a worker, from this or another machine; it may be killed at any time.

    Example: groundup sweep work runs/003-grid
    """
    with StopRequest().listening() as stop:
        _refuse_torchrun()
        from groundup.compare.sweeps import worker
        from groundup.compare.sweeps.sweeping import join

        joined = join(store, folder, name)
        if retry_failed:
            _retry(joined)
        worker.work(joined, stop, say)
    if not quiet:
        _result(joined, as_json)


def _retry(store: Any) -> None:
    say(f"{store.open_again(failed=True)} failed runs wait again")


def _refuse_torchrun() -> None:
    from groundup.basis.machine import is_launched

    if is_launched():
        raise UsageError(
            "torchrun: starts `groundup train` and `groundup resume`; the runs of a sweep train in one process each",
            hint="start the sweep without torchrun, and more of them at once by `groundup sweep work`",
        )


@sweep_app.command()
def status(
    store: StoreArgument,
    folder: Folder = None,
    name: Name = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table once, also on a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a sweep: on a terminal a table that refreshes until the sweep is over (Ctrl-C ends it), else once.

    Example: groundup sweep status runs/003-grid
    """
    from rich.console import Console
    from rich.live import Live

    from groundup.compare.sweeps.status import is_over, summary_of, table_of
    from groundup.compare.sweeps.sweeping import join

    joined = join(store, folder, name, to_work=False)
    if as_json:
        print(json.dumps(summary_of(joined)))
        return
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if once or not console.is_terminal:
        console.print(table_of(joined))
        return
    with StopRequest().listening() as stop, Live(console=console, auto_refresh=False) as live:
        live.update(table_of(joined, console.height), refresh=True)
        while not is_over(joined) and stop.pending is None:
            time.sleep(1.0)
            live.update(table_of(joined, console.height), refresh=True)


def _list(sweep: Any, stop: StopRequest, as_json: bool) -> None:
    from groundup.compare.sweeps.cost import planned_runs
    from groundup.compare.sweeps.plan import check_plan

    check_plan(sweep, sweep.base)
    runs = planned_runs(sweep, sweep.base, stop)
    known = [run.pflop for run in runs if run.pflop is not None]
    if as_json:
        rows = [
            {"name": r.name, "overrides": r.point, "seed": r.seed, "pflop": r.pflop, "problem": r.problem} for r in runs
        ]
        print(json.dumps({"sweep": sweep.name, "runs": rows, "pflop": sum(known)}))
        return
    from groundup.compare.sweeps.worker import told

    for run in runs:
        cost = f"{run.pflop:.3g} PFLOP" if run.pflop is not None else f"cannot run: {run.problem}"
        print(f"{run.name}  {cost:>16}  {told(run.point)}")
    budget = ", ".join(f"{value:g} {key}" for key, value in sweep.budget.model_dump().items() if value is not None)
    if sweep.search is not None:
        print(
            f"a search by {sweep.search.sampler} over {', '.join(sweep.axes)}: its runs follow from the results of earlier ones"
        )
    else:
        print(f"{len(runs)} runs, {sum(known):.3g} PFLOP, {sweep.workers} at a time")
    if budget:
        print(f"at most {budget}")


def _result(store: Any, as_json: bool) -> None:
    from groundup.compare.sweeps.status import result_lines, summary_of

    said = summary_of(store)
    print(json.dumps(said) if as_json else "\n".join([*result_lines(store), str(store.folder)]))
    if not said["runs"]["done"]:
        raise GroundupError(
            f"{store.sweep.name}: no run has a result",
            hint="once the cause is mended, the same command with --retry-failed tries the failed ones again",
        )
