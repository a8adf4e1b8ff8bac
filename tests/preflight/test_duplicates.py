"""Images with the same pixels: counted over and between splits, for large and small images, and remembered."""

import json
from pathlib import Path

import numpy as np
import pytest

from groundup.data import ImageSet, Splits, load_splits
from groundup.preflight import duplicates as module
from groundup.preflight.duplicates import duplicates, known_duplicates
from groundup.recipe import load_recipe


def pictures(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 (count, side, side, 3), all different."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def splits(
    train: np.ndarray, test: np.ndarray | None = None, validation: np.ndarray | None = None, fingerprint: str = "f"
) -> Splits:
    """Images of two classes, in turn: the label of image i is i % 2."""
    parts = [
        None if part is None else ImageSet.whole(part, np.arange(len(part)) % 2) for part in (train, validation, test)
    ]
    assert parts[0] is not None
    return Splits(parts[0], parts[1], parts[2], ["a", "b"], train.shape[1], fingerprint)


def test_images_that_are_all_different() -> None:
    report = duplicates(splits(pictures(20), pictures(10, seed=1)))
    assert report.images == {"train": 20, "test": 10}
    assert report.repeated == {"train": 0, "test": 0}
    assert report.shared == {"test in train": 0}
    assert (report.test_in_train, report.conflicts, report.conflicting, report.examples) == ([], 0, 0, [])


@pytest.mark.parametrize("side", [8, 100])
def test_copies_are_counted_within_and_between_splits(side: int) -> None:
    train, test, validation = pictures(20, side), pictures(10, side, 1), pictures(6, side, 2)
    train[[4, 6]] = train[2]  # three times, one label
    train[9] = train[8]  # two labels
    test[3], test[8], test[5] = train[2], train[2], validation[1]
    validation[0] = train[2]
    report = duplicates(splits(train, test, validation))
    assert report.repeated == {"train": 3, "validation": 0, "test": 1}
    assert report.shared == {"validation in train": 1, "test in train": 2, "test in validation": 3}
    assert report.test_in_train == [3, 8]
    assert (report.conflicts, report.conflicting) == (2, 8)
    assert sorted(report.examples, key=len) == [
        [("train", 8, 0), ("train", 9, 1)],
        [("train", 2, 0), ("train", 4, 0), ("train", 6, 0), ("validation", 0, 0), ("test", 3, 1), ("test", 8, 0)],
    ]


def test_large_images_that_differ_outside_of_their_middle_are_not_the_same() -> None:
    train = np.repeat(pictures(1, 100), 5, axis=0)
    train[1, 0, 0, 0] ^= 1
    train[2, 99, 99, 2] ^= 1
    assert duplicates(splits(train)).repeated == {"train": 2}


def test_positions_are_those_of_the_split_not_of_the_stored_images() -> None:
    stored = pictures(10)
    stored[7] = stored[1]
    labels = np.arange(10) % 2
    whole = ImageSet.whole(stored, labels)
    halves = Splits(whole.subset(np.arange(5)), None, whole.subset(np.array([9, 8, 7])), ["a", "b"], 8, "f")
    assert duplicates(halves).test_in_train == [2]


def test_the_digits_have_no_two_that_are_the_same() -> None:
    digits = load_splits(load_recipe("digits").data)
    stacked = np.concatenate([part.images[part.indices] for part in (digits.train, digits.test) if part is not None])
    distinct = len(np.unique(stacked.reshape(len(stacked), -1), axis=0))
    report = duplicates(digits)
    assert sum(report.images.values()) == 1797
    assert sum(report.repeated.values()) + report.shared["test in train"] == 1797 - distinct


def test_small_blocks_give_the_same_report(monkeypatch: pytest.MonkeyPatch) -> None:
    train = pictures(20, 100)
    train[19] = train[0]
    at_once, asked = duplicates(splits(train)), []
    monkeypatch.setattr(module, "_BLOCK", 3 * 4096)
    assert duplicates(splits(train), check=lambda: asked.append(1)) == at_once
    assert len(asked) > 5


def test_an_interruption_comes_through() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        duplicates(splits(pictures(4)), check=stop)


class Unreadable(np.ndarray):
    """Images that were looked at before and must not be read again."""

    def __getitem__(self, key: object) -> np.ndarray:
        raise AssertionError("read again")


def blind(seen: Splits) -> Splits:
    part = ImageSet(seen.train.images.view(Unreadable), seen.train.labels, seen.train.indices)  # type: ignore[union-attr]
    return Splits(part, None, None, seen.classes, seen.image_size, seen.fingerprint)


def test_what_was_found_is_remembered(tmp_path: Path) -> None:
    train = pictures(20)
    train[9] = train[8]
    report = known_duplicates(splits(train), tmp_path)
    assert report == duplicates(splits(train))
    assert known_duplicates(blind(splits(train)), tmp_path) == report
    (file,) = tmp_path.glob("*")
    assert json.loads(file.read_text())["repeated"] == {"train": 1}


def test_other_data_or_another_split_of_it_is_looked_at_anew(tmp_path: Path) -> None:
    train = pictures(20)
    known_duplicates(splits(train), tmp_path)
    with pytest.raises(AssertionError, match="read again"):
        known_duplicates(blind(splits(train, fingerprint="g")), tmp_path)
    seen = splits(train)
    smaller = Splits(seen.train.subset(np.arange(10)), None, None, seen.classes, 8, "f")
    with pytest.raises(AssertionError, match="read again"):
        known_duplicates(blind(smaller), tmp_path)


@pytest.mark.parametrize("damage", ["{", "{}", "[]", '{"images": {}, "other": 1}'])
def test_a_damaged_memory_is_replaced(tmp_path: Path, damage: str) -> None:
    report = known_duplicates(splits(pictures(4)), tmp_path)
    (file,) = tmp_path.glob("*")
    file.write_text(damage)
    assert known_duplicates(splits(pictures(4)), tmp_path) == report
    assert json.loads(file.read_text())["images"] == {"train": 4}


def test_a_place_that_cannot_be_written_to_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert known_duplicates(splits(pictures(4)), tmp_path / "file").images == {"train": 4}
