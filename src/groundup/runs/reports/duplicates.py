"""Images of the split that (nearly) stand in train, found by the run's own features and confirmed by their pixels, and what they
are worth: the accuracy with and without them.

Candidates   the nearest `_CANDIDATES` training images by features of each image as it is, and as many of it mirrored: a network
             that was trained without flips sees a mirrored copy as another image.
Features     what enters the last linear layer that a forward pass calls.
Cost         a forward pass of every training image, and two of every image of the split; the pixels of the pairs besides.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.basis.pictures import image_grid
from groundup.data import ImageSet
from groundup.evaluation import NEAR_DUPLICATE, correct, evaluation_mode, likeness, nearest, wilson
from groundup.evaluation.neighbours import LEAST_SIDE, closest
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, percent, pixels

_SHOWN = 24
_COLUMNS = 4
_AT_ONCE = 20_000  # training images whose features are in memory
_CANDIDATES = 5  # training images by features for each image of the split, and for its mirror image
_TOLD = 10  # times that progress is told


def measure(subject: Subject) -> Facts:
    """The near-duplicates of the split in train, most alike first; draws some of them."""
    if subject.split == "train":
        raise UsageError(
            "--duplicates: looks for images of another split in train; allowed: --split test or validation"
        )
    candidates = _candidates(subject)
    if candidates is None:
        return {"found": None, "pictures": []}
    partners, alike = _closest_by_pixels(subject, candidates)
    logits, labels = subject.logits()
    hits = correct(logits, labels)
    copies = alike >= NEAR_DUPLICATE
    order = torch.nonzero(copies)[:, 0]
    order = order[alike[order].argsort(descending=True, stable=True)]
    train = subject.part("train")
    pairs = [
        {
            "image": place,
            "train_image": int(partners[place]),
            "is": subject.classes[labels[place]],
            "train_is": subject.classes[train.labels[int(partners[place])]],
            "likeness": round(float(alike[place]), 5),
        }
        for place in order.tolist()
    ]
    groups = {"all images": torch.ones_like(copies), "without near-duplicates": ~copies, "near-duplicates": copies}
    return {
        "images": len(labels),
        "train_images": len(train),
        "found": len(pairs),
        "other_label": sum(pair["is"] != pair["train_is"] for pair in pairs),
        "least_likeness": NEAR_DUPLICATE,
        "exact_only": min(train.images.shape[1:3]) < LEAST_SIDE,
        "accuracies": {name: _share(hits[inside]) for name, inside in groups.items()},
        "pairs": pairs,
        "pictures": _draw(subject, _spread(pairs)),
    }


def _share(hits: Tensor) -> dict[str, Any]:
    right, images = int(hits.sum()), len(hits)
    return {"images": images, "top1": right / images if images else None, "interval": list(wilson(right, images))}


def _candidates(subject: Subject) -> Tensor | None:
    """The training images nearest to each image of the split as it is and mirrored, int64 (N, K); None for a network without a
    linear layer."""
    head = _last_linear(subject)
    if head is None:
        return None
    own, train = subject.part(), subject.part("train")
    progress = _Progress(subject, 2 * len(own) + len(train), "features")
    # Both views of the split, one below the other: (2 N, D).
    features = torch.cat([batch for flip in (False, True) for batch in _features(subject, own, head, progress, flip)])
    found: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(train), _AT_ONCE):
        some = train.subset(np.arange(start, min(start + _AT_ONCE, len(train))))
        index, similarity = nearest(
            features,
            torch.cat(list(_features(subject, some, head, progress))),
            check=subject.stop.check,
            count=_CANDIDATES,
        )
        here = index + start, similarity
        found = here if found is None else closest(found, here, _CANDIDATES)
    assert found is not None, "training images are never none"
    plain, mirrored = found[0].cpu().split(len(own))
    return torch.cat([plain, mirrored], dim=1)


def _last_linear(subject: Subject) -> nn.Module | None:
    """The linear layer that a forward pass calls last, whatever the order in which the network names its layers."""
    called: list[nn.Module] = []
    linear = [module for module in subject.model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(lambda module, inputs: called.append(module)) for module in linear]
    try:
        one = subject.part().subset(np.arange(1))
        with evaluation_mode(subject.model), torch.no_grad(), subject.engine.autocast():
            subject.model(subject.normalized(next(iter(subject.batches(one)))[0]))
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else None


class _Progress:
    """Tells of how many of `total` images the features or pixels are looked at, and about how long the others will take."""

    def __init__(self, subject: Subject, total: int, what: str) -> None:
        self.tell, self.what, self.total, self.done, self.started = subject.tell, what, total, 0, time.monotonic()

    def add(self, images: int) -> None:
        """`images` more are done. Tells of the first ones, for how long it will take, and of every tenth."""
        before, self.done = self.done, self.done + images
        if before and _TOLD * self.done // self.total == _TOLD * before // self.total:
            return
        left = (time.monotonic() - self.started) * (self.total - self.done) / self.done
        about = f", about {left / 60:.0f} min left" if left >= 60 else f", about {left:.0f} s left"
        about = about if self.done < self.total else ""
        self.tell(f"near-duplicates: {self.what} of {self.done:,} of {self.total:,} images{about}")


def _features(
    subject: Subject, images: ImageSet, head: nn.Module, progress: _Progress, flip: bool = False
) -> Iterator[Tensor]:
    """What enters `head`, float32 (B, D), batch after batch, on the device. flip: of the mirror images."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        for pictures, _ in subject.batches(images):
            subject.stop.check()
            seen.clear()
            # Entered for each batch: between two of them the caller may do anything.
            with evaluation_mode(subject.model), torch.no_grad(), subject.engine.autocast():
                subject.model(subject.normalized(pictures.flip(3) if flip else pictures))
            progress.add(len(pictures))
            yield seen[-1].float().flatten(1)
    finally:
        hook.remove()


def _closest_by_pixels(subject: Subject, candidates: Tensor, block: int = 256) -> tuple[Tensor, Tensor]:
    """Of the `candidates` (N, K) of each image the one that is most alike by pixels, the lowest of equals, int64 (N,), and how
    alike they are, float32 (N,)."""
    own, train = subject.part(), subject.part("train")
    progress = _Progress(subject, len(candidates), "pixels")
    found = []
    for places in torch.arange(len(candidates)).split(block):
        # Pairs that both views found are looked at once.
        pairs = torch.stack([places.repeat_interleave(candidates.shape[1]), candidates[places].flatten()]).unique(dim=1)
        ours, theirs = (which.unique(return_inverse=True) for which in pairs)
        images = pixels(own, ours[0].numpy())[ours[1]], pixels(train, theirs[0].numpy())[theirs[1]]
        alike = likeness(*images, check=subject.stop.check)
        table = torch.full((len(places), len(theirs[0])), -torch.inf)
        table[ours[1], theirs[1]] = alike
        most = table.max(1)
        found.append((theirs[0][most.indices], most.values))
        progress.add(len(places))
    partners, most_alike = zip(*found, strict=True)
    return torch.cat(partners), torch.cat(most_alike)


def _spread(pairs: list[Facts]) -> list[Facts]:
    """`_SHOWN` of the pairs at most, from the first to the last at equal steps."""
    if len(pairs) <= _SHOWN:
        return pairs
    return [pairs[round(step * (len(pairs) - 1) / (_SHOWN - 1))] for step in range(_SHOWN)]


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
        f"the nearest in feature space, of each image as it is and mirrored, confirmed by {_rule(facts)}",
    ]
    rows = [
        [name, percent(part["top1"]), between(part["interval"]) if part["images"] else "", f"{part['images']:,}"]
        for name, part in facts["accuracies"].items()
    ]
    caption = (
        "Left the image of the split, right its neighbour in train, from the most alike to the least of them; two names where the "
        "labels differ."
    )
    table = Table(["", "top-1", "95% interval", "images"], rows)
    return Shown(lines, [table], wide=facts["pictures"], caption=caption if facts["pictures"] else "")


def _rule(facts: Facts) -> str:
    if "least_likeness" not in facts:  # a file of before
        return (
            f"pixels that differ by at most {facts['threshold']:.0%} of their range: a lower bound, and flat images may be alike "
            "without being copies"
        )
    if facts["exact_only"]:
        return f"their pixels: equal ones only, since images of less than {LEAST_SIDE} px have no details to compare"
    return (
        f"the details of their pixels (likeness of {facts['least_likeness']:.2f} or more, over shifts and crops); things of one "
        "series may be alike without being copies"
    )


SECTION = Section("Near-duplicates in train", measure, show)
