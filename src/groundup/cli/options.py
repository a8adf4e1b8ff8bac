"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides, KEY=VALUE, e.g. train.epochs=3.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, e.g. runs/digits-001.", show_default=False)]
MaxTime = Annotated[
    str | None, typer.Option(help="Stop resumably after this time, e.g. 90s, 9m, 2h.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
