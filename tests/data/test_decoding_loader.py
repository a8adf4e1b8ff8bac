"""Batches that are decoded ahead are the batches that were asked for, whoever decodes them and however far ahead."""

import gc
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from groundup.data import (
    DataSettings,
    DecodingLoader,
    ImageSet,
    MemoryLoader,
    SourceImages,
    Splits,
    UnreadableImage,
    Upcoming,
    decoding_loader,
    load_splits,
)
from groundup.data.decoding_loader import automatic_workers
from groundup.data.sources import Source, SourceSplit

COUNT, BATCH, STEPS = 90, 20, 12


def jpeg(seed: int) -> bytes:
    """A photograph of a size of its own."""
    random = np.random.default_rng(seed)
    width, height = random.integers(20, 90, 2)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/{cat,dog} and test/{cat,dog} of JPEGs of many sizes."""
    root = tmp_path_factory.mktemp("photographs")
    for split, each in (("train", COUNT // 2), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                (root / split / name / f"{number:03}.jpg").write_bytes(jpeg(1000 * label + number))
    return root


@pytest.fixture
def splits(photographs: Path) -> Splits:
    return load_splits(DataSettings(source=f"folder:{photographs}", resolution=24, resize="crop", cache="none"))


def halves(sizes: Tensor, indices: Tensor, epoch: int) -> Tensor:
    """A window half as high and wide as its image, whose place tells the image and the epoch; every tenth image stays whole."""
    half = sizes // 2
    start = (indices[:, None] + epoch) % (half + 1)
    return torch.cat([start, half], 1) * (indices[:, None] % 10 > 0)


def upcoming(step: int) -> Upcoming:
    """Three epochs of random batches in micro-batches of 8, 8 and 4, which grow from 12 to 16 px; step 7 is not cut at all."""
    epoch = step // 4
    order = np.random.default_rng(epoch).permutation(COUNT)[step % 4 * BATCH :][:BATCH]
    parts = tuple(np.split(order, [8, 16]))
    return Upcoming(epoch, 24, parts) if step == 7 else Upcoming(epoch, 12 if step < 6 else 16, parts, halves)


MakeLoader = Callable[..., DecodingLoader]


@pytest.fixture
def make_loader(splits: Splits) -> Iterator[MakeLoader]:
    made = []

    def make(images: ImageSet | None = None, **settings: object) -> DecodingLoader:
        loader = DecodingLoader(images or splits.train, "cpu", upcoming, total_steps=STEPS, **settings)  # type: ignore[arg-type]
        made.append(loader)
        return loader

    yield make
    for loader in made:
        loader.close()


def walk(loader: DecodingLoader, first: int = 0) -> list[Tensor]:
    return [
        loader.training(torch.from_numpy(part), step) for step in range(first, STEPS) for part in upcoming(step).parts
    ]


def threads() -> list[str]:
    """Those of loaders: other tests of this process may have left others."""
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("groundup-read", "groundup-decode"))
    ]


def test_batches_do_not_depend_on_workers_or_on_how_far_ahead_they_are_decoded(make_loader: MakeLoader) -> None:
    alone = walk(make_loader(workers=0))
    assert {tuple(batch.shape[1:]) for batch in alone} == {(3, 12, 12), (3, 24, 24), (3, 16, 16)}
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in alone)
    for workers, ahead in ((1, 0), (1, 4), (3, 1), (3, 7)):
        for mine, theirs in zip(walk(make_loader(workers=workers, ahead=ahead)), alone, strict=True):
            assert torch.equal(mine, theirs)


def test_a_batch_does_not_depend_on_what_was_asked_before(make_loader: MakeLoader) -> None:
    whole = walk(make_loader(workers=2))
    loader = make_loader(workers=2)
    for first in (9, 2, 2, 5):  # as after a resume, or when a run goes back
        for mine, theirs in zip(walk(loader, first)[:4], whole[3 * first :], strict=False):
            assert torch.equal(mine, theirs)


def test_what_was_not_foreseen_is_decoded_all_the_same(make_loader: MakeLoader) -> None:
    loader = make_loader(workers=2)
    foreseen = loader.training(torch.from_numpy(upcoming(0).parts[0]), 0)
    other = loader.training(torch.from_numpy(upcoming(0).parts[0][::-1].copy()), 0)
    assert torch.equal(other.flip(0), foreseen)


def test_a_step_beyond_the_run_is_decoded_too(make_loader: MakeLoader) -> None:
    """A range test of the rate may take more steps than the run that it is for."""
    longer = make_loader(workers=2)
    longer._total_steps = STEPS + 3
    ending = make_loader(workers=2)
    for step in range(STEPS - 1, STEPS + 3):
        for part in upcoming(step).parts:
            assert torch.equal(
                ending.training(torch.from_numpy(part), step), longer.training(torch.from_numpy(part), step)
            )


def test_equal_parts_of_a_step_are_each_decoded_once(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches that are widened for mixing may hold the same images."""
    part = np.arange(8)
    begun: list[np.ndarray] = []
    start = DecodingLoader._start

    def counted(loader: DecodingLoader, upcoming: Upcoming, places: np.ndarray) -> object:
        begun.append(places)
        return start(loader, upcoming, places)

    monkeypatch.setattr(DecodingLoader, "_start", counted)
    loader = DecodingLoader(splits.train, "cpu", lambda step: Upcoming(0, 24, (part,) * 3), total_steps=2, workers=2)
    try:
        batches = [loader.training(torch.from_numpy(part), step) for step in (0, 1) for _ in range(3)]
    finally:
        loader.close()
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    assert len(begun) == 6


def test_without_windows_a_batch_is_that_of_the_other_cache_modes(make_loader: MakeLoader, splits: Splits) -> None:
    loader, plain = make_loader(workers=2), MemoryLoader(splits.train, "cpu", "none")
    places = torch.from_numpy(upcoming(7).parts[1])
    assert torch.equal(loader.training(places, 7), plain.training(places, 7))
    for mine, theirs in zip(loader.take(places), plain.take(places), strict=True):
        assert torch.equal(mine, theirs)


def test_the_windows_of_the_right_images_are_seen(make_loader: MakeLoader, photographs: Path) -> None:
    places = upcoming(1).parts[0]
    seen = make_loader(workers=1).training(torch.from_numpy(places), 1)
    files = sorted(photographs.glob("train/*/*.jpg"))
    for place, image in zip(places.tolist(), seen, strict=True):
        whole = Image.open(files[place])
        sizes = torch.tensor([[whole.height, whole.width]])
        top, left, height, width = halves(sizes, torch.tensor([place]), 0)[0].tolist()
        if height == 0:
            square = min(whole.size)
            left, top = (whole.width - square) / 2, (whole.height - square) / 2
            height = width = square
        box = (left, top, left + width, top + height)
        expected = torch.from_numpy(np.array(whole.resize((12, 12), Image.Resampling.BILINEAR, box=box)))
        difference = (image.permute(1, 2, 0).int() - expected.int()).abs().float()
        assert difference.mean() < 6  # decoded at a half, some of them; another image differs by 70


def test_threads_end_with_close_and_start_again_when_needed(make_loader: MakeLoader) -> None:
    loader = make_loader(workers=3)
    assert threads() == []
    first = loader.training(torch.from_numpy(upcoming(0).parts[0]), 0)
    assert threads()
    loader.close()
    assert threads() == []
    assert torch.equal(loader.training(torch.from_numpy(upcoming(0).parts[0]), 0), first)


def test_threads_end_with_a_loader_that_nobody_has_closed(splits: Splits) -> None:
    loader = DecodingLoader(splits.train, "cpu", upcoming, total_steps=STEPS, workers=2)
    loader.training(torch.from_numpy(upcoming(0).parts[0]), 0)
    del loader
    gc.collect()
    for _ in range(100):
        if not threads():
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {threads()}")


def test_a_damaged_image_is_named_when_its_batch_is_due_and_no_thread_is_left(
    photographs: Path, make_loader: MakeLoader
) -> None:
    loader = make_loader(workers=2, ahead=6)
    damaged = sorted(photographs.glob("train/*/*.jpg"))[int(upcoming(1).parts[1][3])]
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    try:
        for step, number in ((0, 0), (0, 1), (0, 2), (1, 0)):
            loader.training(torch.from_numpy(upcoming(step).parts[number]), step)
        with pytest.raises(UnreadableImage, match=rf"train/{damaged.parent.name}/{damaged.name}: .*[tT]runcated"):
            loader.training(torch.from_numpy(upcoming(1).parts[1]), 1)
        loader.close()
        assert threads() == []
    finally:
        damaged.write_bytes(content)


class Slow:
    """A source of one image, which counts what is asked of it and forbids two readers at once."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._raw = jpeg(0)
        self._busy = threading.Lock()

    def at(self, positions: np.ndarray) -> list[bytes]:
        assert self._busy.acquire(blocking=False), "two readers at once"
        time.sleep(0.002)
        self.asked.append(positions.tolist())
        self.gate.wait(20)
        self._busy.release()
        return [self._raw] * len(positions)

    def images(self) -> ImageSet:
        labels = np.zeros(COUNT, dtype=np.int64)
        split = SourceSplit(labels, lambda: iter(()), str, self.at)  # type: ignore[arg-type]
        source = Source("", lambda: pytest.fail("not read"))
        settings = DataSettings(source="folder:x", resolution=24, cache="none")
        return ImageSet(SourceImages(source, split, np.arange(COUNT), settings, (24, 24, 3)), labels, np.arange(COUNT))


def in_order(steps: int) -> list[list[int]]:
    return [part.tolist() for step in range(steps) for part in upcoming(step).parts]


def test_the_source_is_read_in_the_order_of_training_and_no_further_ahead_than_told(make_loader: MakeLoader) -> None:
    source = Slow()
    loader = make_loader(source.images(), workers=2, ahead=5)
    loader.training(torch.from_numpy(upcoming(0).parts[0]), 0)
    time.sleep(0.3)
    assert source.asked == in_order(2)  # one and five ahead
    walk(loader)
    # What was asked again is what `walk` went back for: the first.
    assert source.asked[6:] == [in_order(1)[0], *in_order(STEPS)[6:]]


def test_pixels_ahead_take_no_more_memory_than_allowed(
    make_loader: MakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_loader, "AHEAD_BYTES", 17 * 3 * 12 * 12)  # 8 + 4 + some images
    source = Slow()
    loader = make_loader(source.images(), workers=2, ahead=50)
    loader.training(torch.from_numpy(upcoming(0).parts[0]), 0)
    time.sleep(0.2)
    assert source.asked == in_order(1)


def test_a_second_pass_over_the_batches_of_a_step_decodes_nothing_again(make_loader: MakeLoader) -> None:
    source = Slow()
    loader = make_loader(source.images(), workers=2, ahead=3, again=True)
    for step in range(STEPS):
        for _ in range(2):
            for part in upcoming(step).parts:
                loader.training(torch.from_numpy(part), step)
    assert source.asked == in_order(STEPS)


def test_what_another_place_in_the_run_had_ahead_is_not_read_any_more(make_loader: MakeLoader) -> None:
    source = Slow()
    loader = make_loader(source.images(), workers=2, ahead=12)
    loader._foreseen((0, 0)).result()
    source.gate.clear()
    read = len(source.asked) + 1  # one may be under way
    threading.Timer(0.5, source.gate.set).start()
    loader.training(torch.from_numpy(upcoming(11).parts[2]), 11)
    assert source.asked[-1] == upcoming(11).parts[2].tolist()
    assert len(source.asked) <= read + 1


def test_nothing_more_is_read_after_close(make_loader: MakeLoader) -> None:
    source = Slow()
    loader = make_loader(source.images(), workers=1, ahead=30)
    loader.training(torch.from_numpy(upcoming(0).parts[0]), 0)
    loader.close()
    read = len(source.asked)
    assert read < 20
    time.sleep(0.1)
    assert len(source.asked) == read


def test_workers_leave_a_core_to_the_training_and_processes_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for cores, on_cpu, beside_gpu in ((1, 1, 1), (2, 1, 1), (8, 2, 7), (64, 16, 16)):
        monkeypatch.setattr(decoding_loader, "usable_cores", lambda cores=cores: cores)
        assert (automatic_workers(cpu), automatic_workers(gpu)) == (on_cpu, beside_gpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert automatic_workers(gpu) == 7


def test_batches_that_are_decoded_when_asked_share_the_machine_and_start_no_threads_each(
    monkeypatch: pytest.MonkeyPatch, splits: Splits
) -> None:
    monkeypatch.setattr("groundup.data.pixels.decode.usable_cores", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    used: list[threading.Thread] = []
    whole = SourceImages.decode_into
    monkeypatch.setattr(
        SourceImages, "decode_into", lambda *given: (used.append(threading.current_thread()), whole(*given))
    )
    for _ in range(4):
        splits.train.read(np.arange(200) % len(splits.train))
    assert 1 <= len(set(used)) <= 3
    assert all(thread.is_alive() for thread in used)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of the operating system")
def test_threads_that_decode_start_no_threads_of_their_own(splits: Splits) -> None:
    def large(step: int) -> Upcoming:
        return Upcoming(0, 160, (np.arange(BATCH) + BATCH * step,), halves)

    def tasks() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    torch.ones(1 << 20).add_(1)  # the team of this thread
    there = tasks()
    loader = DecodingLoader(splits.train, "cpu", large, total_steps=3, workers=3)
    try:
        for step in range(3):
            loader.training(torch.from_numpy(large(step).parts[0]), step)
        assert tasks() - there <= 4  # one that reads, three that decode
    finally:
        loader.close()
        torch.set_num_threads(before)
