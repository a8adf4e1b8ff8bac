"""Planted copies in train: found whether mirrored or not, left out, by features of the right layer, with progress told."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from groundup import augment
from groundup.basis.interruption import StopRequest
from groundup.data import ImageSet, Splits
from groundup.evaluation import NEAR_DUPLICATE
from groundup.runs.evaluate import Wanted, _open, evaluate
from groundup.runs.load import Classifier
from groundup.runs.reports import Subject, duplicates
from groundup.runs.reports.merging import usable
from groundup.runs.trained import open_trained


def with_copies(splits: Splits, plain: int, mirrored: int) -> Splits:
    """The splits with the first test images as copies of the first training images, the next ones as mirrored copies."""
    test, train = splits.test, splits.train
    assert test is not None
    images = np.concatenate([train.images[train.indices], test.images[test.indices]])
    labels = np.concatenate([train.labels, test.labels])
    first, copies = len(train), plain + mirrored
    images[first : first + plain] = images[:plain]
    images[first + plain : first + copies] = images[plain:copies, :, ::-1]
    labels[first : first + copies] = labels[:copies]
    places = np.arange(len(images))
    return Splits(
        ImageSet(images, labels[:first], places[:first]),
        splits.validation,
        ImageSet(images, labels[first:], places[first:]),
        splits.classes,
        splits.image_size,
        splits.fingerprint,
    )


def test_every_copy_in_train_is_found_mirrored_or_not_and_left_out(
    copied: Path, classifier: Classifier, splits: Splits
) -> None:
    own = with_copies(splits, plain=9, mirrored=9)
    evaluate(copied, sections=["duplicates"], data=own)
    found = json.loads((copied / "evaluation.json").read_text())["sections"]["duplicates"]["test"]
    assert found["train_images"] == len(own.train)
    exact = {(pair["image"], pair["train_image"]) for pair in found["pairs"] if pair["likeness"] == 1}
    # Digits are symmetric enough for none to stand in train by itself: the planted ones are all, and all are found.
    assert exact == {(place, place) for place in range(18)}
    assert all(pair["likeness"] >= NEAR_DUPLICATE for pair in found["pairs"])
    images, labels = own.test.to_device("cpu")  # type: ignore[union-attr]
    shown = augment.normalize(images.permute(0, 3, 1, 2), classifier.mean, classifier.std)
    with torch.no_grad():
        hits = classifier.model(shown).argmax(1) == labels
    copies = torch.zeros_like(hits)
    copies[[pair["image"] for pair in found["pairs"]]] = True
    parts = found["accuracies"]
    for name, inside in (("all images", hits >= 0), ("near-duplicates", copies), ("without near-duplicates", ~copies)):
        assert parts[name]["images"] == int(inside.sum())
        assert parts[name]["top1"] == pytest.approx(float(hits[inside].double().mean()), abs=1e-9)
    assert found["found"] == int(copies.sum()) >= 18


def subject_for_duplicates(run: Path, told: list[str]) -> Subject:
    return _open(open_trained(run), Wanted(sections=("duplicates",)), StopRequest(), told.append)


def test_a_copy_that_is_not_the_nearest_by_features_is_found_by_its_pixels(copied: Path, splits: Splits) -> None:
    subject = subject_for_duplicates(copied, [])
    subject.splits = with_copies(splits, plain=2, mirrored=1)
    candidates = torch.tensor([[9, 8, 0], [1, 7, 1], [6, 2, 5]])
    subject.splits = replace(subject.splits, test=subject.part().subset(np.arange(3)))
    partners, alike = duplicates._closest_by_pixels(subject, candidates, block=2)
    assert partners.tolist() == [0, 1, 2]
    assert alike.tolist() == [1, 1, 1]


def test_the_search_for_duplicates_tells_how_far_it_is_and_what_is_left(copied: Path) -> None:
    told: list[str] = []
    subject = subject_for_duplicates(copied, told)
    subject.recipe = subject.recipe.model_copy(
        update={"evaluate": subject.recipe.evaluate.model_copy(update={"batch_size": 20})}
    )
    seen: list[int] = []
    subject.model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    duplicates._candidates(subject)
    images = 2 * len(subject.part()) + len(subject.part("train"))
    assert sum(seen) == 1 + images  # the first finds out which layer is the last
    assert told[-1].endswith(f"features of {images:,} of {images:,} images")
    assert all(re.search(r"images, about \d+ (s|min) left$", line) for line in told[:-1])
    assert 5 <= len(told) <= 12


def test_copies_that_are_not_exact_are_found_in_order_and_some_of_them_shown(
    copied: Path, photographs: Callable[[int, int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = photographs(40, 32)
    darker = [(picture * (1 - 0.01 * place)).to(torch.uint8) for place, picture in enumerate(pictures[:30])]
    spoilt = [picture.roll(place % 3, 2) if place % 2 else picture for place, picture in enumerate(darker)]
    subject = subject_for_duplicates(copied, [])
    images = torch.cat([pictures[:35], torch.stack([*spoilt, *pictures[35:]])]).permute(0, 2, 3, 1).numpy()
    train, test = (ImageSet(images, places % 10, places) for places in np.split(np.arange(70), 2))
    subject.splits = replace(subject.splits, train=train, test=test)
    monkeypatch.setattr(duplicates, "_CANDIDATES", 35)  # all: which are nearest is the network's business
    found = duplicates.measure(subject)
    assert {(pair["image"], pair["train_image"]) for pair in found["pairs"]} == {(place, place) for place in range(30)}
    alike = [pair["likeness"] for pair in found["pairs"]]
    assert alike == sorted(alike, reverse=True)
    assert 1 > alike[1] > alike[-1] >= NEAR_DUPLICATE
    drawn = duplicates._spread(found["pairs"])
    assert len(drawn) == 24
    assert (drawn[0], drawn[-1]) == (found["pairs"][0], found["pairs"][-1])
    assert found["accuracies"]["near-duplicates"]["images"] == 30
    said = " ".join(duplicates.show(found).lines)
    assert "likeness of 0.65 or more" in said
    assert "only" not in said


def test_of_tiny_images_it_is_said_that_only_equal_ones_are_found(copied: Path) -> None:
    found = duplicates.measure(subject_for_duplicates(copied, []))
    assert "equal ones only, since images of less than 16 px" in duplicates.show(found).lines[1]


def test_what_was_measured_by_an_earlier_rule_is_kept_and_said_as_it_was(copied: Path) -> None:
    share = {"images": 10, "top1": 0.5, "interval": [0.2, 0.8]}
    groups = ("all images", "without near-duplicates", "near-duplicates")
    before = {
        **{"images": 10, "train_images": 20, "found": 1, "other_label": 0, "threshold": 0.04, "pictures": []},
        **{"accuracies": dict.fromkeys(groups, share), "pairs": []},
    }
    known, notes = usable({"duplicates": {"test": before}})
    assert (known, notes) == ({"duplicates": {"test": before}}, ())
    assert "differ by at most 4% of their range" in duplicates.show(before).lines[1]


class Heads(nn.Module):
    """Linear layers that are registered in another order than they are called in, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 10)
        self.body = nn.Linear(3, 6)
        self.spare = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.mean((2, 3))))


def test_features_are_what_enters_the_linear_layer_that_is_called_last(copied: Path) -> None:
    subject = subject_for_duplicates(copied, [])
    own = Heads()
    subject.classifier = replace(subject.classifier, model=own)
    assert duplicates._last_linear(subject) is own.head
    assert duplicates.measure(subject)["found"] is not None
    own.forward = lambda images: images.mean((2, 3)).repeat(1, 4)[:, :10]  # type: ignore[method-assign]
    found = duplicates.measure(subject)
    assert found["found"] is None
    assert "no features to compare" in duplicates.show(found).lines[0]
