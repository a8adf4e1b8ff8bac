"""evaluation.json: everything that was measured about a finished run, in one file. Later evaluations add to it.

    {"format", "groundup", "weights": SHA-256 of the evaluated weights, "sections": {section: {view: facts}}}

A view is a split with its test-time augmentation, such as `test` or `test-flip`. Where a section can be measured on several inputs
(2,000 images or all of them, this set of corrupted images or that one, compared with these runs or those), the input is part of
the view: `test: 2000 images`. So an evaluation never takes the place of one of something else. Facts about other weights than
the run reports now are not read.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from groundup.basis.errors import GroundupError
from groundup.basis.files import sha256, write_text
from groundup.runs.folder import RunFolder
from groundup.runs.publication import is_publication, small_text
from groundup.runs.reported import chosen_checkpoint, reported_weights
from groundup.version import __version__

FORMAT_VERSION = 1
NAME = "evaluation.json"

Sections = dict[str, dict[str, dict[str, Any]]]
"""Section -> view -> facts."""


def view_of(split_and_tta: str, measured_on: str) -> str:
    """The view of facts; `measured_on`: the input, empty where split and augmentation say it all."""
    return f"{split_and_tta}: {measured_on}" if measured_on else split_and_tta


def without_input(view: str) -> str:
    """The split with its test-time augmentation that a view is of."""
    return view.partition(": ")[0]


def fullest(sections: Mapping[str, Any], section: str, split_and_tta: str = "test") -> dict[str, Any] | None:
    """Of what a section holds about a split, the facts on the most images; None if it holds nothing."""
    views = sections.get(section) or {}
    found = [facts for view, facts in views.items() if without_input(view) == split_and_tta]
    return max(found, key=lambda facts: facts.get("images") or 0, default=None)


def read_sections(folder: RunFolder) -> Sections:
    """What is known about the weights that the run reports; nothing without a file, or from one of another format."""
    try:
        return sections_in(small_text(folder.path / NAME), weights_checksum(folder)) or {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, GroundupError):
        return {}


def sections_in(text: str, weights: str) -> Sections | None:
    """What the file's `text` says of the weights with this SHA-256; nothing if it speaks of others, None if it is no such file."""
    try:
        document = json.loads(text)
        sections: Sections = document["sections"]
        if document["format"] != FORMAT_VERSION or not _are_sections(sections):
            return None
        return sections if document["weights"] == weights else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _are_sections(values: Any) -> bool:
    views = values.values() if isinstance(values, dict) else [None]
    return all(isinstance(view, dict) and all(isinstance(facts, dict) for facts in view.values()) for view in views)


def text_of(sections: Sections, weights: str) -> str:
    """The text of the file. `weights`: the SHA-256 of the weights that it speaks of."""
    head = {"format": FORMAT_VERSION, "groundup": __version__, "weights": weights}
    return json.dumps({**head, "sections": sections}, indent=2, allow_nan=False) + "\n"


def require_known_format(folder: RunFolder) -> None:
    """GroundupError if the file is of a newer format: what it holds would be lost by writing this one."""
    try:
        found = json.loads(small_text(folder.path / NAME))["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, GroundupError):
        return
    if isinstance(found, int) and found > FORMAT_VERSION:
        raise GroundupError(
            f"{folder.path / NAME}: has format {found}, written by a newer groundup; this one writes up to {FORMAT_VERSION}",
            hint="evaluate with that groundup, or move the file away",
        )


@contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """Held from reading the file to writing it, so that two evaluations of one run at the same moment lose nothing."""
    from filelock import FileLock

    with FileLock(folder.path / ".evaluation.lock"):
        yield


def fitted_temperature(folder: RunFolder) -> float | None:
    """The temperature of the reported weights, as `groundup evaluate --calibration` fitted it on validation; None without
    one. One that was fitted for test-time augmentation is not taken: exports and demos look at an image once."""
    sections = read_sections(folder)
    try:
        found = [fullest(sections, "calibration", split) for split in ("test", "validation", "train")]
        fitted = [float(facts["temperature"]) for facts in found if facts and facts["temperature"] is not None]
    except (AttributeError, KeyError, TypeError, ValueError):  # a publication's file may hold anything
        return None
    return next((value for value in fitted if 0 < value < math.inf), None)


def write_sections(folder: RunFolder, sections: Sections) -> None:
    """Write the file, whole or not at all."""
    write_text(folder.path / NAME, text_of(sections, weights_checksum(folder)))


def weights_checksum(folder: RunFolder) -> str:
    """The SHA-256 of the weights that the run reports."""
    name = reported_weights(folder)
    if is_publication(folder.path):
        return sha256(folder.path / name)
    checkpoint = chosen_checkpoint(folder, folder.recipe(), name)
    return str(json.loads((checkpoint / "checksums.json").read_text())[name])
