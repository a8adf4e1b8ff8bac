"""A folder that Hugging Face Spaces runs as it is: the demo of one or several runs, with their weights beside it.

    app.py               starts the demo on models/*
    requirements.txt     groundup with its demo extra; what groundup needs, if the Space has it
    groundup/            the package itself, if it was given as a wheel
    README.md            the Space's metadata
    models/NAME/         a publication, and its demo/ with the examples and what pictures are compared with

The folder appears whole or not at all.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from PIL import Image

from groundup.basis.errors import UsageError
from groundup.basis.files import fsync_folder
from groundup.basis.hub import is_hub
from groundup.basis.interruption import StopRequest
from groundup.runs.evaluation_file import weights_checksum
from groundup.runs.folder import RunFolder
from groundup.runs.publication import is_publication
from groundup.runs.reports.comparison import short_names
from groundup.ship.demo.facts import FOLDER, write_facts
from groundup.ship.demo.model import DemoRun, open_run
from groundup.ship.demo.page import installed_gradio
from groundup.ship.demo.wheel import Wheel, open_wheel
from groundup.ship.publish import publish
from groundup.version import __version__

_APP = '''"""Serves models/ as a web page, where GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say, else on 127.0.0.1:7860."""

import os
from pathlib import Path

from groundup.basis.interruption import StopRequest
from groundup.ship.demo.serving import DemoSettings, serve

if __name__ == "__main__":
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    models = sorted((Path(__file__).parent / "models").iterdir())
    with StopRequest().listening() as stop:
        serve(models, DemoSettings(host=host, port=port), stop)
'''
# torch's builds for processors are a tenth of those for GPUs, which a free Space does not have.
_FOR_PROCESSORS = "--extra-index-url https://download.pytorch.org/whl/cpu"
_PYTHON = "3.11"  # Spaces take 3.10 unless told otherwise, which groundup does not run on


def write_space(
    runs: Sequence[Path],
    place: Path,
    stop: StopRequest | None = None,
    say: Callable[[str], None] = lambda text: None,
    *,
    wheel: Path | None = None,
) -> Path:
    """Write the Space of `runs` to `place`, whole or not at all. wheel: of groundup, whose package comes into the Space; without
    one the Space installs the release of this version. UsageError if something lies there, or a run is not finished."""
    stop = stop or StopRequest()
    package = None if wheel is None else open_wheel(wheel)
    gradio_version = installed_gradio()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"--space {place}: exists already, and nothing is overwritten", hint="name a new folder")
    if (given := next((run for run in runs if is_hub(run) or is_publication(run)), None)) is not None:
        raise UsageError(f"{given}: a publication; a Space is made of run folders", hint="name the run folder")
    names = short_names(runs)
    place.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        building.chmod(0o755)
        with tempfile.TemporaryDirectory() as scratch:
            opened = [open_run(run, name, Path(scratch), stop, say) for run, name in zip(runs, names, strict=True)]
            for run, shown in zip(runs, opened, strict=True):
                _write_model(run, shown, building / "models" / shown.name)
        (building / "app.py").write_text(_APP)
        (building / "requirements.txt").write_text(_requirements(package))
        if package is not None:
            package.unpack(building)
        (building / "README.md").write_text(_readme(opened, gradio_version))
        if place.exists():
            place.rmdir()
        os.rename(building, place)
        fsync_folder(place.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if package is None:
        say(f"the Space installs groundup {__version__} from a package index: without a release there, give --wheel")
    return place


def _requirements(package: Wheel | None) -> str:
    wanted = ("torch", f"groundup[demo]=={__version__}") if package is None else package.requirements
    return "\n".join((_FOR_PROCESSORS, *wanted)) + "\n"


def _write_model(run: Path, shown: DemoRun, target: Path) -> None:
    publish(run, target)
    facts = shown.facts
    if facts.reference is None and not facts.examples:
        facts = replace(facts, missing=facts.missing or "it was published without its data")
    images = [Image.open(example.file) for example in facts.examples]
    write_facts(facts, images, target / FOLDER, weights_checksum(RunFolder(run)), shown.temperature)


def _readme(runs: Sequence[DemoRun], gradio_version: str) -> str:
    title = " and ".join(run.name for run in runs)
    head = {
        "title": title[:60],
        "emoji": "🖼️",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": gradio_version,
        "python_version": _PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "tags": ["image-classification", "groundup"],
    }
    rows = [f"- **{run.name}**: {run.result or 'accuracy not known'}" for run in runs]
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n\n"
        "Hand it a picture, and see its most probable classes, how sure it is, and where it looked.\n\n"
        + "\n".join(rows)
        + f"\n\nTrained from scratch with groundup {__version__}. It starts on any machine with Python 3.11 or newer: "
        "`pip install -r requirements.txt`, then `python app.py`.\n"
    )
