"""Arguments, options and words that several commands share."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, KEY=VALUE, e.g. train.epochs=3.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, e.g. runs/digits-001.", show_default=False)]
TrainedArgument = Annotated[
    str, typer.Argument(help="Run folder, published folder or hf:OWNER/NAME, e.g. runs/digits-001.", show_default=False)
]
MaxTime = Annotated[
    str | None, typer.Option(help="Stop resumably after this time, e.g. 90s, 9m, 2h.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def say(line: str) -> None:
    """Print a line of progress, which is no result, at once."""
    print(line, file=sys.stderr, flush=True)
