"""The command `groundup`: parse, call, print. Heavy imports wait until a command needs them, so that `--help` is quick."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.basis.machine import is_launched
from groundup.cli.data import data_app
from groundup.cli.finished import evaluate, predict, report
from groundup.cli.launch import launch
from groundup.cli.measure import bench, lr_find
from groundup.cli.options import AsJson, MaxTime, Overrides
from groundup.cli.ship import demo, export, publish
from groundup.cli.sweep import sweep_app

app = typer.Typer(
    help="Train image classifiers from scratch, to a target, honestly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List the library, or print one recipe.

    Example: groundup recipes cifar100-speed
    """
    from groundup.recipe import library, load_recipe, source_text

    if name is not None:
        print(
            json.dumps(load_recipe(name).model_dump(mode="json", by_alias=True)) if as_json else source_text(name),
            end="",
        )
        return
    found = {entry: load_recipe(entry) for entry in library()}
    if as_json:
        print(json.dumps({entry: {"about": recipe.about, **_claim(recipe)} for entry, recipe in found.items()}))
        return
    rows = [("recipe", "test top-1", "figure", "about")]
    for entry, recipe in found.items():
        claim, whose = _claim(recipe).values()
        rows.append((entry, f"{claim['top1']:.2%}" if whose else "-", whose or "-", recipe.about))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name_, top1, whose, about in rows:
        print(f"{name_:<{widths[0]}}  {top1:>{widths[1]}}  {whose:<{widths[2]}}  {about}")


def _claim(recipe: Any) -> dict[str, Any]:
    """The claim of a recipe, and whose figure it is; `figure` is None where it has none."""
    claim = recipe.claim
    if claim is None or claim.top1 is None:
        return {"claim": claim and claim.model_dump(mode="json"), "figure": None}
    whose = "measured here" if claim.seeds else "of the source"
    chosen = ", chosen on test" if claim.optimistic or recipe.evaluate.optimistic else ""
    differs = f", {claim.differs}" if claim.differs else ""
    return {"claim": claim.model_dump(mode="json"), "figure": whose + differs + chosen}


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(
            # Under torchrun the second name: it takes `--run` for an abbreviation of an option of its own.
            "--run",
            "--run-folder",
            help="Run folder; by default runs/NAME-001, -002 ...",
            show_default=False,
        ),
    ] = None,
    max_time: MaxTime = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe into a new run folder.

    Example: groundup train digits train.epochs=3
    """
    from groundup.recipe import load_recipe
    from groundup.runs.train import train

    # The recipe is validated before the folder is made: a typing mistake leaves nothing behind.
    chosen = load_recipe(recipe, overrides or [])
    _report(train(chosen, run=run, max_seconds=_seconds(max_time)), as_json)


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    overfit: Annotated[bool, typer.Option(help="Also learn one small batch by heart: 40 steps.")] = False,
    out: Annotated[Path, typer.Option(help="The page, HTML; a number is added if another file lies there.")] = Path(
        "check.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Look at a run before it begins: mistakes, samples, schedule, cost. Changes nothing. Status 1 if there are errors.

    Example: groundup check digits train.epochs=3
    """
    with StopRequest().listening() as stop:
        from groundup.recipe import load_recipe
        from groundup.runs.check import checking as preflight
        from groundup.runs.check.page import check_place, write_page
        from groundup.tracking import TerminalTracker

        chosen = load_recipe(recipe, overrides or [])
        check_place(out)
        terminal = TerminalTracker()
        try:
            report = preflight.check(chosen, learn_by_heart=overfit, stop=stop, tracker=terminal)
        finally:
            terminal.close()
        place = write_page(report, out)
    if as_json:
        print(json.dumps({**report.to_dict(), "page": str(place)}))
    else:
        print("\n".join([*report.lines(), str(place)]))
    if report.count("error"):
        raise typer.Exit(1)


@app.command()
def resume(
    run: Annotated[
        str,
        typer.Argument(
            help="Run folder, or a run in a mirror, e.g. s3://bucket/prefix/digits-001.", show_default=False
        ),
    ],
    into: Annotated[
        Path | None,
        typer.Option(
            "--run", "--run-folder", help="Folder for a run from a mirror; by default runs/NAME.", show_default=False
        ),
    ] = None,
    from_mirror: Annotated[
        bool, typer.Option("--from-mirror", help="Take the newer checkpoint from the recipe's mirror, if it has one.")
    ] = False,
    max_time: MaxTime = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run exactly where it stopped; on an empty machine, from its mirror.

    Example: groundup resume runs/digits-001
    """
    from groundup.runs.train import resume

    _report(resume(run, into=into, from_mirror=from_mirror, max_seconds=_seconds(max_time)), as_json)


def _report(run: Any, as_json: bool) -> None:
    from groundup.runs.summary import result_line

    if _rank() != "0":
        return
    if as_json:
        print(json.dumps({"run": str(run.folder), **run.summary}))
    else:
        print(f"{result_line(run.summary)}\n{run.folder}")


for command in (evaluate, predict, report, publish, export, demo, bench, lr_find, launch):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")


def _seconds(text: str | None) -> float | None:
    """Seconds from `90s`, `9m`, `2h`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None:
        raise UsageError(f"--max-time {text}: write a time with its unit: 90s, 9m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _rank() -> str:
    """The number of this process among those that torchrun started, of which 0 tells what there is to tell."""
    return os.environ["RANK"] if is_launched() else "0"


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 error of the run, 2 mistake of the caller, 130/143 interrupted, resumable."""
    if os.name == "nt":
        sys.exit("groundup runs on Linux and macOS; on Windows use it inside WSL 2")
    # libgomp's threads spin for milliseconds while they wait, which stalls whatever shares the cores; some microseconds are
    # enough for short parallel regions (docs/log.md has the figures, and what they do not show).
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        app(prog_name="groundup")
    except Interrupted as stopped:
        if _rank() == "0":
            print(f"stopped: {stopped.reason}", file=sys.stderr)
        _end(stopped.exit_code)
    except GroundupError as error:
        _fail(error, str(error), error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(error, f"{error.filename or 'input or output'}: {error.strerror or error}", 1)


def _fail(error: Exception, said: str, status: int) -> NoReturn:
    """Say what is wrong and end. Of several processes that torchrun started the first says it, or the only one to know."""
    if (rank := _rank()) == "0":
        print(f"error: {said}", file=sys.stderr)
    elif getattr(error, "only_here", False):
        print(f"process {rank}: error: {said}", file=sys.stderr)
    _end(status)


def _end(status: int) -> NoReturn:
    if is_launched():
        # A lost process may leave a GPU waiting for it, and the interpreter's end with it. Taking torch down can also use up
        # what is left of the time that torchrun gives.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
