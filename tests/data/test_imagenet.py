"""The names of ImageNet's classes."""

from collections.abc import Callable
from pathlib import Path

from groundup.data import DataSettings, load_splits
from groundup.data.imagenet import imagenet_names, spoken_names


def test_there_are_1000_classes_in_the_order_of_their_ids_each_with_a_name_of_its_own() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert all(len(key) == 9 and key[0] == "n" and key[1:].isdigit() for key in names)
    assert len(set(names.values())) == 1000
    assert all(name == name.strip() != "" for name in names.values())


def test_known_ids_have_their_known_numbers_and_names() -> None:
    names = list(imagenet_names().items())
    assert names[0] == ("n01440764", "tench")
    assert names[999] == ("n15075141", "toilet paper")
    # The ten classes of Imagenette, with their numbers in ImageNet-1k.
    known = {0: "n01440764", 217: "n02102040", 482: "n02979186", 491: "n03000684", 497: "n03028079"}
    known |= {566: "n03394916", 569: "n03417042", 571: "n03425413", 574: "n03445777", 701: "n03888257"}
    assert {number: names[number][0] for number in known} == known
    assert [names[number][1] for number in (482, 497, 574, 701)] == [
        "cassette player",
        "church",
        "golf ball",
        "parachute",
    ]


def test_names_that_are_not_all_ids_stay_as_they_are() -> None:
    assert spoken_names(["n01440764", "n03028079"]) == ["tench", "church"]
    assert spoken_names(["n01440764", "fish"]) == ["n01440764", "fish"]
    assert spoken_names([]) == []


def test_the_classic_folder_gets_the_names_in_the_order_of_the_ids(
    tmp_path: Path, save_folder: Callable[..., Path]
) -> None:
    save_folder(tmp_path / "x" / "train", ["n03445777", "n01440764"], per_class=4)
    save_folder(tmp_path / "x" / "val", ["n03445777", "n01440764"], per_class=2, start=50)
    splits = load_splits(DataSettings(source=f"folder:{tmp_path / 'x'}"))
    assert splits.classes == ["tench", "golf ball"]
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4
