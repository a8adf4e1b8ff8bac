"""What it costs to turn photographs into training images, on one core: decoder against decoder, and against what a notebook does.

The photographs are made from real ones of 224 x 224 px (Imagenette as Parquet), 500 x 375 px, JPEG of quality 90, in memory:
`enlarged` is one of them enlarged, with less detail than a camera's picture (about 40 kB); `mosaic` is four of them reduced
side by side, with more (about 60 kB). Decoding takes longer the more detail there is; ImageNet's own files are about twice as
large still, so there a decoder's share is larger and the share of all that is saved around it smaller.

The notebook: Pillow, whole image to RGB, random window, resize, flip, float tensor, normalise, image by image, then one batch.
Ours: a window of the same distribution cut while decoding, uint8, the rest (flip, float, normalise) on the device for a whole
batch. `ratio` compares that with the notebook, as beside a GPU; `ratio_with_device_work` adds the batched rest on the same core.
`packed`: ours from images that `groundup data pack --resolution 256` has made of them before.
All contestants take turns in one process, with one thread, in another order in every round; ratios are taken round by round, of
the process's CPU time, so that other work on the machine disturbs them little. OpenCV and PyTurboJPEG take part if installed.

`workers`: batches from the loader with threads, and from torch's DataLoader with processes that do the same work; images per
second by the clock on the wall, of which on a shared machine only the order of magnitude counts. `python_ms`: time per image that
is neither decoding nor resizing, mostly with Python's lock held; 1 / `python_ms` images per ms is the most that threads can do.

    python bench/decode.py [parquet:PATH] [--rounds 15] [--images 64] [--out bench/results/decode.json]

Without a source the small photographs are generated: waves of colour with noise. Ratios then are those of such images.
"""

import argparse
import io
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import pictures
from kept import keep
from PIL import Image
from torch import Tensor

from groundup import augment
from groundup.augment.random_resized_crop import RandomResizedCrop
from groundup.data import DOORS, DataSettings, DecodingLoader, ImageSet, SourceImages, Upcoming
from groundup.data.pack_files import encoded as packed
from groundup.data.pixels import crops
from groundup.data.pixels.crops import Opened, cut, open_image
from groundup.data.sources import Source, SourceSplit
from groundup.runs.folder import environment

WIDTH, HEIGHT, QUALITY, PACKED_SIDE = 500, 375, 90, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = RandomResizedCrop(name="random_resized_crop")
Work = Callable[[list[bytes], int, int], Any]  # photographs, side in px, number of the round


def small_photographs(source: str | None, count: int) -> list[Image.Image]:
    if source is None:
        return [Image.fromarray(pixels) for pixels in pictures(count, 224).permute(0, 2, 3, 1).numpy()]
    split = DOORS["parquet"](DataSettings(source=source, label="label"), lambda: None).read().splits["train"]
    places = np.random.default_rng(0).choice(len(split), count, replace=False)
    return [Image.open(io.BytesIO(raw)).convert("RGB") for raw in split.at(places)]  # type: ignore[arg-type]


def photographs(source: str | None, count: int) -> dict[str, list[bytes]]:
    small = small_photographs(source, 4 * count)
    enlarged = [image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for image in small[:count]]
    mosaics = []
    for first in range(0, 4 * count, 4):
        page = Image.new("RGB", (WIDTH, HEIGHT))
        for place in range(4):
            corner = (place % 2 * WIDTH // 2, place // 2 * HEIGHT // 2)
            page.paste(small[first + place].resize((WIDTH // 2, HEIGHT // 2 + 1), Image.Resampling.BICUBIC), corner)
        mosaics.append(page)
    return {"enlarged": [encoded(image) for image in enlarged], "mosaic": [encoded(image) for image in mosaics]}


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def notebook(raw: list[bytes], side: int, round_: int) -> Tensor:
    """As a notebook's data set does it, image by image."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    draws, made = random.Random(round_), []
    for content in raw:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        top, left, height, width = one_window(draws, image.height, image.width)
        image = image.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)
        if draws.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        made.append(pixels.sub_(mean).div_(std))
    return torch.stack(made)


def one_window(draws: random.Random, height: int, width: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * draws.uniform(*CROP.scale)
        shape = np.exp(draws.uniform(np.log(CROP.ratio[0]), np.log(CROP.ratio[1])))
        wide, tall = round(float(np.sqrt(area * shape))), round(float(np.sqrt(area / shape)))
        if 0 < wide <= width and 0 < tall <= height:
            return draws.randint(0, height - tall), draws.randint(0, width - wide), tall, wide
    return 0, 0, height, width


def ours(opener: Callable[[bytes], Opened]) -> Work:
    def work(raw: list[bytes], side: int, round_: int) -> Tensor:
        batch = torch.empty((len(raw), side, side, 3), dtype=torch.uint8)
        opened = [opener(content) for content in raw]
        sizes = torch.tensor([(image.height, image.width) for image in opened])
        drawn = CROP.windows(sizes, torch.arange(len(raw)), round_, 0).tolist()
        for place, (image, window) in enumerate(zip(opened, drawn, strict=True)):
            batch[place] = cut(image, tuple(window), side)
        return batch.permute(0, 3, 1, 2)

    return work


def pillow_alone(raw: list[bytes], side: int, round_: int) -> Tensor:
    """As ours with Pillow, resizing with Pillow too, from the window's exact place."""
    made = []
    sizes = torch.tensor([(HEIGHT, WIDTH)]).expand(len(raw), 2)
    for content, window in zip(raw, CROP.windows(sizes, torch.arange(len(raw)), round_, 0).tolist(), strict=True):
        top, left, height, width = window
        image = Image.open(io.BytesIO(content))
        factor = next((factor for factor in (8, 4, 2) if min(height, width) >= factor * side), 1)
        image.draft("RGB", (image.width // factor, image.height // factor))
        box = (left / factor, top / factor, (left + width) / factor, (top + height) / factor)
        made.append(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def opencv() -> Callable[[bytes], Opened]:
    import cv2

    scales = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    scales[8] = cv2.IMREAD_REDUCED_COLOR_8

    def opener(raw: bytes) -> Opened:
        def pixels(factor: int) -> np.ndarray:
            found: np.ndarray = cv2.imdecode(np.frombuffer(raw, np.uint8), scales[factor])
            return found if factor == 1 else np.ascontiguousarray(found[:, :, ::-1])

        return Opened(HEIGHT, WIDTH, pixels, reducible=True)

    return opener


def turbojpeg() -> Callable[[bytes], Opened]:
    from turbojpeg import TJPF_RGB, TurboJPEG

    library = TurboJPEG()

    def opener(raw: bytes) -> Opened:
        def pixels(factor: int) -> np.ndarray:
            found: np.ndarray = library.decode(raw, pixel_format=TJPF_RGB, scaling_factor=(1, factor))
            return found

        width, height, *_ = library.decode_header(raw)
        return Opened(height, width, pixels, reducible=True)

    return opener


def contestants() -> tuple[dict[str, Work], list[str]]:
    """Those that can take part, and the names of those that are not installed."""
    found: dict[str, Work] = {
        "pillow": ours(lambda raw: open_image(raw, fast=False)),
        "pillow, resize by pillow": pillow_alone,
    }
    absent = [] if crops._simplejpeg() else ["simplejpeg"]
    if not absent:
        found["simplejpeg"] = ours(open_image)
    for name, make in (("opencv", opencv), ("pyturbojpeg", turbojpeg)):
        try:
            found[name] = ours(make())
        except (ImportError, RuntimeError):
            absent.append(name)
    return found, absent


def rest_on_device(images: Tensor, round_: int) -> Tensor:
    """Flip and normalise, batched: what is left of the notebook's transforms."""
    flip = augment.OPERATIONS["flip"].model_validate({"name": "flip"})
    batch = augment.Batch(torch.arange(len(images)), round_, 0, images.shape[-1], MEAN, images.device)
    return augment.normalize(augment.augment([flip], images, batch, round_), MEAN, STD)  # type: ignore[list-item]


def cost(call: Callable[[], Any], images: int) -> tuple[float, Any]:
    """CPU time in ms per image, and the result."""
    started = time.process_time()
    result = call()
    return (time.process_time() - started) * 1e3 / images, result


def as_packed(raw: list[bytes]) -> list[bytes]:
    """As `groundup data pack --resolution 256` writes them."""
    return [packed(content, "photograph", PACKED_SIDE, QUALITY)[0] for content in raw]


def compared(raw: list[bytes], side: int, rounds: int) -> dict[str, Any]:
    works: dict[str, Work] = {"notebook": notebook, **contestants()[0], "packed": ours(open_image)}
    smaller = as_packed(raw)
    names = list(works)
    taken: dict[str, list[float]] = {name: [] for name in names}
    rest: list[float] = []
    for round_ in range(rounds + 1):  # the first one warms up
        order = names[round_ % len(names) :] + names[: round_ % len(names)]
        for name in order:
            given = smaller if name == "packed" else raw
            spent, images = cost(partial(works[name], given, side, round_), len(raw))
            if round_:
                taken[name].append(spent)
            if name == "pillow" and round_:
                rest.append(cost(partial(rest_on_device, images, round_), len(raw))[0])
    return {
        name: {
            "ms": statistics.median(taken[name]),
            **({} if name == "notebook" else ratios(taken["notebook"], taken[name], rest)),
        }
        for name in names
    } | {"device work": {"ms": statistics.median(rest)}}


def ratios(notebook: list[float], ours: list[float], rest: list[float]) -> dict[str, Any]:
    alone = [theirs / own for theirs, own in zip(notebook, ours, strict=True)]
    with_rest = [theirs / (own + more) for theirs, own, more in zip(notebook, ours, rest, strict=True)]
    quarters = statistics.quantiles(alone, n=4)
    return {
        "ratio": statistics.median(alone),
        "ratio_quarters": [quarters[0], quarters[2]],
        "ratio_with_device_work": statistics.median(with_rest),
    }


def python_ms(raw: list[bytes], side: int) -> float:
    """Time per image with the decoder and the resize taken out, the least of five."""
    pixels, small = np.zeros((HEIGHT, WIDTH, 3), np.uint8), torch.zeros((side, side, 3), dtype=torch.uint8)
    resize = crops.resized
    crops.resized = lambda *_: small
    try:
        work = ours(lambda content: Opened(*sides(open_image(content)), lambda factor: pixels, reducible=True))
        return min(cost(lambda: work(raw, side, 0), len(raw))[0] for _ in range(5))
    finally:
        crops.resized = resize


def sides(image: Opened) -> tuple[int, int]:
    return image.height, image.width


class Dataset(torch.utils.data.Dataset[Tensor]):
    """Whole batches as items, so that a process does what a thread does."""

    def __init__(self, raw: list[bytes], side: int, batches: int) -> None:
        self._raw, self._side, self._batches = raw, side, batches
        self._work = ours(open_image)

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, place: int) -> Tensor:
        torch.set_num_threads(1)
        return self._work(self._raw, self._side, place)


def by_threads(raw: list[bytes], side: int, workers: int, batches: int) -> None:
    labels = np.zeros(len(raw), dtype=np.int64)
    split = SourceSplit(labels, lambda: iter(raw), str, lambda places: [raw[place] for place in places])
    settings = DataSettings(source="folder:x", resolution=side, cache="none")
    source = SourceImages(Source("", lambda: sys.exit()), split, np.arange(len(raw)), settings, (side, side, 3))
    images = ImageSet(source, labels, np.arange(len(raw)))
    every = np.arange(len(raw))

    def upcoming(step: int) -> Upcoming:
        return Upcoming(step, side, (every,), lambda sizes, indices, epoch: CROP.windows(sizes, indices, epoch, 0))

    loader = DecodingLoader(images, "cpu", upcoming, total_steps=batches, workers=workers)
    for step in range(batches):
        loader.training(torch.from_numpy(every), step)
    loader.close()


def by_processes(raw: list[bytes], side: int, workers: int, batches: int) -> None:
    for _ in torch.utils.data.DataLoader(Dataset(raw, side, batches), batch_size=None, num_workers=workers):
        pass


def workers_compared(raw: list[bytes], side: int, batches: int = 12, rounds: int = 5) -> dict[str, float]:
    """Images per second on the wall, medians over rounds in which all take turns."""
    kinds = {f"{count} threads": (by_threads, count) for count in (0, 1, 2)}
    kinds |= {f"{count} processes": (by_processes, count) for count in (1, 2)}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (run, count) in kinds.items():
            started = time.perf_counter()
            run(raw, side, count, batches)
            taken[name].append(batches * len(raw) / (time.perf_counter() - started))
    return {name: statistics.median(rates) for name, rates in taken.items()}


def kilobytes(raw: list[bytes]) -> float:
    return statistics.mean(map(len, raw)) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="parquet:PATH, images of 224 x 224 px; without it they are generated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    sets = photographs(chosen.source, chosen.images)
    result = {
        "what": "CPU time of making training images of 500 x 375 px photographs: a notebook's over ours",
        "command": f"python bench/decode.py {'parquet:PATH ' if chosen.source else ''}"
        f"--rounds {chosen.rounds} --images {chosen.images}",
        "generated": chosen.source is None,
        "kilobytes": {name: kilobytes(raw) for name, raw in sets.items()},
        "kilobytes_packed": {name: kilobytes(as_packed(raw)) for name, raw in sets.items()},
        "sizes": {
            name: {str(side): compared(raw, side, chosen.rounds) for side in (224, 128)} for name, raw in sets.items()
        },
        "not_installed": contestants()[1],
        "workers": {
            str(side): workers_compared(sets["mosaic"], side, rounds=min(5, chosen.rounds)) for side in (224, 128)
        },
        "python_ms": python_ms(sets["mosaic"], 224),
        "rounds": chosen.rounds,
        "images": chosen.images,
        "simplejpeg": getattr(crops._simplejpeg(), "__version__", None),
        "pillow": Image.__version__,
        **environment(),
    }
    keep(result, chosen.out)


if __name__ == "__main__":
    main()
