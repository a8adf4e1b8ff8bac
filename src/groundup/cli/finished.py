"""The commands that ask a finished run: `groundup evaluate`, `predict`, `report`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.basis.errors import UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.cli.options import AsJson, TrainedArgument


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, e.g. runs/digits-001, published folders or hf:OWNER/NAME.", show_default=False
        ),
    ],
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
    image: Annotated[
        list[int] | None,
        typer.Option(
            help="An image of the split by its number, as --mistakes counts: the answer, and where it looked. May be repeated.",
            show_default=False,
        ),
    ] = None,
    generalisation: Annotated[
        bool, typer.Option("--generalisation", help="Gaps between train, validation and test.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="What new batch-norm statistics would do; changes no weights.")
    ] = False,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Ask several runs together.")] = False,
    temperature_from: Annotated[
        Path | None,
        typer.Option(
            help="For --calibration of a run without a validation split: a run of the same recipe that has one.",
            show_default=False,
        ),
    ] = None,
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
                runs,
                Wanted(tta, split, sections, full, corrupted, ensemble, temperature_from, tuple(image or ())),
                stop,
                terminal.message,
            )
        finally:
            terminal.close()
    print(json.dumps(json_of(reports)) if as_json else "\n".join(text_of(reports)))


def predict(
    run: TrainedArgument,
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
    """The most probable classes of each picture, by name. Status 1 if some could not be read; the others are answered.

    Example: groundup predict runs/digits-001 photo.png
    Example: groundup predict runs/digits-001 photos/ --out predictions.csv
    """
    from groundup.data import UnreadableImage
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
    answers, bad = {}, {}
    for image in images:
        try:
            answers[str(image)] = classifier.predict(image, top)
        except UnreadableImage as error:
            bad[str(image)] = error.reason
            print(f"error: {error}", file=sys.stderr)
    if as_json:
        found = {name: [{"class": label, "probability": p} for label, p in best] for name, best in answers.items()}
        print(json.dumps({"temperature": classifier.temperature, "answers": found, "bad": bad}))
    else:
        for name, best in answers.items():
            print(name)
            for label, probability in best:
                print(f"  {probability:7.2%}  {label}")
    if bad:
        raise typer.Exit(1)


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
        found = {"table": str(made.table), "pictures": made.pictures, "bad": made.bad}
        print(json.dumps({**found, "temperature": classifier.temperature}))
        return
    for name, problem in made.bad.items():
        print(f"{name}: {problem}", file=sys.stderr)
    print(f"{made.pictures:,} pictures, {len(made.bad):,} of them could not be read\n{made.table}")


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
    from groundup.compare.report.text import summary_lines
    from groundup.compare.report.writing import write_report

    document, page, table = write_report(paths, out)
    if as_json:
        print(json.dumps({**document, "page": str(page), "markdown": str(table)}))
    else:
        print("\n".join([*summary_lines(document), str(page), str(table)]))
