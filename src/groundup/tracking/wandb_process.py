"""The process that talks to Weights & Biases for one run; `weights_and_biases.WandbTracker` starts and feeds it.

In: on the command line, where and as what to write (JSON: `folder`, `mode`, `project`, `id`, `name`); on standard input
one JSON object per line: first `{"config": {...}}`, then `{"step": n, "scalars": {name: number}}`,
`{"step": n, "picture": name, "png": base64}`, at the end `{"close": true}`. An input that ends without it was written
by a run that was killed: what has arrived is kept and marked as such (exit code 1 in Weights & Biases).
Out: exit status 0, or 1 after a last line on standard output that says what failed.
"""

import base64
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve one run. It ends at once on an error: wandb's own clean-up could wait for a service that is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to whole groups of processes; the run says when it is over
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(sys.stdin.buffer, json.loads(sys.argv[1]))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def _serve(lines: Iterable[bytes], where: dict[str, Any]) -> None:
    import wandb

    os.chdir(where["folder"])  # its records then hold "." where they would hold a path
    messages = (json.loads(line) for line in lines if line.endswith(b"\n"))  # a killed run may leave half a line
    first = next(messages, None)
    if first is None:
        return
    online = where["mode"] == "online"
    run = wandb.init(
        dir=".",
        mode=where["mode"],
        project=where["project"],
        id=where["id"],
        name=where["name"],
        config=first["config"],
        resume="allow" if online else None,  # offline the same id is enough
        settings=wandb.Settings(**_settings(wandb)),
    )
    closed = False
    for message in messages:
        if "scalars" in message:
            run.log(message["scalars"], step=message["step"])
        elif "picture" in message:
            run.log({message["picture"]: _picture(wandb, message["png"])}, step=message["step"])
        else:
            closed = True
    run.finish(exit_code=0 if closed else 1)
    # Diagnostic logs of wandb; some of its versions write paths into them.
    shutil.rmtree(Path(run.dir).parent / "logs", ignore_errors=True)


def _settings(wandb: Any) -> dict[str, Any]:
    """Nothing about the machine, nothing on the terminal, no endless waits."""
    newer = {"finish_timeout": 20.0} if "finish_timeout" in wandb.Settings.model_fields else {}
    return {
        "host": "",
        "program": "groundup",
        "console": "off",
        "silent": True,
        "symlink": False,
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "init_timeout": 60.0,
        **newer,
    }


def _picture(wandb: Any, png: str) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return wandb.Image(image)


if __name__ == "__main__":
    main()
