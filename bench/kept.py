"""What every measurement ends with: its result as JSON, on the terminal and, where a file is named, kept there."""

import json
from pathlib import Path
from typing import Any

from groundup.basis.files import write_json


def keep(result: dict[str, Any], out: Path | None) -> None:
    """Print `result`; write it to `out`, whole or not at all."""
    print(json.dumps(result, indent=2))
    if out is not None:
        write_json(out, result)
