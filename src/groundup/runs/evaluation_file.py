"""evaluation.json: everything that was measured about a finished run, in one file. Later evaluations add to it.

    {"format", "groundup", "weights": SHA-256 of the evaluated weights, "sections": {section: {view: facts}}}

A view is a split with its test-time augmentation, such as `test` or `test-flip`. Facts about other weights than the run
reports now are not read.
"""

import json
from typing import Any

from groundup.basis.errors import GroundupError
from groundup.basis.files import write_json
from groundup.runs.folder import RunFolder
from groundup.runs.load import chosen_checkpoint, reported_weights
from groundup.version import __version__

FORMAT_VERSION = 1
NAME = "evaluation.json"

Sections = dict[str, dict[str, dict[str, Any]]]
"""Section -> view -> facts."""


def read_sections(folder: RunFolder) -> Sections:
    """What is known about the weights that the run reports; nothing without a file, or from one of another format."""
    try:
        document = json.loads((folder.path / NAME).read_text(encoding="utf-8"))
        known = document["format"] == FORMAT_VERSION and document["weights"] == _checksum(folder)
        return document["sections"] if known else {}
    except (OSError, ValueError, KeyError, TypeError, GroundupError):
        return {}


def write_sections(folder: RunFolder, sections: Sections) -> None:
    """Write the file, whole or not at all."""
    head = {"format": FORMAT_VERSION, "groundup": __version__, "weights": _checksum(folder)}
    write_json(folder.path / NAME, {**head, "sections": sections})


def _checksum(folder: RunFolder) -> str:
    name = reported_weights(folder)
    checkpoint = chosen_checkpoint(folder, folder.recipe(), name)
    return str(json.loads((checkpoint / "checksums.json").read_text())[name])
