"""Images of the split that (nearly) stand in train, found by the run's own features and confirmed by their pixels, and what they
are worth: the accuracy with and without them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.basis.pictures import image_grid
from groundup.data import ImageSet
from groundup.evaluation import NEAR_DUPLICATE, confirm_by_pixels, correct, evaluation_mode, nearest, wilson
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, percent, pixels

_SHOWN = 24
_COLUMNS = 4
_AT_ONCE = 20_000  # training images whose features are in memory


def measure(subject: Subject) -> Facts:
    """The near-duplicates of the split in train, closest first; draws the closest pairs."""
    if subject.split == "train":
        raise UsageError(
            "--duplicates: looks for images of another split in train; allowed: --split test or validation"
        )
    partners = _partners(subject)
    if partners is None:
        return {"found": None, "pictures": []}
    distances = _distances(subject.part(), subject.part("train"), partners)
    logits, labels = subject.logits()
    hits = correct(logits, labels)
    copies = distances <= NEAR_DUPLICATE
    order = torch.nonzero(copies)[:, 0]
    order = order[distances[order].argsort(stable=True)]
    train = subject.part("train")
    pairs = [
        {
            "image": place,
            "train_image": int(partners[place]),
            "is": subject.classes[labels[place]],
            "train_is": subject.classes[train.labels[int(partners[place])]],
            "distance": round(float(distances[place]), 5),
        }
        for place in order.tolist()
    ]
    groups = {"all images": torch.ones_like(copies), "without near-duplicates": ~copies, "near-duplicates": copies}
    return {
        "images": len(labels),
        "train_images": len(train),
        "found": len(pairs),
        "other_label": sum(pair["is"] != pair["train_is"] for pair in pairs),
        "threshold": NEAR_DUPLICATE,
        "accuracies": {name: _share(hits[inside]) for name, inside in groups.items()},
        "pairs": pairs,
        "pictures": _draw(subject, pairs[:_SHOWN]),
    }


def _share(hits: Tensor) -> dict[str, Any]:
    right, images = int(hits.sum()), len(hits)
    return {"images": images, "top1": right / images if images else None, "interval": list(wilson(right, images))}


def _partners(subject: Subject) -> Tensor | None:
    """The nearest training image of each image of the split, int64 (N,); None for a network without a linear layer."""
    head = next((module for module in reversed(list(subject.model.modules())) if isinstance(module, nn.Linear)), None)
    if head is None:
        return None
    features = torch.cat(list(_features(subject, subject.part(), head)))
    told = _told_in_tenths(subject, len(subject.part("train")))
    best = torch.full((len(features),), -torch.inf)
    index = torch.zeros(len(features), dtype=torch.int64)
    train = subject.part("train")
    for start in range(0, len(train), _AT_ONCE):
        some = train.subset(np.arange(start, min(start + _AT_ONCE, len(train))))
        found, similarity = nearest(
            features, torch.cat(list(told(_features(subject, some, head)))), check=subject.stop.check
        )
        closer = similarity.cpu() > best
        best = torch.where(closer, similarity.cpu(), best)
        index = torch.where(closer, found.cpu() + start, index)
    return index


def _told_in_tenths(subject: Subject, total: int) -> Callable[[Iterator[Tensor]], Iterator[Tensor]]:
    """Passes batches of features on, and tells of every tenth of the `total` images."""
    done = 0

    def told(batches: Iterator[Tensor]) -> Iterator[Tensor]:
        nonlocal done
        for batch in batches:
            before, done = 10 * done // total, done + len(batch)
            if 10 * done // total > before:
                subject.tell(f"near-duplicates: features of {done:,} of {total:,} training images")
            yield batch

    return told


def _features(subject: Subject, images: ImageSet, head: nn.Module) -> Iterator[Tensor]:
    """What enters the last linear layer, float32 (B, D), batch after batch, on the device."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        for pictures, _ in subject.batches(images):
            subject.stop.check()
            seen.clear()
            # Entered for each batch: between two of them the caller may do anything.
            with evaluation_mode(subject.model), torch.no_grad(), subject.engine.autocast():
                subject.model(subject.normalized(pictures))
            yield seen[-1].float().flatten(1)
    finally:
        hook.remove()


def _distances(images: ImageSet, train: ImageSet, partners: Tensor, block: int = 1024) -> Tensor:
    """How far the pixels of each image are from those of its partner, float32 (N,)."""
    places = torch.arange(len(partners))
    return torch.cat(
        [
            confirm_by_pixels(pixels(images, own.numpy()), pixels(train, other.numpy()))
            for own, other in zip(places.split(block), partners.split(block), strict=True)
        ]
    )


def _draw(subject: Subject, pairs: list[Facts]) -> list[str]:
    if not pairs:
        return []
    own = pixels(subject.part(), [pair["image"] for pair in pairs]).permute(0, 2, 3, 1).numpy()
    other = pixels(subject.part("train"), [pair["train_image"] for pair in pairs]).permute(0, 2, 3, 1).numpy()
    titles = [pair["is"] if pair["is"] == pair["train_is"] else f"{pair['is']} | {pair['train_is']}" for pair in pairs]
    picture = subject.picture("duplicates")
    image_grid(other, titles, picture, _COLUMNS, originals=own)
    return [picture.name]


def show(facts: Facts) -> Shown:
    """How many were found, and what they are worth."""
    if facts["found"] is None:
        return Shown(["the network ends in no linear layer: there are no features to compare"])
    lines = [
        f"{facts['found']:,} of {facts['images']:,} images have a near-duplicate among the {facts['train_images']:,} training "
        f"images, {facts['other_label']:,} of them under another label",
        f"nearest in feature space, confirmed by pixels that differ by at most {facts['threshold']:.0%} of their range: "
        "a lower bound, and flat images may be alike without being copies",
    ]
    rows = [
        [name, percent(part["top1"]), between(part["interval"]) if part["images"] else "", f"{part['images']:,}"]
        for name, part in facts["accuracies"].items()
    ]
    caption = (
        "Left the image of the split, right its neighbour in train, closest first; two names where the labels differ."
    )
    table = Table(["", "top-1", "95% interval", "images"], rows)
    return Shown(lines, [table], wide=facts["pictures"], caption=caption if facts["pictures"] else "")


SECTION = Section("Near-duplicates in train", measure, show)
