"""The command `groundup`: parse, call, print. Heavy imports wait until a command needs them, so that `--help` is quick."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.cli.sweep import sweep_app

app = typer.Typer(
    help="Train image classifiers from scratch, to a target, honestly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(sweep_app, name="sweep")

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, KEY=VALUE, e.g. train.epochs=3.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, e.g. runs/digits-001.", show_default=False)]
MaxTime = Annotated[
    str | None, typer.Option(help="Stop resumably after this time, e.g. 90s, 9m, 2h.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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
    rows = {entry: load_recipe(entry) for entry in library()}
    if as_json:
        print(json.dumps({entry: {"about": recipe.about, "claim": _claim(recipe)} for entry, recipe in rows.items()}))
        return
    width = max(map(len, rows))
    for entry, recipe in rows.items():
        claim = recipe.claim
        target = f"{claim.top1:.2%}" if claim and claim.top1 is not None else "-"
        print(f"{entry:<{width}} {target:>7}  {recipe.about}")


def _claim(recipe: Any) -> Any:
    return recipe.claim.model_dump(mode="json") if recipe.claim else None


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/NAME-001, -002 ...", show_default=False)
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
        from groundup.runs import check as preflight
        from groundup.runs.check_page import check_place, write_page
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
def resume(run: RunArgument, max_time: MaxTime = None, as_json: AsJson = False) -> None:
    """Go on with a run exactly where it stopped.

    Example: groundup resume runs/digits-001
    """
    from groundup.runs.train import resume

    _report(resume(run, max_seconds=_seconds(max_time)), as_json)


def _report(run: Any, as_json: bool) -> None:
    from groundup.runs.summary import result_line

    if as_json:
        print(json.dumps({"run": str(run.folder), **run.summary}))
    else:
        print(f"{result_line(run.summary)}\n{run.folder}")


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, e.g. runs/digits-001.", show_default=False)],
    tta: Annotated[
        str, typer.Option(help="Test-time augmentation: none, flip, translate, flip_translate or multi_crop.")
    ] = "none",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Whether it is as sure as right; a temperature from validation.")
    ] = False,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Accuracy on 15 generated corruptions at 5 severities.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Corruptions of all images, not of 2,000.")] = False,
    corrupted: Annotated[
        str | None, typer.Option(help="Accuracy on corrupted images of your own: parquet:DIR, arrays:FILE.npz ...")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Near-duplicates in train, and the accuracy without them.")
    ] = False,
    mistakes: Annotated[
        bool, typer.Option("--mistakes", help="The mistakes it is surest of, and where it looked (Grad-CAM).")
    ] = False,
    generalisation: Annotated[
        bool, typer.Option("--generalisation", help="Gaps between train, validation and test.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="What new batch-norm statistics would do; changes no weights.")
    ] = False,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Ask several runs together.")] = False,
    as_json: AsJson = False,
) -> None:
    """Report on finished runs: accuracy with intervals, and what is asked for. Several runs are compared on the same images.

    Example: groundup evaluate runs/digits-001 --tta flip
    """
    with StopRequest().listening() as stop:
        from groundup.runs.evaluate import Wanted, evaluate_runs, json_of, text_of
        from groundup.tracking import TerminalTracker

        asked = {
            "calibration": calibration,
            "corruptions": corruptions,
            "generalisation": generalisation,
            "recalibrated": recalibrate,
            "duplicates": duplicates,
            "mistakes": mistakes,
        }
        sections = tuple(name for name, wanted in asked.items() if wanted)
        terminal = TerminalTracker()
        try:
            reports = evaluate_runs(
                runs, Wanted(tta, split, sections, full, corrupted, ensemble), stop, terminal.message
            )
        finally:
            terminal.close()
    print(json.dumps(json_of(reports)) if as_json else "\n".join(text_of(reports)))


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures in any format that Pillow reads; with --out also folders of them.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write a table instead, .csv or .parquet; an interrupted call goes on.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes of each picture.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The five most probable classes of each picture, by name.

    Example: groundup predict runs/digits-001 photo.png
    Example: groundup predict runs/digits-001 photos/ --out predictions.csv
    """
    from groundup.runs.load import load

    if out is not None:
        _predict_into(out, load(run), images, top, as_json)
        return
    if folders := [str(image) for image in images if image.is_dir()]:
        raise UsageError(
            f"{', '.join(folders)}: a folder", hint="add --out predictions.csv for a table of all its pictures"
        )
    missing = [str(image) for image in images if not image.is_file()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: there is no such file")
    classifier = load(run)
    answers = {str(image): classifier.predict(image, top) for image in images}
    if as_json:
        print(
            json.dumps(
                {name: [{"class": label, "probability": p} for label, p in top] for name, top in answers.items()}
            )
        )
        return
    for name, best in answers.items():
        print(name)
        for label, probability in best:
            print(f"  {probability:7.2%}  {label}")


def _predict_into(out: Path, classifier: Any, places: list[Path], top: int, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from groundup.runs.predictions import pictures_in, predict_into
    from groundup.tracking.terminal import is_live

    pictures = pictures_in(places)
    console = Console(stderr=True)
    with StopRequest().listening() as stop, Progress(console=console, disable=not is_live(console)) as bar:
        task = bar.add_task("predicting", total=len(pictures))
        try:
            made = predict_into(
                out,
                classifier,
                pictures,
                top=top,
                check=stop.check,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        except Interrupted as stopped:
            raise Interrupted(f"{stopped.reason}; the same command goes on with {out}", stopped.exit_code) from stopped
    if as_json:
        print(json.dumps({"table": str(made.table), "pictures": made.pictures, "bad": made.bad}))
        return
    for name, problem in made.bad.items():
        print(f"{name}: {problem}", file=sys.stderr)
    print(f"{made.pictures:,} pictures, {len(made.bad):,} of them could not be read\n{made.table}")


@app.command()
def bench(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps per input size.")] = 5,
    profile: Annotated[
        Path | None, typer.Option(help="Write a trace of two steps, which ui.perfetto.dev opens.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a recipe trains here: images/s, share of the machine's limit, where the time goes, what to change.

    Example: groundup bench digits
    """
    from groundup.recipe import load_recipe
    from groundup.runs.bench import bench
    from groundup.runs.parts import shares

    result = bench(load_recipe(recipe, overrides or []), steps, profile=profile)
    if as_json:
        print(json.dumps(result))
        return
    engine = result["engine"]
    print(f"{engine['device']}, {engine['threads']} threads, {engine['why']}")
    print(f"a {engine['precision']} matrix product runs at {result['matrix_tflops']:.3g} TFLOP/s here")
    for size in result["sizes"]:
        seconds = size["seconds"]
        print(
            f"{size['resolution']:>4} px  {size['images_per_second']:>9,.0f} images/s  {size['tflops']:.3g} TFLOP/s  "
            f"{size['mfu']:.0%} of it  step {seconds['step'] * 1e3:,.1f} ms"
        )
        print("      " + ", ".join(f"{name} {share:.1%}" for name, share in shares(seconds).items() if share >= 0.0005))
    print(f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    for line in result["advice"]:
        print(f"- {line}")
    if profile is not None:
        print(profile)


@app.command("lr-find")
def lr_find(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    start: Annotated[float, typer.Option("--from", help="Learning rate of the first step.")] = 1e-6,
    end: Annotated[float, typer.Option("--to", help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Training steps, at least 20; a divergence ends them early.")] = 100,
    out: Annotated[Path, typer.Option(help="The plot, PNG; a number is added if the file exists.")] = Path(
        "lr-find.png"
    ),
    as_json: AsJson = False,
) -> None:
    """Find a learning rate to start from: train some steps while it rises, and look where the loss falls.

    Example: groundup lr-find digits
    """
    with StopRequest().listening() as stop:
        from groundup.recipe import load_recipe
        from groundup.runs import lr_find as range_test
        from groundup.tracking import TerminalTracker

        chosen = load_recipe(recipe, overrides or [])
        range_test.check_picture(out)
        terminal = TerminalTracker()
        try:
            found = range_test.lr_find(chosen, start=start, end=end, steps=steps, stop=stop, tracker=terminal)
        finally:
            terminal.close()
        result = range_test.report(chosen, found)
        picture = range_test.draw(found, out, f"{chosen.name}: learning-rate range test", stop.check)
    if as_json:
        print(json.dumps({**result, "picture": str(picture)}))
        return
    for name, key in (
        ("steepest fall of the loss", "steepest"),
        ("one-tenth of divergence", "one_tenth_of_divergence"),
    ):
        rate = "none" if result[key] is None else f"{result[key]:.2g}"
        print(f"{name:<26} {rate:<8} {result['overrides'][key] or ''}".rstrip())
    print(f"{'lowest loss':<26} {result['lowest_at']:.2g}")
    for remark in result["remarks"]:
        print(f"note: {remark}")
    print("A starting point, not a tuned value: compare rates around it on a validation split.")
    print(picture)


@app.command()
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Run folders, sweeps, or folders that hold some, e.g. runs/.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The page, HTML, with a Markdown file beside it; a number is added if another file lies there."
        ),
    ] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Compare finished runs and sweeps: one page with ranks, intervals over seeds, what is real, curves, cost. Trains nothing.

    Example: groundup report runs/
    """
    from groundup.compare.report import write_report
    from groundup.compare.report_text import summary_lines

    document, page, table = write_report(paths, out)
    if as_json:
        print(json.dumps({**document, "page": str(page), "markdown": str(table)}))
    else:
        print("\n".join([*summary_lines(document), str(page), str(table)]))


def _seconds(text: str | None) -> float | None:
    """Seconds from `90s`, `9m`, `2h`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None:
        raise UsageError(f"--max-time {text}: write a time with its unit: 90s, 9m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


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
        print(f"stopped: {stopped.reason}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except GroundupError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
