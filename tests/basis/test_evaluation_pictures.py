"""The reliability diagram: a whole file that shows every curve in its colour."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundup.basis.evaluation_pictures import reliability_picture
from groundup.basis.pictures import PALETTE


@dataclass(frozen=True)
class Part:
    low: float
    high: float
    confidence: float
    accuracy: float
    count: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    bins: tuple[Part, ...]
    bins_equal_width: tuple[Part, ...]
    ece_equal_mass: float


def curve(shift: float) -> Curve:
    parts = tuple(
        Part(low, low + 0.2, low + 0.1, low + 0.1 - shift, 10, (low, min(1.0, low + 0.2)))
        for low in (0.2, 0.4, 0.6, 0.8)
    )
    return Curve(parts, parts, shift)


def shows(path: Path, colour: str) -> bool:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    wanted = [int(PALETTE[colour][start : start + 2], 16) for start in (1, 3, 5)]
    return bool((np.abs(pixels - wanted).max(-1) <= 3).sum() > 50)


def test_every_curve_is_drawn_in_its_own_colour(tmp_path: Path) -> None:
    one, both = tmp_path / "one.png", tmp_path / "both.png"
    reliability_picture({"as trained": curve(0.1)}, one)
    reliability_picture({"as trained": curve(0.1), "temperature 1.4": curve(0.0)}, both, "test split")
    assert (shows(one, "orange"), shows(one, "blue")) == (True, False)
    assert (shows(both, "orange"), shows(both, "blue")) == (True, True)


def test_a_network_that_was_always_right_and_always_sure_can_be_drawn(tmp_path: Path) -> None:
    sure = (Part(1.0, 1.0, 1.0, 1.0, 50, (0.93, 1.0)),)
    reliability_picture({"as trained": Curve(sure, sure, 0.0)}, tmp_path / "sure.png")
    assert shows(tmp_path / "sure.png", "orange")


def test_a_diagram_needs_a_curve(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0"):
        reliability_picture({}, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []
