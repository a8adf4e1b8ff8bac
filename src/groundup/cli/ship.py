"""The commands that make a finished run public: `groundup publish`, `export`, `demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from groundup.basis.errors import UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.cli.options import AsJson, RunArgument, TrainedArgument, say


def publish(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="hf:OWNER/NAME, or a folder.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by its owner alone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List files and sizes and what would be sent; change nothing.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch of the repository, made if it is missing.", show_default=False)
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Also publish: export (what `groundup export` made).", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a finished run, with its card and weights, to the Hugging Face Hub or to a folder.

    Example: groundup publish runs/digits-001 --to hf:acme/digits --dry-run
    """
    from groundup.ship.publish import publish as send

    try:
        done = send(run, to=to, private=private, dry_run=dry_run, revision=revision, include=include or ())
    except KeyboardInterrupt:
        raise Interrupted(
            "SIGINT; nothing there was changed; the same command goes on: what has been sent is not sent twice", 130
        ) from None
    print(json.dumps(done.to_dict()) if as_json else "\n".join(done.lines()))


def export(
    run: TrainedArgument,
    to: Annotated[str, typer.Option(help="onnx, pt2 or safetensors.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Where the data lies now, KEY=VALUE, e.g. data.source=parquet:DIR.", show_default=False),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also an ONNX file in 8-bit integers, faster on a CPU.")] = False,
    images: Annotated[
        int | None, typer.Option(help="Test images to compare on; by default 256, and 2,000 for --int8.")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Training images that give --int8 its ranges of values.")
    ] = 256,
    out: Annotated[Path | None, typer.Option(help="Folder; by default RUN/export.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run as a file that works without groundup, preprocessing inside, and compare it with the run on real images.

    Example: groundup export runs/digits-001 --to onnx --int8
    """
    with StopRequest().listening() as stop:
        from groundup.ship.export.exporting import Wanted, lines_of
        from groundup.ship.export.exporting import export as write
        from groundup.tracking import TerminalTracker

        terminal = TerminalTracker()
        try:
            wanted = Wanted(to, int8, images, calibration_images, out, tuple(overrides or ()))
            done = write(run, wanted, stop, terminal.message)
        finally:
            terminal.close()
    print(json.dumps({"exports": [one.to_dict() for one in done]}) if as_json else "\n".join(lines_of(done)))


def demo(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, published folders or hf:OWNER/NAME; several are compared.", show_default=False
        ),
    ],
    port: Annotated[int, typer.Option(help="TCP port; 0: a free one.", min=0, max=65535)] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of the machine.")] = "127.0.0.1",
    share: Annotated[str, typer.Option(help="on: also a public address through Gradio's servers.")] = "off",
    space: Annotated[
        Path | None, typer.Option(help="Write a folder for Hugging Face Spaces instead.", show_default=False)
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(
            help="With --space: put groundup itself into the folder, from its wheel; else a release is installed there.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a web page, on this machine alone unless told otherwise: drop an image, see the five most probable classes.

    Example: groundup demo runs/digits-001
    """
    if share not in ("on", "off"):
        raise UsageError(f"--share {share}: unknown; allowed: on, off")
    if wheel is not None and space is None:
        raise UsageError("--wheel without --space: there is no folder to put it into", hint="add --space DIR")
    with StopRequest().listening() as stop:
        if space is not None:
            from groundup.ship.demo.space import write_space

            print(write_space([Path(run) for run in runs], space, stop, say, wheel=wheel))
            return
        from groundup.ship.demo.serving import DemoSettings, serve

        serve(runs, DemoSettings(host=host, port=port, share=share == "on"), stop, say)
