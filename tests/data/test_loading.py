"""From settings to splits and batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import groundup
from groundup.basis.errors import DataError, UsageError
from groundup.data import (
    CacheMode,
    DataSettings,
    ImageSet,
    MemoryLoader,
    Splits,
    UnreadableImage,
    batch_indices,
    batches_per_epoch,
    epoch_order,
    load_splits,
    sent,
)

Save = Callable[..., Path]


@pytest.fixture
def three_splits(tmp_path: Path, save_folder: Save) -> str:
    for start, split in enumerate(("train", "val", "test")):
        save_folder(tmp_path / "x" / split, per_class=10, start=10 * start)
    return f"folder:{tmp_path / 'x'}"


@pytest.fixture
def with_test(tmp_path: Path, save_folder: Save) -> str:
    save_folder(tmp_path / "x" / "train", per_class=20)
    save_folder(tmp_path / "x" / "test", per_class=5, start=30)
    return f"folder:{tmp_path / 'x'}"


def test_a_source_with_three_splits_keeps_them(three_splits: str) -> None:
    splits = load_splits(DataSettings(source=three_splits))
    assert splits.validation is not None
    assert splits.test is not None
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [20, 20, 20]
    assert not np.array_equal(splits.validation.images, splits.test.images)
    assert splits.notes == []


def own(count: int, side: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % 2


def test_arrays_of_ones_own_become_splits_whose_fingerprint_tells_every_pixel_label_name_and_split() -> None:
    splits = Splits.from_arrays(own(8), own(4), own(2), classes=["a", "b"])
    assert splits.validation is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), len(splits.test), splits.image_size) == (8, 2, 4, 6)
    assert splits.train.labels.tolist() == [0, 1] * 4
    pixel, label = own(8), own(8)
    pixel[0][3, 2, 1, 0] ^= 1
    label[1][3] = 0
    others = [
        Splits.from_arrays(pixel, own(4), own(2), classes=["a", "b"]),
        Splits.from_arrays(label, own(4), own(2), classes=["a", "b"]),
        Splits.from_arrays(own(8), own(4), own(2), classes=["a", "c"]),
        Splits.from_arrays(own(8), own(2), own(4), classes=["a", "b"]),
        Splits.from_arrays(own(8), own(4), classes=["a", "b"]),
    ]
    assert len({splits.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert Splits.from_arrays(own(8), own(4), own(2), classes=["a", "b"]).fingerprint == splits.fingerprint


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (own(4), own(4, side=5), r"test: images are \(4, 5, 5, 3\); allowed: one or more, all square and of one size"),
        (own(4), own(0), r"test: images are \(0, 6, 6, 3\)"),
        ((own(4)[0][:, 1:], own(4)[1]), own(4), r"train: images are \(4, 5, 6, 3\)"),
        ((own(4)[0] / 255, own(4)[1]), own(4), "images are float64"),
        ((own(4)[0], own(4)[1] + 1), own(4), "train: labels are int64, 1 to 2; allowed: whole numbers from 0 to 1"),
        ((own(4)[0], own(4)[1] * 1.0), own(4), "train: labels are float64"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        Splits.from_arrays(train, test, classes=["a", "b"])


def test_carving_a_second_validation_split_is_refused(three_splits: str) -> None:
    with pytest.raises(UsageError, match=r"data\.validation=0\.1: .* has a validation split of its own \(20 images\)"):
        load_splits(DataSettings(source=three_splits, validation=0.1))


def test_validation_is_carved_from_train_and_test_stays_whole(with_test: str) -> None:
    splits = load_splits(DataSettings(source=with_test, validation=0.1))
    assert splits.validation is not None
    assert splits.test is not None
    assert np.bincount(splits.validation.labels).tolist() == [2, 2]
    assert np.bincount(splits.train.labels).tolist() == [18, 18]
    assert sorted([*splits.train.indices, *splits.validation.indices]) == list(range(40))
    assert len(splits.test) == 10
    assert any("validation is carved from train: 4 images, 36 left" in note for note in splits.notes)


def test_the_split_seed_decides_the_carved_split(with_test: str) -> None:
    settings = [DataSettings(source=with_test, validation=0.2, split_seed=seed) for seed in (0, 0, 1)]
    chosen = [load_splits(each).validation for each in settings]
    indices = [part.indices.tolist() for part in chosen if part is not None]
    assert indices[0] == indices[1] != indices[2]


def test_the_test_split_made_here_does_not_depend_on_validation_or_limit() -> None:
    plain = load_splits(DataSettings(source="digits"))
    carved = load_splits(DataSettings(source="digits", validation=0.3, limit=500))
    assert plain.test is not None
    assert carved.test is not None
    np.testing.assert_array_equal(plain.test.indices, carved.test.indices)
    assert carved.validation is not None
    assert len(carved.train) + len(carved.validation) == 500
    held_out = {*carved.test.indices, *carved.validation.indices}
    assert not held_out & set(carved.train.indices)


def test_limit_keeps_the_classes_in_proportion_and_is_noted(with_test: str) -> None:
    splits = load_splits(DataSettings(source=with_test, limit=11))
    assert sorted(np.bincount(splits.train.labels).tolist()) == [5, 6]
    assert splits.test is not None
    assert len(splits.test) == 10
    assert "train is limited to 11 of 40 images (data.limit)" in splits.notes


def test_a_class_too_small_to_carve_from_is_named(with_test: str) -> None:
    with pytest.raises(DataError, match="class cat, dog has 1 image: too few to split off a validation split"):
        load_splits(DataSettings(source=with_test, limit=2, validation=0.5))


def test_mixed_sizes_need_a_resolution(
    with_test: str, tmp_path: Path, png: Callable[[np.ndarray], bytes], picture: Callable[..., np.ndarray]
) -> None:
    (tmp_path / "x" / "train" / "dog" / "3.png").write_bytes(png(picture(0, 9, 7)))
    with pytest.raises(DataError, match=r"cat/0\.png is 6x6, .*dog/3\.png is 9x7\nhint: set data\.resolution"):
        load_splits(DataSettings(source=with_test))
    splits = load_splits(DataSettings(source=with_test, resolution=5))
    assert splits.image_size == 5
    assert splits.train.images.shape == (40, 5, 5, 3)


def test_images_that_are_not_square_need_a_resolution(tmp_path: Path) -> None:
    x, y = np.zeros((4, 6, 8), np.uint8), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(DataError, match=r"is 8x6 pixels, not square\nhint: set data\.resolution"):
        load_splits(DataSettings(source=f"arrays:{tmp_path}/a.npz"))


def test_a_damaged_image_is_named_or_left_out_and_counted(with_test: str, tmp_path: Path, cache: Path) -> None:
    bad = tmp_path / "x" / "train" / "cat" / "7.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UnreadableImage, match=rf"^{bad}: "):
        load_splits(DataSettings(source=with_test))
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    for _ in range(2):  # decoded, then from the cache
        splits = load_splits(DataSettings(source=with_test, on_bad_image="skip"))
        assert list(splits.skipped) == ["train/cat/7.png"]
        assert np.bincount(splits.train.labels).tolist() == [19, 20]
        assert splits.train.images.shape[0] == 39
        assert "1 damaged images are left out (data.on_bad_image=skip)" in splits.notes


def test_images_stay_with_their_labels_when_some_are_left_out(
    with_test: str, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    (tmp_path / "x" / "train" / "cat" / "0.png").write_bytes(b"")
    splits = load_splits(DataSettings(source=with_test, on_bad_image="skip"))
    dog = int(np.flatnonzero(splits.train.labels == 1)[0])
    np.testing.assert_array_equal(splits.train.images[dog], picture(100))


def test_a_split_without_any_readable_image_is_an_error_even_when_skipping(with_test: str, tmp_path: Path) -> None:
    for file in (tmp_path / "x" / "test").rglob("*.png"):
        file.write_bytes(b"junk")
    with pytest.raises(DataError, match="none of the 10 images of test can be read"):
        load_splits(DataSettings(source=with_test, on_bad_image="skip"))


def test_a_resize_policy_without_resolution_is_noted_as_doing_nothing(with_test: str) -> None:
    notes = load_splits(DataSettings(source=with_test, resize="pad")).notes
    assert "data.resize=pad does nothing without data.resolution" in notes


def small_set(count: int = 10) -> ImageSet:
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return ImageSet.whole(images, np.arange(count) % 3)


def test_a_loader_gives_channels_last_batches_of_the_asked_images() -> None:
    data = small_set()
    images, labels = MemoryLoader(data, "cpu").take(torch.tensor([7, 0, 7]))
    assert images.shape == (3, 3, 4, 5)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), data.images[[7, 0, 7]])
    assert labels.tolist() == [1, 0, 1]


def test_a_loader_of_a_subset_counts_within_the_subset() -> None:
    data = small_set()
    loader = MemoryLoader(data.subset(np.array([9, 2])), "cpu")
    images, labels = loader.take(torch.tensor([1, 0]))
    assert len(loader) == 2
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), data.images[[2, 9]])
    assert labels.tolist() == [2, 0]


def test_evaluation_batches_cover_all_images_in_order() -> None:
    data = small_set()
    batches = list(MemoryLoader(data, "cpu").batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    stacked = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(stacked.numpy(), data.images)


def test_copying_to_the_device_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.data.loading._COPY_BYTES", 3 * 60)
    data = small_set().subset(np.array([8, 1, 5, 3, 0, 2, 7]))
    images, labels = data.to_device("cpu")
    np.testing.assert_array_equal(images.numpy(), data.images[data.indices])
    np.testing.assert_array_equal(labels.numpy(), data.labels)


def test_arrays_of_the_wrong_kind_make_no_image_set() -> None:
    with pytest.raises(DataError, match=r"float64 \(2, 3, 4, 4\)"):
        ImageSet.whole(np.zeros((2, 3, 4, 4)), np.zeros(2, int))


def test_the_order_of_an_epoch_is_a_permutation_given_by_seed_and_epoch() -> None:
    order = epoch_order(0, 0, 100)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(order, epoch_order(0, 0, 100))
    assert not torch.equal(order, epoch_order(0, 1, 100))
    assert not torch.equal(order, epoch_order(1, 0, 100))


def test_weights_draw_in_proportion_with_replacement() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0]).repeat(4000)
    order = epoch_order(0, 0, 12000, weights)
    assert torch.equal(order, epoch_order(0, 0, 12000, weights))
    kinds = torch.bincount(order % 3)
    assert kinds[0] == 0
    assert 2.7 < kinds[2] / kinds[1] < 3.3
    with pytest.raises(ValueError, match="weights have shape"):
        epoch_order(0, 0, 5, weights)


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [4, 4]), (False, [4, 4, 2])])
def test_batches_walk_through_the_order(drop_last: bool, sizes: list[int]) -> None:
    order = epoch_order(0, 0, 10)
    assert batches_per_epoch(10, 4, drop_last) == len(sizes)
    batches = [batch_indices(order, 4, position, drop_last) for position in range(len(sizes))]
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), order[: sum(sizes)])
    with pytest.raises(IndexError, match=f"batch {len(sizes)} of an epoch with {len(sizes)} batches"):
        batch_indices(order, 4, len(sizes), drop_last)


@pytest.mark.parametrize("cache", ["device", "host", "disk"])
def test_training_gathers_the_pixels_alone(cache: CacheMode, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    loader = MemoryLoader(ImageSet(images, np.arange(6), np.arange(6)), "cpu", cache)
    wanted = torch.tensor([3, 0, 3])
    expected, labels = loader.take(wanted)
    assert labels.tolist() == [3, 0, 3]
    monkeypatch.setattr(loader, "_labels", None)
    got = loader.training(wanted, 0)
    assert torch.equal(got, expected)
    assert torch.equal(got, torch.from_numpy(images[[3, 0, 3]]).permute(0, 3, 1, 2))
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("device", "waits"), [("cuda:0", False), ("mps", True), ("cpu", True)])
def test_only_a_copy_to_a_cuda_gpu_is_not_waited_for(device: str, waits: bool) -> None:
    """On other devices the copy might be read before it has arrived."""
    asked: list[tuple[torch.device, bool]] = []

    class Pixels:
        def to(self, device: torch.device, non_blocking: bool) -> None:
            asked.append((device, non_blocking))

    sent(Pixels(), torch.device(device))  # type: ignore[arg-type]
    assert asked == [(torch.device(device), not waits)]


def test_nothing_else_in_the_package_copies_without_waiting() -> None:
    source = Path(groundup.__file__).parent
    found = {path.relative_to(source).as_posix() for path in source.rglob("*.py") if "non_blocking" in path.read_text()}
    assert found == {"data/loading.py", "training/watch.py"}  # the second with an event that it waits for
