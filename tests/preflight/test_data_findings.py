"""Every code of the data: data that has it, what it says, and data that has it not. Folders and arrays are made on the spot."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from groundup.data import Splits, load_splits
from groundup.preflight.data import DATA_CODES, check_data
from groundup.preflight.findings import Finding, overrides_of
from groundup.preflight.subject import Subject, subject_of
from groundup.recipe import load_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def subject(*overrides: str) -> Subject:
    """The recipe `digits` over other data, which is decoded."""
    recipe = load_recipe("digits", overrides)
    splits = load_splits(recipe.data)
    found = subject_of(
        recipe, train_images=len(splits.train), classes=len(splits.classes), image_size=splits.image_size
    )
    labels = torch.from_numpy(splits.train.labels)
    return replace(found, splits=splits, labels=labels, train_images=len(labels))


def told(code: str, seen: Subject, cache: Path) -> list[Finding]:
    return [finding for finding in check_data(seen, cache) if finding.code == code]


def pictures(count: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def arrays(
    path: Path,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
) -> str:
    """The override for an .npz of these images; test images are of class 0 and 1 in turn."""
    test = pictures(2000, seed=99) if test is None else test
    test_labels = np.arange(len(test)) % 2 if test_labels is None else test_labels
    np.savez(path, x_train=train, y_train=labels, x_test=test, y_test=test_labels)
    return f"data.source=arrays:{path}"


def folder(root: Path, sizes: list[tuple[int, int]], per_class: int = 8) -> str:
    """The override for a folder of two classes with images of these (width, height), in turn."""
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            width, height = sizes[index % len(sizes)]
            seed = index + 100 * (name == "dog")
            pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return f"data.source=folder:{root}"


@pytest.fixture
def even(tmp_path: Path) -> Subject:
    """Two classes of ten different images, and 2,000 test images."""
    return subject(arrays(tmp_path / "even.npz", pictures(20), np.arange(20) % 2))


def test_good_data_has_nothing_to_tell(even: Subject, cache: Path) -> None:
    assert check_data(even, cache) == []


def test_classes_of_different_sizes(tmp_path: Path, cache: Path, even: Subject) -> None:
    labels = np.array([0] * 15 + [1] * 5)
    source = arrays(tmp_path / "uneven.npz", pictures(20), labels)
    (found,) = told("GU401", subject(source), cache)
    assert (found.level, found.saw) == ("note", "0 has 15 training images, 1 5: 3.0 to 1")
    assert overrides_of(found.mend) == ["train.sampling=balanced"]
    for balancing in (found.mend, "loss.class_weights=balanced"):
        (balanced,) = told("GU401", subject(source, balancing), cache)
        assert balanced.saw.endswith("which the recipe balances")
        assert balanced.mend == ""
    assert not told("GU401", even, cache)


def test_a_class_with_one_image(tmp_path: Path, cache: Path, even: Subject) -> None:
    (found,) = told("GU402", subject(arrays(tmp_path / "one.npz", pictures(20), np.array([0] * 19 + [1]))), cache)
    assert (found.level, found.saw) == ("warning", "1 of 2: 1 (1)")
    (limited,) = told("GU402", subject("data.limit=12"), cache)
    assert overrides_of(limited.mend) == ["data.limit=null"]
    assert not told("GU402", even, cache)


def test_without_images_the_balance_is_still_told(cache: Path) -> None:
    blind = replace(subject_of(load_recipe("digits"), train_images=40, classes=3), labels=torch.tensor([0] * 9 + [1]))
    assert [finding.code for finding in check_data(blind, cache)] == ["GU402", "GU401"]
    assert not cache.exists()


def test_images_that_come_several_times(tmp_path: Path, cache: Path, even: Subject) -> None:
    train = pictures(20)
    train[2], train[18] = train[0], train[0]
    (found,) = told("GU403", subject(arrays(tmp_path / "twice.npz", train, np.arange(20) % 2)), cache)
    assert (found.level, found.saw) == ("note", "train: 2 of 20 images repeat an earlier one")
    assert not told("GU403", even, cache)


def test_test_images_that_are_trained_on(tmp_path: Path, cache: Path, even: Subject) -> None:
    train, test = pictures(20), pictures(2000, seed=99)
    test[4], test[6] = train[0], train[2]
    source = arrays(tmp_path / "leak.npz", train, np.arange(20) % 2, test)
    (found,) = told("GU404", subject(source), cache)
    assert (found.level, found.saw) == ("note", "test in train: 2 of 2,000 images (0.10%)")
    assert not told("GU405", subject(source), cache)
    assert not told("GU404", even, cache)


def test_images_that_validation_shares_with_train(tmp_path: Path, cache: Path) -> None:
    train = np.repeat(pictures(1), 20, axis=0)
    saw = [
        found.saw
        for found in told(
            "GU404", subject(arrays(tmp_path / "same.npz", train, np.arange(20) % 2), "data.validation=0.2"), cache
        )
    ]
    assert saw == ["validation in train: 4 of 4 images (100.00%)"]


def test_one_image_under_two_labels(tmp_path: Path, cache: Path, even: Subject) -> None:
    train = pictures(20)
    train[3] = train[0]
    (found,) = told("GU405", subject(arrays(tmp_path / "labels.npz", train, np.arange(20) % 2)), cache)
    assert found.level == "note"
    assert found.saw == "1 different images (2 with all copies), such as train 0 as 0 and train 3 as 1"
    assert not told("GU405", even, cache)


def test_images_that_could_not_be_read(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "pets", [(8, 8)])
    assert not told("GU406", subject(source), cache)
    (tmp_path / "pets" / "cat" / "0.png").write_bytes(b"not a picture")
    (found,) = told("GU406", subject(source, "data.on_bad_image=skip"), cache)
    assert found.level == "note"
    assert "1 images: " in found.saw
    assert "cat/0.png (not an image" in found.saw


def test_long_images_that_are_squashed(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "wide", [(20, 10), (10, 10)])
    (found,) = told("GU407", subject(source, "data.resolution=8"), cache)
    assert (found.level, overrides_of(found.mend)) == ("note", ["data.resize=crop"])
    assert found.saw.startswith("50% of 16 images looked at (10x10 to 20x10 px)")
    assert not told("GU407", subject(source, "data.resolution=8", "data.resize=crop"), cache)


def test_small_images_that_are_enlarged(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "small", [(10, 10), (12, 12)])
    (found,) = told("GU407", subject(source, "data.resolution=32"), cache)
    assert "100% of 16 images" in found.saw
    assert "enlarged to data.resolution=32; the median side is 11 px" in found.saw
    assert not told("GU407", subject(source, *overrides_of(found.mend), "data.resolution=10"), cache)


def test_images_of_one_square_size_are_not_looked_up(tmp_path: Path, cache: Path) -> None:
    assert not told("GU407", subject(folder(tmp_path / "square", [(16, 16)])), cache)
    assert not told("GU407", subject(folder(tmp_path / "even", [(16, 16)]), "data.resolution=16"), cache)


def test_sizes_inside_parquet_are_seen_too(tmp_path: Path, cache: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def png(index: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.full((10, 30, 3), index, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(index), "path": None} for index in range(20)], type=kind)
    table = pa.table({"img": images, "label": pa.array([index % 2 for index in range(20)])})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    (found,) = told("GU407", subject(f"data.source=parquet:{tmp_path / 'data'}", "data.resolution=8"), cache)
    assert "(30x10 to 30x10 px)" in found.saw


def test_a_small_test_split(cache: Path, even: Subject) -> None:
    (found,) = told("GU408", subject(), cache)
    assert found.level == "note"
    assert found.saw == "359 test images: the 95% interval is 10.3 points wide near 50% and 4.6 near 95%"
    assert not told("GU408", even, cache)


def test_pixels_that_are_decoded_anew_are_not_compared(cache: Path, even: Subject) -> None:
    on_demand = subject("data.cache=none")
    (found,) = told("GU409", on_demand, cache)
    assert overrides_of(found.mend) == ["data.cache=disk"]
    assert not told("GU403", on_demand, cache)
    assert not told("GU409", even, cache)


def test_the_search_is_kept_in_the_cache(even: Subject, cache: Path) -> None:
    check_data(even, cache / "preflight")
    assert len(list((cache / "preflight").glob("duplicates-*.json"))) == 1


def twice(place: Path, at: int, labels: np.ndarray) -> Subject:
    """Twenty training images, of which number `at` is the first one again."""
    train = pictures(20)
    train[at] = train[0]
    return subject(arrays(place / "twice.npz", train, labels))


def leaked(place: Path, images: int) -> Subject:
    """Of twenty training images so many stand in test too."""
    train, test = pictures(20), pictures(2000, seed=99)
    test[:images] = train[:images]
    return subject(arrays(place / "leaked.npz", train, TURNS, test))


def unreadable(place: Path, files: int) -> Subject:
    """Two classes of eight images, of which so many are no images."""
    source = folder(place / "pets", [(8, 8)])
    for index in range(files):
        (place / "pets" / "cat" / f"{index}.png").write_bytes(b"not a picture")
    return subject(source, "data.on_bad_image=skip")


TURNS = np.arange(20) % 2
# code, data that has it, and the nearest that has it not
CASES: list[tuple[str, Callable[[Path], Subject], Callable[[Path], Subject]]] = [
    ("GU401", lambda place: of_labels(place, [15, 5]), lambda place: of_labels(place, [10, 10])),
    ("GU402", lambda place: of_labels(place, [19, 1]), lambda place: of_labels(place, [15, 5])),
    ("GU403", lambda place: twice(place, 2, TURNS), lambda place: twice(place, 0, TURNS)),
    ("GU404", lambda place: leaked(place, 1), lambda place: leaked(place, 0)),
    ("GU405", lambda place: twice(place, 3, TURNS), lambda place: twice(place, 2, TURNS)),
    ("GU406", lambda place: unreadable(place, 1), lambda place: unreadable(place, 0)),
    ("GU407", lambda place: sized(place, (20, 10)), lambda place: sized(place, (10, 10))),
    ("GU408", lambda place: measured_on(place, 300), lambda place: measured_on(place, 2000)),
    ("GU409", lambda _: subject("data.cache=none"), lambda _: subject()),
]


def of_labels(place: Path, counts: list[int]) -> Subject:
    """So many training images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return subject(arrays(place / "labels.npz", pictures(len(labels)), labels))


def sized(place: Path, size: tuple[int, int]) -> Subject:
    """Images of this width and height among square ones, trained on at 8 px."""
    return subject(folder(place / "sizes", [size, (10, 10)]), "data.resolution=8")


def measured_on(place: Path, images: int) -> Subject:
    """Twenty training images, and so many to test on."""
    return subject(arrays(place / "tested.npz", pictures(20), TURNS, pictures(images, seed=99)))


@pytest.mark.parametrize(("code", "wrong", "sound"), CASES, ids=[case[0] for case in CASES])
def test_a_code_is_found_where_it_is_and_not_beside_it(
    code: str,
    wrong: Callable[[Path], Subject],
    sound: Callable[[Path], Subject],
    tmp_path: Path,
    cache: Path,
) -> None:
    for name, made, expected in (("wrong", wrong, True), ("sound", sound, False)):
        (tmp_path / name).mkdir()
        assert bool(told(code, made(tmp_path / name), cache / name)) is expected


def test_every_code_has_a_case() -> None:
    assert {code for code, *_ in CASES} == set(DATA_CODES)
    assert all(number == code.number for number, code in DATA_CODES.items())


def test_what_belongs_to_the_data_is_a_note() -> None:
    assert {number for number, code in DATA_CODES.items() if code.level != "note"} == {"GU402"}


@pytest.mark.slow
def test_cifar100_holds_a_few_images_twice(datasets_folder: Path, cache: Path) -> None:
    real = subject(f"data.source=parquet:{datasets_folder / 'cifar100'}", "data.image=img", "data.label=fine_label")
    saw = {finding.code: finding.saw for finding in check_data(real, cache)}
    assert saw["GU404"] == "test in train: 10 of 10,000 images (0.10%)"
    assert saw["GU405"].startswith("17 different images (34 with all copies)")
    assert isinstance(real.splits, Splits)
