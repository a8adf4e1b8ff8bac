"""Pictures of a run as PNG files: grids of images, training curves, the confusion matrix.

Drawn with matplotlib's Agg canvas on figures of their own: no window, no pyplot, no state shared with a user's plots.
Colours are those of Okabe and Ito (Color universal design, 2008), which colour-blind readers can tell apart. Images are
uint8 (N, H, W, 3); accuracies come in as fractions and are shown in percent.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groundup.basis.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "black": "#222222",
}
SPLIT_COLOURS = {
    "train": PALETTE["blue"],
    "validation": PALETTE["orange"],
    "average_validation": PALETTE["vermilion"],
    "test": PALETTE["green"],
}
GREY = "#666666"
DPI = 110

# What a record says about the past; every other number in it is a setting that was live at that step.
_MEASURED = {"step", "epoch", "seconds", "images_per_second", "pflop", "skipped_updates"}
_LIVE_TITLES = {"lr": "learning rate", "resolution": "resolution (pixels)"}
_CELL = 112  # pixels that one image of a grid takes at least, side by side ones together
_MOST_NAMED = 120  # classes above which a confusion matrix shows no names
_LARGEST = 256  # pixels above which an image of a grid is shown smaller

Images = NDArray[np.uint8]


def new_figure(width: float, height: float, *, arranged: bool = True) -> "Figure":
    """An empty white figure of `width` x `height` inches in no window. `arranged`: panels make room for each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09) if arranged else None
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write `figure` as PNG to `path`, whole or not at all."""
    with warnings.catch_warnings(), whole_file(Path(path)) as temporary:
        # A class name in a script that the font lacks is shown as boxes; that is no news for the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=figure.dpi)


def image_grid(
    images: Images, titles: Sequence[str], path: Path, columns: int = 8, *, originals: Images | None = None
) -> None:
    """Images (N, H, W, 3) under their titles, `columns` to a row; small ones enlarged so that single pixels are seen.

    With `originals` (N, h, w, 3) each cell shows the original on the left and the image made of it on the right.
    """
    images = np.asarray(images)
    if len(images) == 0 or len(titles) != len(images) or (originals is not None and len(originals) != len(images)):
        raise ValueError(f"a grid needs images and as many titles, got {len(images)} images, {len(titles)} titles")
    shown = [_sized(image, pair=originals is not None) for image in images]
    if originals is not None:
        shown = [
            _beside(_fitted(old, new.shape[0]), new) for old, new in zip(np.asarray(originals), shown, strict=True)
        ]
    height, width = (max(cell.shape[axis] for cell in shown) for axis in (0, 1))
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    gap, title_height = 14, 20
    total_width = gap + columns * (width + gap)
    total_height = gap + rows * (height + title_height + gap)
    figure = new_figure(total_width / DPI, total_height / DPI, arranged=False)
    for index, (cell, title) in enumerate(zip(shown, titles, strict=True)):
        left = gap + index % columns * (width + gap)
        top = gap + title_height + index // columns * (height + title_height + gap)
        # Whole pixels, placed one to one: nothing is resampled a second time.
        figure.figimage(cell, left, total_height - top - cell.shape[0], origin="upper")
        figure.text(
            (left + cell.shape[1] / 2) / total_width,
            1 - (top - 5) / total_height,
            _shortened(title, width // 6),
            ha="center",
            va="bottom",
            fontsize=8,
            color=PALETTE["black"],
            parse_math=False,
        )
    save_figure(figure, path)


def training_curves(
    records: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    *,
    train_label: str = "train",
    validation_label: str = "validation",
) -> None:
    """Loss, accuracy, learning rate and every other live setting that changed, over epochs.

    records: lines of metrics.jsonl, with `epoch` and any of `train_loss`, `validation_top1`, `test_top1`, `lr` ...; a
    missing or null number is a gap. train_label: what the training curves are called ("train (mixed)" under mixing);
    validation_label: the same for the split that selects ("test (optimistic)" where that is the test split).
    """
    live = _live_settings(records)
    panels = 2 + len(live)
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    figure = new_figure(4.1 * columns, 3.1 * rows + 0.4)
    figure.suptitle(title, fontsize=13, color=PALETTE["black"], parse_math=False)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]
    labels = {
        "train": train_label,
        "validation": validation_label,
        "average_validation": f"{validation_label}, average",
    }
    _splits_panel(axes[0], records, "loss", "loss", labels)
    _splits_panel(axes[1], records, "top1", "accuracy (top-1, %)", labels)
    for panel, key in zip(axes[2:], live, strict=True):
        _dress(panel, _LIVE_TITLES.get(key, key.replace("_", " ")))
        _curve(panel, *_series(records, key), PALETTE["purple"])
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]) if key != "momentum" else None)
    save_figure(figure, path)


def confusion_picture(confusion: NDArray[np.int64], class_names: Sequence[str], path: Path, title: str = "") -> None:
    """The confusion matrix (C, C), rows are the true classes; a colour says which share of its row a cell holds.

    Up to 20 classes each cell has its count, up to 120 each class has its name; the scale is a square root, so that
    rare confusions stay visible beside the diagonal.
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(confusion)
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.0, 1.8 + 0.42 * classes), 2 + 0.14 * classes if 65 < classes <= _MOST_NAMED else 11.0)
    figure = new_figure(side + 1.2, side)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0%", "1%", "5%", "20%", "50%", "100%"], fontsize=8)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=9)
    axes.set_title(title, fontsize=12, parse_math=False)
    axes.set_xlabel("predicted", fontsize=10)
    axes.set_ylabel("true", fontsize=10)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _name_classes(axes, class_names, points=72 * (side - 2) / classes)
    if classes <= 20:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.35 else PALETTE["black"]
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=colour)
    save_figure(figure, path)


def lr_range_picture(
    lrs: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: Path,
    title: str,
    *,
    beta: float,
    steepest: float | None,
    tenth: float | None,
    diverged_at: float | None,
) -> None:
    """A learning-rate range test: the loss over the learning rate (log scale), with the suggested rates.

    lrs, losses, smoothed: one entry per step; losses that are not finite are gaps. beta: of the smoothing, for the legend.
    A suggestion that is None is not marked.
    """
    figure = new_figure(7.6, 4.8)
    axes = figure.add_subplot()
    _dress(axes, "")
    figure.suptitle(title, fontsize=13, color=PALETTE["black"], parse_math=False)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate", fontsize=10, color=GREY)
    axes.set_ylabel("training loss", fontsize=10, color=GREY)
    axes.plot(lrs, losses, color=PALETTE["sky"], linewidth=1, alpha=0.8, label="loss of each step")
    axes.plot(lrs, smoothed, color=PALETTE["blue"], linewidth=2.2, label=f"smoothed (beta {beta:g})")
    for rate, colour, name in (
        (steepest, PALETTE["vermilion"], "steepest fall"),
        (tenth, PALETTE["green"], "one-tenth of divergence"),
    ):
        if rate is not None and rate >= lrs[0]:
            height = float(np.interp(math.log(rate), np.log(lrs), smoothed))
            axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", zorder=1)
            label = f"{name}: {rate:.2g}"
            # A line of one point: the legend shows the dashes and the dot.
            (dot,) = axes.plot([rate], [height], "o--", color=colour, linewidth=1.2, zorder=5, label=label)
            dot.set(markersize=8, markeredgecolor="white")
    if diverged_at is not None:
        axes.axvline(diverged_at, color=GREY, linewidth=1.2, linestyle=":", label=f"diverged: {diverged_at:.2g}")
    axes.set_ylim(*_loss_limits(losses, smoothed))
    axes.legend(frameon=False, fontsize=9.5, loc="lower left")
    save_figure(figure, path)


def _loss_limits(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Limits that show where the loss begins and how it falls; of an explosion, only that there is one."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    first = smoothed[min(10, len(smoothed) - 1)]
    lowest, span = min(finite), max(first - min(finite), 0.1 * first, 1e-6)
    return lowest - 0.06 * span, min(max(finite), first + 0.6 * span) + 0.06 * span


def _splits_panel(
    axes: "Axes", records: Sequence[Mapping[str, Any]], metric: str, title: str, labels: Mapping[str, str]
) -> None:
    _dress(axes, title)
    percent = metric == "top1"
    for split, colour in SPLIT_COLOURS.items():
        epochs, values = _series(records, f"{split}_{metric}")
        if epochs:
            values = [100 * value for value in values] if percent else values
            last = next(value for value in reversed(values) if math.isfinite(value))
            _curve(
                axes,
                epochs,
                values,
                colour,
                f"{labels.get(split, split)}: {last:{'.1f' if percent else '.3f'}}{'%' * percent}",
            )
    if axes.lines:
        axes.legend(frameon=False, fontsize=9, loc="lower right" if percent else "upper right")
    else:
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=9)
        axes.set_yticks([])


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of `key` where a record has it, NaN for null; nothing if no value is finite."""
    pairs = [(record["epoch"], record[key]) for record in records if key in record]
    epochs, values = [pair[0] for pair in pairs], [math.nan if pair[1] is None else pair[1] for pair in pairs]
    return (epochs, values) if any(map(math.isfinite, values)) else ([], [])


def _live_settings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The learning rate first, then every other setting in the records whose value changed."""
    seen: dict[str, set[float]] = {"lr": set()}
    for record in records:
        for key, value in record.items():
            measured = key in _MEASURED or key.rpartition("_")[0] in SPLIT_COLOURS
            if not measured and isinstance(value, int | float) and not isinstance(value, bool):
                seen.setdefault(key, set()).add(value)
    return [key for key, values in seen.items() if key == "lr" or len(values) > 1]


def _curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], colour: str, label: str | None = None
) -> None:
    marker = "o" if len(epochs) <= 30 else ""  # a single evaluation must be seen too
    style = "steps-post" if all(float(value).is_integer() for value in values) else "default"  # such as a resolution
    axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=label, drawstyle=style)


def _dress(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left", color=PALETTE["black"])
    axes.set_xlabel("epoch", fontsize=9, color=GREY)
    axes.tick_params(labelsize=8.5, colors=GREY, length=3)
    axes.grid(True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#BBBBBB")


def _name_classes(axes: "Axes", class_names: Sequence[str], *, points: float) -> None:
    """Label both axes; a cell is `points` wide (1/72 inch)."""
    classes = len(class_names)
    if classes > _MOST_NAMED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    size = min(9.0, 0.75 * points)
    names = [_shortened(name, 18) for name in class_names]
    axes.set_xticks(range(classes), names, rotation=90 if classes > 6 else 0, fontsize=size, parse_math=False)
    axes.set_yticks(range(classes), names, fontsize=size, parse_math=False)


def _sized(image: Images, *, pair: bool) -> Images:
    """The image enlarged by a whole factor (every pixel a square), or reduced if it is large."""
    longest = max(image.shape[:2])
    factor = max(1, round(_CELL * (0.75 if pair else 1) / longest))
    if factor > 1:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    return _resized(image, _LARGEST / longest) if longest > _LARGEST else image


def _fitted(image: Images, height: int) -> Images:
    """The image at `height` pixels: by a whole factor where that is possible, otherwise resampled."""
    factor, rest = divmod(height, image.shape[0])
    if rest == 0:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    return _resized(image, height / image.shape[0])


def _resized(image: Images, factor: float) -> Images:
    from PIL import Image

    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _beside(left: Images, right: Images) -> Images:
    return np.concatenate([left, np.full((left.shape[0], 3, 3), 255, np.uint8), right], axis=1)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(1, length - 1)] + "…"
