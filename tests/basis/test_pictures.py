"""Pictures of a run: whole files, exact pixels, curves of what the records say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from groundup.basis.pictures import (
    PALETTE,
    confusion_picture,
    image_grid,
    lr_range_picture,
    new_figure,
    save_figure,
    training_curves,
)

RECORDS: list[dict[str, Any]] = [
    {"step": 10, "epoch": 1.0, "lr": 0.1, "momentum": 0.9, "train_loss": 2.0, "train_top1": 0.25, "seconds": 3.0},
    {"step": 20, "epoch": 2.0, "lr": 0.3, "momentum": 0.9, "train_loss": None, "validation_top1": 0.5, "seconds": 6.0},
    {"step": 30, "epoch": 3.0, "lr": 0.1, "momentum": 0.9, "train_loss": 1.0, "train_top1": 0.75, "test_top1": 0.7312},
]


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_every_pixel_of_a_small_image_becomes_a_whole_square(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image_grid(image[None], ["4"], tmp_path / "grid.png")
    enlarged = image.repeat(14, axis=0).repeat(14, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels(tmp_path / "grid.png"), enlarged.shape)
    assert any(np.array_equal(window, enlarged) for row in windows[:, :, 0] for window in row)


def test_each_image_stands_in_its_own_column_and_row(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 32, 32, 3))
    image_grid(images, ["red", "green", "blue"], tmp_path / "grid.png", columns=2)
    shown = pixels(tmp_path / "grid.png")
    red, green, blue = (np.argwhere((shown == colour).all(-1)).mean(0) for colour in colours)
    assert red[0] == green[0] < blue[0]
    assert red[1] == blue[1] < green[1]


def test_originals_stand_to_the_left_of_what_was_made_of_them(tmp_path: Path) -> None:
    originals = np.full((2, 24, 24, 3), (255, 0, 0), np.uint8)
    augmented = np.full((2, 32, 32, 3), (0, 0, 255), np.uint8)
    image_grid(augmented, ["a", "b"], tmp_path / "pairs.png", columns=1, originals=originals)
    shown = pixels(tmp_path / "pairs.png")
    red = np.argwhere((shown == (255, 0, 0)).all(-1))
    blue = np.argwhere((shown == (0, 0, 255)).all(-1))
    assert red[:, 1].max() < blue[:, 1].min()
    assert len(red) == len(blue)


def test_large_images_are_shown_smaller_in_their_own_proportions(tmp_path: Path) -> None:
    image_grid(np.full((1, 1024, 512, 3), (255, 0, 0), np.uint8), ["tall"], tmp_path / "grid.png")
    red = np.argwhere((pixels(tmp_path / "grid.png") == (255, 0, 0)).all(-1))
    assert tuple(np.ptp(red, axis=0) + 1) == (256, 128)


@pytest.mark.parametrize("name", ["price $5 and $6", r"$\broken{$", "海", "a_very_long_class_name_that_goes_on_and_on"])
def test_any_class_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    image_grid(np.zeros((1, 8, 8, 3), np.uint8), [name], tmp_path / "grid.png")
    confusion_picture(np.eye(2, dtype=np.int64), [name, "other"], tmp_path / "confusion.png", title=name)
    training_curves(RECORDS, tmp_path / "curves.png", name)
    assert all((tmp_path / file).stat().st_size > 1000 for file in ("grid.png", "confusion.png", "curves.png"))


def test_a_grid_with_a_missing_title_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 2 images, 1 titles"):
        image_grid(np.zeros((2, 8, 8, 3), np.uint8), ["one"], tmp_path / "grid.png")


def shown_panels(monkeypatch: pytest.MonkeyPatch, records: list[dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """The panels of the training curves by title, taken as the figure is saved."""
    figures: list[Any] = []
    monkeypatch.setattr("groundup.basis.pictures.save_figure", lambda figure, path: figures.append(figure))
    training_curves(records, tmp_path / "curves.png", "digits")
    return {axes.get_title(loc="left"): axes for axes in figures[0].axes}


def test_curves_show_percent_gaps_and_the_last_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    panels = shown_panels(monkeypatch, RECORDS, tmp_path)
    assert list(panels) == ["loss", "accuracy (top-1, %)", "learning rate"]
    accuracy = {line.get_label(): line.get_ydata().tolist() for line in panels["accuracy (top-1, %)"].lines}
    assert accuracy == {"train: 75.0%": [25, 75], "validation: 50.0%": [50], "test: 73.1%": [pytest.approx(73.12)]}
    (loss,) = panels["loss"].lines
    np.testing.assert_array_equal(loss.get_ydata(), [2.0, np.nan, 1.0])
    assert panels["learning rate"].lines[0].get_ydata().tolist() == [0.1, 0.3, 0.1]


def test_a_live_setting_gets_a_panel_once_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records = [record | {"resolution": size, "pflop": size} for record, size in zip(RECORDS, (20, 24, 32), strict=True)]
    panels = shown_panels(monkeypatch, records, tmp_path)
    assert list(panels)[2:] == ["learning rate", "resolution (pixels)"]
    assert panels["resolution (pixels)"].lines[0].get_drawstyle() == "steps-post"


def test_curves_of_a_run_without_evaluations_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    panels = shown_panels(monkeypatch, [], tmp_path)
    assert panels["loss"].texts[0].get_text() == "nothing measured yet"


def test_the_curves_are_a_picture_on_disk(tmp_path: Path) -> None:
    training_curves(RECORDS, tmp_path / "deep" / "curves.png", "digits")
    height, width, _ = pixels(tmp_path / "deep" / "curves.png").shape
    assert width > 2 * height > 500
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["curves.png"]


def test_the_confusion_matrix_has_true_classes_in_rows(tmp_path: Path) -> None:
    confusion_picture(np.array([[8, 2], [0, 0]]), ["cat", "dog"], tmp_path / "confusion.png")
    shown = pixels(tmp_path / "confusion.png")
    height, width, _ = shown.shape
    top, bottom = shown[height // 4, : width * 3 // 4], shown[height * 5 // 8, : width * 3 // 4]
    assert top.min() < 60  # the dark cell of cats taken for cats
    assert bottom[width // 4 :].min() > 200  # nothing was a dog


def test_many_classes_are_drawn_without_names(tmp_path: Path) -> None:
    confusion_picture(np.eye(300, dtype=np.int64), [str(index) for index in range(300)], tmp_path / "confusion.png")
    assert pixels(tmp_path / "confusion.png").shape[0] < 1400


def test_a_failed_save_leaves_the_older_picture(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"older")
    figure = new_figure(2, 2)
    figure.text(0.5, 0.5, r"$\broken{$")
    with pytest.raises(ValueError, match="broken"):
        save_figure(figure, path)
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_pyplot_is_never_loaded_and_the_module_alone_loads_no_matplotlib(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from groundup.basis.pictures import training_curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        "training_curves([], Path(sys.argv[1]), 'empty')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "curves.png")], check=True)


def test_a_range_test_shows_its_curves_and_marks_each_suggestion_at_its_rate(tmp_path: Path) -> None:
    lrs = np.geomspace(1e-4, 1, 50).tolist()
    losses = [*np.linspace(2.0, 1.0, 49), float("nan")]

    def columns(colour: str, **marks: float | None) -> NDArray[np.int64]:
        marked = {"steepest": None, "tenth": None, "diverged_at": None} | marks
        lr_range_picture(lrs, losses, losses, tmp_path / "range.png", "range test", beta=0.8, **marked)
        wanted = [int(PALETTE[colour][place : place + 2], 16) for place in (1, 3, 5)]
        found = (np.abs(pixels(tmp_path / "range.png").astype(int) - wanted) < 60).all(-1)  # thin lines are blended
        return np.flatnonzero(found[: len(found) // 2].any(0))  # the legend is in the lower half

    assert len(columns("blue")) > 100
    assert len(columns("vermilion")) == len(columns("green")) == 0
    low, high = (columns("vermilion", steepest=rate) for rate in (1e-3, 1e-1))
    middle = columns("green", tenth=1e-2)
    # The axis is logarithmic: the middle of two rates is their geometric mean.
    assert np.median(middle) == pytest.approx((np.median(low) + np.median(high)) / 2, abs=2)
    assert columns("vermilion", steepest=1e-3, diverged_at=1.0).size > 0
