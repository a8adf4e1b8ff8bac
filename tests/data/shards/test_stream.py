"""A stream as a run sees it: damaged images, splits, memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.basis.errors import DataError, UsageError
from groundup.data import (
    DataSettings,
    MemoryLoader,
    Splits,
    UnreadableImage,
    load_splits,
    some_positions,
    windowed_order,
)
from groundup.data.shards.stream import StreamImages

Save = Callable[..., Path]
Picture = Callable[..., np.ndarray]
Png = Callable[[np.ndarray], bytes]
DAMAGED = (2, 7, 9)


@pytest.fixture
def damaged(tmp_path: Path, save_tar: Save, picture: Picture, png: Png) -> str:
    """20 images in 4 shards, classes 0 and 1 in turn; the images DAMAGED are cut."""
    for shard in range(4):
        samples = []
        for number in range(5 * shard, 5 * shard + 5):
            content = png(picture(number))
            content = content[:60] if number in DAMAGED else content
            samples.append((f"{number:03d}", {"png": content, "cls": str(number % 2).encode()}))
        save_tar(tmp_path / "s" / f"train-{shard}.tar", samples)
    save_tar(
        tmp_path / "s" / "test-0.tar", [(f"{i}", {"png": png(picture(30 + i)), "cls": str(i).encode()}) for i in (0, 1)]
    )
    return f"webdataset:{tmp_path / 's'}"


def test_a_damaged_image_ends_the_run_when_its_turn_comes(damaged: str) -> None:
    splits = load_splits(DataSettings(source=damaged))
    splits.train.read(np.array([0, 1, 3]))
    with pytest.raises(UnreadableImage, match=r"train-0\.tar image 2: "):
        splits.train.read(np.array([0, 2]))


def test_with_skip_the_next_whole_image_of_its_class_stands_in_and_is_told(damaged: str, picture: Picture) -> None:
    splits = load_splits(DataSettings(source=damaged, on_bad_image="skip"))
    assert not splits.skipped
    expected = [{2: 4, 7: 11, 9: 11}.get(number, number) for number in range(20)]
    np.testing.assert_array_equal(splits.train.read(np.arange(20)), [picture(number) for number in expected])
    assert sorted(name.rpartition("/")[2] for name in splits.skipped) == [
        "train-0.tar image 2",
        "train-1.tar image 2",
        "train-1.tar image 4",
    ]
    again = load_splits(DataSettings(source=damaged, on_bad_image="skip"))
    np.testing.assert_array_equal(again.train.read(np.array([9])), [picture(11)])


@pytest.fixture
def damaged_test(damaged: str, tmp_path: Path, save_tar: Save, picture: Picture, png: Png) -> str:
    """As `damaged`, with 6 test images of which the third is cut."""
    samples = []
    for number in range(6):
        content = png(picture(30 + number))
        samples.append((f"{number}", {"png": content[:60] if number == 2 else content, "cls": b"01"[number % 2 :][:1]}))
    save_tar(tmp_path / "s" / "test-0.tar", samples)
    return damaged


def test_a_damaged_test_image_is_left_out_and_counted_and_no_other_is_evaluated_twice(
    damaged_test: str, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # the second time it is known
        splits = load_splits(DataSettings(source=damaged_test, on_bad_image="skip"))
        assert splits.test is not None
        assert splits.test.labels.tolist() == [0, 1, 1, 0, 1]
        (images, labels), *more = MemoryLoader(splits.test, "cpu", "none").batches(10)
        assert not more
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1), [picture(30 + i) for i in (0, 1, 3, 4, 5)])
        assert labels.tolist() == [0, 1, 1, 0, 1]
        assert [name.rpartition("/")[2] for name in splits.skipped] == ["test-0.tar image 2"]
        assert any("1 damaged image" in note for note in splits.notes)
        monkeypatch.setattr(StreamImages, "damaged_among", lambda *_: pytest.fail("looked twice"))


def test_of_a_validation_split_that_is_carved_damaged_images_are_left_out(damaged: str, picture: Picture) -> None:
    splits = load_splits(DataSettings(source=damaged, on_bad_image="skip", validation=0.6, split_seed=4))
    assert splits.validation is not None
    left_out = {int(name.rpartition(" ")[2]) + 5 * int(name.partition("train-")[2][0]) for name in splits.skipped}
    carved = {int(i) for i in splits.validation.indices}
    assert left_out == set(DAMAGED)
    assert not carved & set(DAMAGED)
    everything = carved | left_out | {int(i) for i in splits.train.indices}
    assert everything == set(range(20))
    wanted = [picture(number) for number in splits.validation.indices.tolist()]
    np.testing.assert_array_equal(splits.validation.read(np.arange(len(splits.validation))), wanted)


def test_a_test_image_that_is_damaged_later_is_not_replaced(damaged_test: str, tmp_path: Path) -> None:
    splits = load_splits(DataSettings(source=damaged_test, on_bad_image="skip"))
    assert splits.test is not None
    content = bytearray((tmp_path / "s" / "test-0.tar").read_bytes())
    content[520:600] = bytes(80)
    (tmp_path / "s" / "test-0.tar").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"test-0\.tar image 0"):
        splits.test.read(np.arange(5))


def test_without_a_resolution_the_first_whole_image_gives_the_size(
    tmp_path: Path, save_tar: Save, picture: Picture, png: Png
) -> None:
    samples = [(f"{n}", {"png": png(picture(n)), "cls": str(n % 2).encode()}) for n in range(10)]
    samples[0][1]["png"] = b"\x89PNG junk"
    save_tar(tmp_path / "s" / "train-0.tar", samples)
    splits = load_splits(DataSettings(source=f"webdataset:{tmp_path / 's'}", on_bad_image="skip"))
    assert splits.image_size == 6


def test_images_of_several_sizes_ask_for_a_resolution(
    tmp_path: Path, save_tar: Save, picture: Picture, png: Png
) -> None:
    sizes = [(6, 6), (9, 7), (6, 6), (6, 6), (6, 6), (6, 6)]
    samples = [(f"{n}", {"png": png(picture(n, *size)), "cls": str(n % 2).encode()}) for n, size in enumerate(sizes)]
    for split in ("train", "test"):
        save_tar(tmp_path / "s" / f"{split}-0.tar", samples)
    splits = load_splits(DataSettings(source=f"webdataset:{tmp_path / 's'}"))
    with pytest.raises(DataError, match=r"image 1 is 9x7 pixels, and the first is 6x6\nhint: set data\.resolution"):
        splits.train.read(np.arange(2))


def test_nothing_outside_the_split_stands_in(damaged: str) -> None:
    splits = load_splits(DataSettings(source=damaged, on_bad_image="skip", validation=0.5))
    assert splits.validation is not None
    own = {
        name: set(part.indices.tolist()) for name, part in (("train", splits.train), ("validation", splits.validation))
    }
    assert own["train"].isdisjoint(own["validation"])
    images = splits.train.images
    assert isinstance(images, StreamImages)
    damaged_here = set(DAMAGED) & own["train"]
    assert damaged_here
    for position in damaged_here:
        candidates = list(images._of_its_class(position))
        assert candidates
        assert set(candidates) <= own["train"]
        assert {number % 2 for number in candidates} == {position % 2}


def test_a_part_of_a_stream_is_read_in_windows_of_its_own(damaged: str) -> None:
    splits = load_splits(DataSettings(source=damaged, on_bad_image="skip", validation=0.3, shuffle_window=2))
    order = windowed_order(splits.train, 2)
    assert order is not None
    assert len(order) == len(splits.train) == 14
    places = order.places(0, 0, 0, 14).numpy()
    assert sorted(places.tolist()) == list(range(14))
    shards = (splits.train.indices[places] // 5).tolist()
    last = {shard: place for place, shard in enumerate(shards)}
    early = sorted(last, key=last.__getitem__)[:2]
    end = 1 + last[early[1]]
    assert set(shards[:end]) == set(early)
    assert not set(shards[end:]) & set(early)
    assert windowed_order(load_splits(DataSettings(source="digits")).train, 2) is None


def test_some_images_of_a_stream_come_from_few_shards(damaged: str) -> None:
    splits = load_splits(DataSettings(source=damaged))
    chosen = some_positions(splits.train, 8, 0, "look")
    assert len(set(chosen.tolist())) == 8
    assert len(np.unique(chosen // 5)) == 2
    assert chosen.tolist() == some_positions(splits.train, 8, 0, "look").tolist()


def test_the_loader_gives_the_images_of_a_stream(damaged: str, picture: Picture) -> None:
    splits = load_splits(DataSettings(source=damaged))
    images, labels = MemoryLoader(splits.train, "cpu", "none").take(torch.tensor([19, 0, 12]))
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), [picture(number) for number in (19, 0, 12)])
    assert labels.tolist() == [1, 0, 0]


def test_balanced_sampling_is_refused_before_anything_is_read(damaged: str) -> None:
    from groundup.training import SampleOrder

    splits: Splits = load_splits(DataSettings(source=damaged))
    labels = torch.from_numpy(splits.train.labels)
    with pytest.raises(UsageError, match=r"train\.sampling"):
        SampleOrder(0, labels, batch_size=4, drop_last=False, balanced=True, windows=windowed_order(splits.train, 2))


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from groundup.data import DataSettings, load_splits, windowed_order
splits = load_splits(DataSettings(source=sys.argv[1], shuffle_window=2, resolution=32))
order = windowed_order(splits.train, 2)
def epoch(number):
    for start in range(0, len(order), 50):
        splits.train.read(order.places(0, number, start, min(start + 50, len(order))).numpy())
epoch(0)
def peak():  # getrusage would say what the process held that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
for number in range(1, 4):
    epoch(number)
print(before, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_stays_flat_over_epochs(tmp_path: Path, save_tar: Save, picture: Picture, png: Png) -> None:
    content = [png(picture(number, 100, 100)) for number in range(20)]
    for shard in range(10):
        samples = [(f"{n:03d}", {"png": content[n % 20], "cls": str(n % 2).encode()}) for n in range(40)]
        save_tar(tmp_path / "s" / f"train-{shard}.tar", samples)
    source = f"webdataset:{tmp_path / 's'}"
    shown = subprocess.run([sys.executable, "-c", MEASURE, source], capture_output=True, text=True, check=True)
    grown = int(shown.stdout.split()[1])
    assert grown < 8 * 1024  # KiB; the shards hold 12 MB, and were read three times
