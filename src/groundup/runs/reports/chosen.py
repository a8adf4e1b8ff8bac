"""Images that were asked for by their place in the split: what the run says of them, and where it looked (Grad-CAM of the class it
said)."""

import hashlib

import torch

from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, percent
from groundup.runs.reports.mistakes import GRAD_CAM, NO_GRAD_CAM, draw

MOST = 100  # images


def measure(subject: Subject) -> Facts:
    """The answer for each image of `subject.chosen`; draws them beside their heat."""
    logits, labels = subject.logits()
    places = torch.tensor(subject.chosen)
    sure, said = torch.softmax(logits[places].double(), dim=1).max(1)
    rows = [
        {"image": place, "said": subject.classes[own], "is": subject.classes[label], "confidence": float(share)}
        for place, own, label, share in zip(
            subject.chosen, said.tolist(), labels[places].tolist(), sure.tolist(), strict=True
        )
    ]
    mark = hashlib.sha256(repr(subject.chosen).encode()).hexdigest()[:8]
    titles = [f"{row['image']}: {row['confidence']:.0%} {row['said']}, is {row['is']}" for row in rows]
    looked = draw(subject, places, said, titles, picture := subject.picture("chosen", mark))
    return {"images": len(rows), "shown": rows, "grad_cam": looked, "pictures": [picture.name]}


def show(facts: Facts) -> Shown:
    """Every image by name."""
    rows = [[str(row["image"]), row["said"], row["is"], percent(row["confidence"], 1)] for row in facts["shown"]]
    caption = GRAD_CAM if facts["grad_cam"] else NO_GRAD_CAM
    table = Table(["image", "answer", "is", "confidence"], rows)
    return Shown([], [table], wide=facts["pictures"], caption=caption)


def _which(facts: Facts) -> str:
    return "images " + ", ".join(str(row["image"]) for row in facts["shown"])


SECTION = Section("Chosen images", measure, show, measured_on=_which)
