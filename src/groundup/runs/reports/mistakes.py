"""The mistakes that the run is surest of, as pictures, and where it looked (Grad-CAM of the class it said)."""

from pathlib import Path

import numpy as np
import torch

from groundup.basis.pictures import image_grid
from groundup.evaluation.grad_cam import grad_cam
from groundup.runs.reports.base import Facts, Section, Shown, Subject, Table, percent, pixels
from groundup.runs.reports.pictures import heated

_SHOWN = 24
_COLUMNS = 4
GRAD_CAM = "Left the image, right where the evidence for the predicted class lies (Grad-CAM: bright is strong)."
NO_GRAD_CAM = "The network makes no feature map of 2 x 2 or more: there is no Grad-CAM."


def measure(subject: Subject) -> Facts:
    """The most confident mistakes, most confident first; draws them beside their heat."""
    logits, labels = subject.logits()
    sure, said = torch.softmax(logits.double(), dim=1).max(1)
    wrong = torch.nonzero(said != labels)[:, 0]
    worst = wrong[sure[wrong].argsort(descending=True, stable=True)][:_SHOWN]
    rows = [
        {
            "image": place,
            "said": subject.classes[said[place]],
            "is": subject.classes[labels[place]],
            "confidence": float(sure[place]),
        }
        for place in worst.tolist()
    ]
    titles = [f"{row['confidence']:.0%} {row['said']}, is {row['is']}" for row in rows]
    plain = subject.picture("mistakes")
    looked = bool(rows) and draw(subject, worst, said[worst], titles, plain)
    pictures = [plain.name] if rows else []
    return {"images": len(labels), "wrong": len(wrong), "shown": rows, "grad_cam": looked, "pictures": pictures}


def draw(subject: Subject, places: torch.Tensor, said: torch.Tensor, titles: list[str], plain: Path) -> bool:
    """Draw the images at `places` beside the heat of the classes `said` into `plain`; False where the network cannot be looked
    into, and there is no heat."""
    images = pixels(subject.part(), places.numpy())
    shown = images.permute(0, 2, 3, 1).numpy()
    heat = grad_cam(subject.model, subject.normalized(images.to(subject.device)), said.to(subject.device))
    if heat is None:
        image_grid(shown, titles, plain, _COLUMNS)
        return False
    image_grid(heated(shown, np.asarray(heat)), titles, plain, _COLUMNS, originals=shown)
    return True


def show(facts: Facts) -> Shown:
    """How many mistakes there are, and the surest of them by name."""
    count = len(facts["shown"])
    if not count:
        return Shown([f"none: all of the {facts['images']:,} images are right"])
    lines = [
        f"{facts['wrong']:,} of {facts['images']:,} images are wrong; the page shows the {count} that the run is surest of"
    ]
    caption = GRAD_CAM if facts["grad_cam"] else NO_GRAD_CAM
    rows = [[str(row["image"]), row["said"], row["is"], percent(row["confidence"], 1)] for row in facts["shown"]]
    table = Table(["image", "taken for", "is", "confidence"], rows, folded=f"The {count} mistakes by name")
    return Shown(lines, [table], wide=facts["pictures"], caption=caption)


SECTION = Section("Most confident mistakes", measure, show)
