"""Where pixels wait during a run: the batches are the same from every place, and each place costs what it says."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from groundup.basis.errors import DataError
from groundup.data import CacheMode, DataSettings, MemoryLoader, Splits, UnreadableImage, load_splits

Save = Callable[..., Path]
MODES: list[CacheMode] = ["device", "host", "disk", "none"]


def folder(root: Path, save_folder: Save, save_parquet: Save) -> str:
    save_folder(root / "train", per_class=50)
    save_folder(root / "test", per_class=5, start=60)
    return f"folder:{root}"


def parquet(root: Path, save_folder: Save, save_parquet: Save) -> str:
    save_parquet(root / "train-00000-of-00002.parquet", {"label": [0, 1] * 25})
    save_parquet(root / "train-00001-of-00002.parquet", {"label": [1, 0] * 25}, start=50)
    save_parquet(root / "test-00000-of-00001.parquet", {"label": [0, 1] * 3}, start=100)
    return f"parquet:{root}"


def hub(root: Path, save_folder: Save, save_parquet: Save) -> str:
    parquet(Path("acme/shapes/data"), save_folder, save_parquet)
    return "hub:acme/shapes"


def arrays(root: Path, save_folder: Save, save_parquet: Save) -> str:
    x, y = np.random.default_rng(0).integers(0, 256, (100, 9, 9), dtype=np.uint8), np.arange(100) % 3
    np.savez(root.with_suffix(".npz"), x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    return f"arrays:{root}.npz"


def digits(root: Path, save_folder: Save, save_parquet: Save) -> str:
    return "digits"


@pytest.mark.parametrize("door", [digits, folder, parquet, hub, arrays], ids=lambda door: door.__name__)
def test_all_modes_give_the_same_batches_and_fingerprint(
    door: Callable[..., str], tmp_path: Path, save_folder: Save, save_parquet: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # it would ask the Hub to count a download
    source = door(tmp_path / "x", save_folder, save_parquet)
    seen = []
    for mode in MODES:
        splits = load_splits(DataSettings(source=source, validation=0.2, limit=70, resolution=7, cache=mode))
        loader = MemoryLoader(splits.train, "cpu", mode)
        wanted = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))[:40].repeat(2)
        parts = [loader.take(wanted), *loader.batches(16)]
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in parts)
        seen.append((splits.fingerprint, splits.classes, parts))
    fingerprint, classes, parts = seen[0]
    assert len(parts) > 3
    for other_fingerprint, other_classes, other_parts in seen[1:]:
        assert (other_fingerprint, other_classes) == (fingerprint, classes)
        for ours, theirs in zip(parts, other_parts, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


@pytest.fixture
def damaged(tmp_path: Path, save_folder: Save) -> str:
    """20 training images, one of them damaged, and 4 test images."""
    save_folder(tmp_path / "x" / "train", per_class=10)
    save_folder(tmp_path / "x" / "test", per_class=2, start=50)
    (tmp_path / "x" / "train" / "cat" / "3.png").write_bytes(b"junk")
    return f"folder:{tmp_path / 'x'}"


def pixels(splits: Splits) -> torch.Tensor:
    return splits.train.to_device("cpu")[0]


def test_without_a_cache_damaged_images_are_found_and_left_out_the_same(damaged: str) -> None:
    with pytest.raises(UnreadableImage, match=r"train/cat/3\.png"):
        load_splits(DataSettings(source=damaged, cache="none"))
    with_file, without = (
        load_splits(DataSettings(source=damaged, on_bad_image="skip", cache=mode)) for mode in MODES[2:]
    )
    assert list(without.skipped) == ["train/cat/3.png"]
    assert (without.skipped, without.fingerprint) == (with_file.skipped, with_file.fingerprint)
    assert torch.equal(pixels(without), pixels(with_file))
    np.testing.assert_array_equal(without.train.labels, with_file.train.labels)


def test_without_a_cache_no_pixels_are_written_and_the_second_opening_checks_nothing(damaged: str, cache: Path) -> None:
    checked: list[int] = []
    settings = DataSettings(source=damaged, on_bad_image="skip", cache="none")
    first = load_splits(settings, progress=lambda done, total: checked.append(done))
    assert checked[-1] == 24
    checked.clear()
    second = load_splits(settings, progress=lambda done, total: checked.append(done))
    assert not checked
    assert torch.equal(pixels(first), pixels(second))
    assert {file.name for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"} == {
        "meta.json",
        "labels.npy",
        "kept.npy",
    }


def test_the_other_modes_share_one_file_of_pixels(damaged: str, cache: Path) -> None:
    for mode in MODES[:3]:
        load_splits(DataSettings(source=damaged, on_bad_image="skip", cache=mode))
    assert len(list(cache.rglob("meta.json"))) == 1


def test_an_image_that_changes_under_a_run_without_a_cache_is_named(
    damaged: str, tmp_path: Path, png: Callable[[np.ndarray], bytes], picture: Callable[..., np.ndarray]
) -> None:
    splits = load_splits(DataSettings(source=damaged, on_bad_image="skip", cache="none"))
    loader = MemoryLoader(splits.train, "cpu", "none")
    changed = tmp_path / "x" / "train" / "dog" / "0.png"
    changed.write_bytes(png(picture(0, 9, 7)))
    with pytest.raises(DataError, match=r"train/dog/0\.png is 9x7 pixels, and was 6x6"):
        loader.take(torch.arange(len(loader)))
    changed.unlink()
    with pytest.raises(UnreadableImage, match=r"train/dog/0\.png: No such file"):
        loader.take(torch.arange(len(loader)))


# In a process of its own: in one that has freed memory before, a new array may take none from the system.
MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from groundup.data import ImageSet, MemoryLoader

def private_megabytes():  # pages of mapped files not counted
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

images = np.load(sys.argv[1], mmap_mode="r")
before = private_megabytes()
loader = MemoryLoader(ImageSet.whole(images, np.arange(1000) % 10), "cpu", sys.argv[2])
held = peak = private_megabytes()
order = torch.randperm(1000)
for start in range(0, 1000, 20):
    batch = loader.take(order[start : start + 20])
    assert int(batch[0].max()) == 7
    peak = max(peak, private_megabytes())
print(held - before, peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("mode", "least", "most"), [("disk", -1.0, 8.0), ("host", 27.0, 40.0)])
def test_reading_from_disk_holds_a_batch_and_host_holds_the_whole_set(
    tmp_path: Path, mode: CacheMode, least: float, most: float
) -> None:
    file = tmp_path / "images.npy"
    np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(1000, 100, 100, 3))[:] = 7  # 29 MB
    command = [sys.executable, "-c", MEASURED, str(file), mode]
    held, peak = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert least <= held <= most
    assert peak <= most


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_all_modes_give_the_same_batches_on_a_gpu(mode: CacheMode) -> None:
    splits = load_splits(DataSettings(source="digits", cache=mode))
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    expected = MemoryLoader(splits.train, "cpu", "host")
    loader = MemoryLoader(splits.train, "cuda", mode)
    for start in range(0, len(order), 100):
        images, labels = loader.take(order[start : start + 100])
        wanted_images, wanted_labels = expected.take(order[start : start + 100])
        assert images.device.type == labels.device.type == "cuda"
        assert torch.equal(images.cpu(), wanted_images)
        assert torch.equal(labels.cpu(), wanted_labels)
