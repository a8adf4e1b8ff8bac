"""Training batches decoded from their source while the device works, by threads, some micro-batches ahead.

The loader is told what the loop will ask for (`upcoming`: the images of any update, a function of the step), so it decodes what
comes next; what it was not told of (a second pass over other images, a picture of samples) it decodes when asked. One thread reads
from the source, in order, and hands pieces of a batch to the threads that decode; each piece is written to its own place. So
order and content depend neither on the number of threads nor on how far ahead they are.

Threads, not processes: both decoders and torch's resize leave Python's lock while they work, a thread needs no copy of the source
and no second copy of the pixels, and ends with its loader (`bench/decode.py` has the figures).

Memory: at most 1 + `ahead` micro-batches of pixels, and no more than AHEAD_BYTES beyond the first; of a GPU's batches in pinned
memory, from which they are copied without waiting, in their turn among its other work. Threads start with the first batch and end
with `close`, with the loader, or with the process.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from groundup.basis.machine import usable_cores
from groundup.data.loading import ImageSet, MemoryLoader, sent
from groundup.data.pixels.crops import Interpolation, Opened, Window, cut, open_image
from groundup.data.pixels.decode import UnreadableImage, decode_image, named_failures
from groundup.data.pixels.on_demand import SourceImages
from groundup.data.settings import Workers
from groundup.data.sources import RawImage

AHEAD_BYTES = 1 << 30
_PIECE = 16  # images per task
MOST_WORKERS = 16
_LOOK = 0.2  # seconds between two looks at whether the run was asked to stop


class Windows(Protocol):
    """What is cut out of images of the heights and widths `sizes`, int64 (B, 2) in px, in an epoch.

    int64 (B, 4): top, left, height, width; 0 by 0 where the image stays whole. `indices`: int64 (B,), of the images in their split.
    """

    def __call__(self, sizes: Tensor, indices: Tensor, epoch: int, /) -> Tensor: ...


@dataclass(frozen=True)
class Upcoming:
    """The images of one update: `parts`, int64 (b,) positions in the split, one array per micro-batch of this process.

    `windows`: what is cut out of each image, which is then brought to `side` px; None: all of it, as the cache would hold it.
    """

    epoch: int
    side: int
    parts: tuple[np.ndarray, ...]
    windows: Windows | None = None
    interpolation: Interpolation = "bilinear"


_Key = tuple[int, int]  # step, number of the part


class DecodingLoader(MemoryLoader):
    """A `MemoryLoader` over images that are decoded on demand, which decodes training batches ahead of the loop.

    `upcoming(step)` for steps 0..total_steps - 1 is called by the caller's own thread. `again`: every batch of an update is asked
    for more than once (SAM), and is kept until the next.
    """

    def __init__(
        self,
        image_set: ImageSet,
        device: torch.device | str,
        upcoming: Callable[[int], Upcoming],
        *,
        total_steps: int,
        workers: Workers = "auto",
        ahead: int = 4,
        again: bool = False,
    ) -> None:
        if not isinstance(image_set.images, SourceImages):
            raise TypeError(f"images that are decoded on demand are needed, not {type(image_set.images).__name__}")
        super().__init__(image_set, device, "none")
        self._source, self._indices = image_set.images, image_set.indices
        self._upcoming, self._total_steps, self._again = upcoming, total_steps, again
        self._workers = automatic_workers(self._device) if workers == "auto" else workers
        self._ahead = ahead if self._workers else 0
        self._steps: dict[int, Upcoming] = {}
        self._pending: dict[_Key, _Batch] = {}
        self._pools: _Pools | None = None

    def side(self, step: int) -> int:
        return self._at(step).side

    def training(self, indices: Tensor, step: int) -> Tensor:
        places, upcoming = indices.cpu().numpy(), self._at(step)
        # Parts that are widened for mixing can be equal: take one that is still to be given out.
        equal = [n for n, part in enumerate(upcoming.parts) if np.array_equal(part, places)]
        number = next((n for n in equal if (step, n) in self._pending), equal[0] if equal else None)
        batch = self._start(upcoming, places) if number is None else self._foreseen((step, number))
        return sent(batch.result(), self._device).permute(0, 3, 1, 2)

    @property
    def keeps_waiting(self) -> bool:
        return True

    def wait(self, step: int, given_up: Callable[[], bool]) -> None:
        if self._at(step).parts:  # of several processes one may have no share in a short batch
            self._prepare((step, 0))
            self._pending[step, 0].wait(given_up)

    def close(self) -> None:
        """End the threads; what they have decoded ahead is dropped. A later `training` starts new ones."""
        for batch in self._pending.values():
            batch.cancel()
        self._pending.clear()
        self._steps.clear()
        if self._pools is not None:
            self._pools.close()
            self._pools = None

    def _at(self, step: int) -> Upcoming:
        if step not in self._steps:
            self._steps[step] = self._upcoming(step)
        return self._steps[step]

    def _foreseen(self, key: _Key) -> "_Batch":
        """The batch `key`, with those after it under way."""
        self._prepare(key)
        return self._pending[key] if self._again else self._pending.pop(key)

    def _prepare(self, key: _Key) -> None:
        # Where batches come back, all of the step stay at hand.
        first, count = ((key[0], 0), len(self._at(key[0]).parts)) if self._again else (key, 1)
        wanted = list(islice(self._from(first), count + self._ahead))
        self._drop_all_but(wanted, key[0])
        self._begin(key)
        room = AHEAD_BYTES
        for other in wanted:
            if other != key:
                upcoming = self._at(other[0])
                room -= 3 * upcoming.side**2 * len(upcoming.parts[other[1]])
                if room < 0:
                    break
                self._begin(other)

    def _begin(self, key: _Key) -> None:
        if key not in self._pending:
            upcoming = self._at(key[0])
            self._pending[key] = self._start(upcoming, upcoming.parts[key[1]])

    def _from(self, key: _Key) -> Iterator[_Key]:
        """The parts of the run from `key` on; of a step beyond the run (a range test of the rate) its own."""
        first, number = key
        for step in range(first, max(self._total_steps, first + 1)):
            yield from ((step, n) for n in range(number, len(self._at(step).parts)))
            number = 0

    def _drop_all_but(self, wanted: Sequence[_Key], step: int) -> None:
        """Forget what will not be asked for: what lies behind, and what another place in the run had ahead."""
        for key in [key for key in self._pending if key not in wanted]:
            self._pending.pop(key).cancel()
        for old in [old for old in self._steps if not step <= old <= wanted[-1][0]]:
            del self._steps[old]

    def _start(self, upcoming: Upcoming, places: np.ndarray) -> "_Batch":
        if self._pools is None:
            self._pools = _Pools.of(self._workers)
        pinned = self._device.type == "cuda"
        return _Batch(self._pools, self._source, upcoming, places, self._indices[places], pinned)


@dataclass(frozen=True)
class _Pools:
    """`reader` does one thing at a time, in order: a source need not stand two readers. `decoders` do several."""

    reader: Executor
    decoders: Executor

    @classmethod
    def of(cls, workers: int) -> "_Pools":
        if workers == 0:
            return cls(_AtOnce(), _AtOnce())
        names = "groundup-read", "groundup-decode"
        return cls(ThreadPoolExecutor(1, names[0]), ThreadPoolExecutor(workers, names[1]))

    def close(self) -> None:
        # The reader first: it would otherwise hand pieces to decoders that have gone.
        self.reader.shutdown(wait=True, cancel_futures=True)
        self.decoders.shutdown(wait=True, cancel_futures=True)


class _AtOnce(Executor):
    """Does the work in the thread that asks for it, while it asks."""

    def submit(self, work, /, *arguments, **named):  # type: ignore[no-untyped-def]
        done: Future = Future()
        try:
            done.set_result(work(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


class _Batch:
    """One micro-batch under way: read by the reader, decoded in pieces, uint8 (b, S, S, 3)."""

    def __init__(
        self,
        pools: _Pools,
        source: SourceImages,
        upcoming: Upcoming,
        places: np.ndarray,
        positions: np.ndarray,
        pinned: bool,
    ) -> None:
        self._source, self._upcoming, self._places, self._positions = source, upcoming, places, positions
        self._cancelled = threading.Event()
        self._pinned = pinned
        self._pixels: Tensor | None = None
        self._pieces: Future[list[Future[None]]] = pools.reader.submit(self._read, pools.decoders)

    def wait(self, given_up: Callable[[], bool]) -> None:
        """Until `result` has nothing to wait for, or an error to raise, or `given_up()`: a silent server holds the reader up for
        minutes."""
        if _wait_for(self._pieces, given_up) and self._pieces.exception() is None:
            all(_wait_for(piece, given_up) for piece in self._pieces.result())

    def result(self) -> Tensor:
        """Wait for the pixels. UnreadableImage names an image that cannot be decoded."""
        for piece in self._pieces.result():
            piece.result()
        assert self._pixels is not None
        return self._pixels

    def cancel(self) -> None:
        """Nobody will ask for the result: do no more of it than is being done."""
        self._cancelled.set()
        self._pieces.cancel()

    def _read(self, decoders: Executor) -> list[Future[None]]:
        if self._cancelled.is_set():
            return []
        raw = self._source.encoded(self._positions)
        side = self._upcoming.side
        self._pixels = torch.empty((len(raw), side, side, 3), dtype=torch.uint8, pin_memory=self._pinned)
        pieces = [slice(start, start + _PIECE) for start in range(0, len(raw), _PIECE)]
        return [decoders.submit(self._decode, raw[piece], piece, self._pixels[piece]) for piece in pieces]

    def _decode(self, raw: Sequence[RawImage], piece: slice, pixels: Tensor) -> None:
        if self._cancelled.is_set():
            return
        if self._upcoming.windows is None:
            self._source.decode_into(raw, self._positions[piece], pixels.numpy())
        else:
            # Numpy copies in this thread alone; torch would start a team of threads for each thread that decodes.
            self._cut(raw, piece, pixels.numpy(), self._upcoming.windows)

    def _cut(self, raw: Sequence[RawImage], piece: slice, pixels: np.ndarray, windows: Windows) -> None:
        source, places = self._source, torch.from_numpy(self._places[piece])
        positions = self._positions[piece].tolist()
        opened = [_opened(encoded, source.name(at)) for encoded, at in zip(raw, positions, strict=True)]
        drawn = self._drawn(opened, places, windows)
        for index, position in enumerate(positions):
            name = source.name(position)
            try:
                pixels[index] = self._window(raw[index], opened[index], name, drawn[index])
            except UnreadableImage as error:
                other = source.instead(position, error)
                image = _opened(other, name)
                pixels[index] = self._window(
                    other, image, name, self._drawn([image], places[index : index + 1], windows)[0]
                )

    def _drawn(self, opened: "Sequence[_Found]", places: Tensor, windows: Windows) -> list[Window]:
        # What cannot be opened has a size of its own choosing: it will not be cut.
        sides = [(image.height, image.width) if isinstance(image, Opened) else (1, 1) for image in opened]
        return [tuple(window) for window in windows(torch.tensor(sides), places, self._upcoming.epoch).tolist()]

    def _window(self, raw: RawImage, image: "_Found", name: str, window: Window) -> np.ndarray:
        """One image, uint8 (S, S, 3)."""
        if isinstance(image, UnreadableImage):
            raise image
        side = self._upcoming.side
        if window[2] == 0:
            return decode_image(raw, name, resolution=side, resize=self._source.resize)
        with named_failures(name):
            return cut(image, window, side, self._upcoming.interpolation).numpy()


def _wait_for(work: "Future[Any]", given_up: Callable[[], bool]) -> bool:
    """Whether `work` is done; False if it was given up before."""
    while not work.done() and not given_up():
        wait_for([work], _LOOK)
    return work.done()


_Found = Opened | UnreadableImage


def _opened(raw: RawImage, name: str) -> _Found:
    try:
        with named_failures(name):
            return open_image(raw)
    except UnreadableImage as error:
        return error


def automatic_workers(device: torch.device) -> int:
    """How many threads decode. Beside an accelerator every core but the one that feeds it, at most 16: from there on Python's lock
    holds them up. Where the CPU trains, a quarter of the cores: an image takes a millisecond or two to decode and many times that
    to train on, and more threads would only take cores from the arithmetic. Processes of one machine share its cores."""
    cores = usable_cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    wanted = cores // 4 if device.type == "cpu" else cores - 1
    return max(1, min(MOST_WORKERS, wanted))
