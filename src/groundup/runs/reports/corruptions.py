"""How the run does on damaged images: 15 generated corruptions at 5 severities, or images that were corrupted elsewhere.

Images   2,000 of the split, with the classes in proportion, the same for every run on the data; all of them with --full.
Mean     over all corruptions and severities alike. Its interval is a bootstrap over the images, each with its share of the
         variants that is right: it speaks of the choice of images, not of the kinds of damage.
Reading  compare with numbers of generated corruptions alone (see `evaluation.corruptions`): they are another draw than
         CIFAR-10-C, CIFAR-100-C and ImageNet-C, and frost is procedural.
"""

from collections.abc import Iterator

import torch
from pydantic import ValidationError
from torch import Tensor

from groundup.basis.errors import UsageError
from groundup.basis.seeding import generator
from groundup.data import DOORS, DataSettings, ImageSet
from groundup.data.pixels.cache import open_cached
from groundup.data.sources import Source
from groundup.evaluation import bootstrap, correct, wilson
from groundup.evaluation.corruptions import APPROXIMATE, CORRUPTIONS, SEVERITIES, corrupt
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, between, percent
from groundup.runs.reports.pictures import corruption_picture

_IMAGES = 2000
_SEED = 0  # of the images and of the damage: not the run's, so that all runs meet the same


def measure(subject: Subject) -> Facts:
    """Accuracy on every corruption at every severity, and their mean; draws them."""
    whole = subject.part()
    images = whole if subject.full else whole.subset(subject.some(subject.split, _IMAGES, _SEED, "corruptions"))
    clean = correct(*subject.logits_of(images))
    rows: dict[str, list[float]] = {}
    right = torch.zeros(len(images), dtype=torch.float64)  # of each image, over all variants
    for number, name in enumerate(CORRUPTIONS, start=1):
        subject.tell(f"corruption {number} of {len(CORRUPTIONS)}: {name}")
        hits = [correct(*subject.collect(_damaged(subject, images, name, severity))) for severity in SEVERITIES]
        rows[name] = [float(hit.double().mean()) for hit in hits]
        right += torch.stack(hits).double().sum(0)
    shares = right / (len(CORRUPTIONS) * len(SEVERITIES))
    picture = subject.picture("corruptions", str(len(images)))
    mean = float(shares.mean())
    top1 = float(clean.double().mean())
    corruption_picture(
        rows, top1, APPROXIMATE, picture, f"{subject.recipe.name}: {percent(mean, 1)} on the mean corruption"
    )
    return {
        "images": len(images),
        "of": len(whole),
        "clean": top1,
        "clean_interval": list(wilson(int(clean.sum()), len(clean))),
        "mean": mean,
        "mean_interval": _interval(shares),
        "by_severity": [sum(row[place] for row in rows.values()) / len(rows) for place in range(len(SEVERITIES))],
        "by_corruption": rows,
        "procedural": sorted(APPROXIMATE),
        "pictures": [picture.name],
    }


def _interval(shares: Tensor) -> list[float] | None:
    if len(shares) < 2:
        return None
    drawn = generator("corruption interval")
    return list(bootstrap(lambda places: float(shares[places].mean()), len(shares), generator=drawn, within=(0.0, 1.0)))


def _damaged(subject: Subject, images: ImageSet, name: str, severity: int) -> Iterator[tuple[Tensor, Tensor]]:
    first = 0
    for pictures, labels in subject.batches(images):
        yield subject.normalized(corrupt(pictures, name, severity, _SEED, first)), labels
        first += len(labels)


def show(facts: Facts) -> Shown:
    """The mean, and a row for each corruption."""
    few = "" if facts["images"] == facts["of"] else f" of {facts['of']:,}, chosen by a fixed seed"
    interval = f" (95% interval {between(facts['mean_interval'])})" if facts["mean_interval"] else ""
    lines = [
        f"mean corruption accuracy {percent(facts['mean'])}{interval}; clean {percent(facts['clean'])} on the same images",
        f"generated corruptions on {facts['images']:,} images{few}: no published corrupted set was used",
    ]
    rows = [["all", *(percent(share, 1) for share in facts["by_severity"]), percent(facts["mean"], 1)]]
    for name, row in facts["by_corruption"].items():
        title = name.replace("_", " ") + (" (procedural)" if name in facts["procedural"] else "")
        rows.append([title, *(percent(share, 1) for share in row), percent(sum(row) / len(row), 1)])
    head = ["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    return Shown(lines, [Table(head, rows)], wide=facts["pictures"])


def measure_given(subject: Subject) -> Facts:
    """Accuracy on all images of the source that `--corrupted` names."""
    assert subject.corrupted is not None
    images, split, fingerprint = _given(subject, subject.corrupted)
    hits = correct(*subject.logits_of(images))
    right = int(hits.sum())
    return {
        "source": subject.corrupted.partition(":")[0] + ":" + subject.corrupted.rstrip("/").rpartition("/")[2],
        "split": split,
        "fingerprint": fingerprint,
        "images": len(images),
        "top1": right / len(hits),
        "top1_interval": list(wilson(right, len(hits))),
    }


def open_given(subject: Subject, source: str) -> tuple[Source, DataSettings]:
    """What `--corrupted` names, opened and not yet decoded. UsageError if it is no source, DataError if it is not there."""
    own = subject.recipe.data
    columns = {"image": own.image, "label": own.label} if source.partition(":")[0] in ("hub", "parquet") else {}
    side = own.resolution or subject.splits.image_size
    try:
        settings = DataSettings(source=source, resolution=side, resize=own.resize, **columns)
    except ValidationError as error:
        said = "; ".join(entry["msg"] for entry in error.errors())
        raise UsageError(f"--corrupted {source}: {said.replace('Value error, ', '')}") from error
    return DOORS[settings.kind](settings, subject.stop.check), settings


def _given(subject: Subject, source: str) -> tuple[ImageSet, str, str]:
    """The test split of a source, or its only one, decoded as the run's own images, its name, and the source's fingerprint."""
    cached = open_cached(*open_given(subject, source), subject.stop.check, None)
    if cached.classes != subject.classes:
        raise UsageError(
            f"--corrupted {source}: has other classes than the run ({len(cached.classes)} and {len(subject.classes)})",
            hint="the class names must be the same, in the same order",
        )
    name = next(split for split in ("test", "validation", "train") if split in cached.splits)
    found = cached.splits[name]
    return ImageSet(found.images, found.labels, torch.arange(len(found.labels)).numpy()), name, cached.fingerprint[:12]


def show_given(facts: Facts) -> Shown:
    """One sentence."""
    return Shown(
        [
            f"{facts['source']}, split {facts['split']}: top-1 {percent(facts['top1'])} "
            f"(95% interval {between(facts['top1_interval'])}), {facts['images']:,} images"
        ]
    )


def _how_many(facts: Facts) -> str:
    return f"{facts['images']} images"


def _which(facts: Facts) -> str:
    # The fingerprint too: two folders may have one name.
    return " ".join(filter(None, (facts["source"], facts.get("fingerprint"))))


SECTION = Section("Generated corruptions", measure, show, _how_many)
GIVEN = Section("Images corrupted elsewhere", measure_given, show_given, _which)
