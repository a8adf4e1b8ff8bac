"""The pictures of an evaluation that no other command draws: accuracy by corruption, and heat over an image."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.basis.pictures import GREY, PALETTE, new_figure, save_figure

_DARK = 0.45  # share of the colour scale above which a cell is written on in white


def corruption_picture(
    rows: Mapping[str, Sequence[float]], clean: float, approximate: Collection[str], path: Path, title: str
) -> None:
    """Accuracies by corruption (rows) and severity (columns) as a map of cells; `clean`: on the undamaged images, its first column.

    rows: fractions, one per severity; the names in `approximate` are marked as procedural.
    """
    names = [name.replace("_", " ") + (" (procedural)" if name in approximate else "") for name in rows]
    values = np.array(list(rows.values()))
    shown = np.concatenate([np.full((len(values), 1), clean), values, values.mean(1, keepdims=True)], axis=1)
    shown = np.concatenate([shown, shown.mean(0, keepdims=True)])
    figure = new_figure(7.6, 6.2)
    axes = figure.add_subplot()
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    heads = ["clean", *(str(number + 1) for number in range(values.shape[1])), "mean"]
    axes.set_xticks(range(len(heads)), heads, fontsize=9)
    axes.set_yticks(range(len(names) + 1), [*names, "all"], fontsize=9)
    axes.xaxis.tick_top()
    axes.set_title(f"{title}\n", fontsize=12, color=PALETTE["black"], parse_math=False)
    axes.set_xlabel("severity of generated corruptions; cells: top-1 accuracy (%)", fontsize=9.5, color=GREY)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    # Lines that set the clean images, and the means, apart from the 75 variants.
    for place in (0.5, shown.shape[1] - 1.5):
        axes.axvline(place, color="white", linewidth=5)
    axes.axhline(len(names) - 0.5, color="white", linewidth=5)
    for (row, column), share in np.ndenumerate(shown):
        colour = "white" if share > _DARK else PALETTE["black"]
        axes.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=8.5, color=colour)
    save_figure(figure, path)


def heated(images: NDArray[np.uint8], heat: NDArray[Any]) -> NDArray[np.uint8]:
    """`heat` (N, H, W) in [0, 1] in colours over the grey images (N, H, W, 3): the hotter, the less of the image is seen."""
    import matplotlib

    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    cover = 0.25 + 0.45 * heat[..., None]
    return np.asarray(((1 - cover) * grey[..., None] + cover * colours).round().clip(0, 255), dtype=np.uint8)
