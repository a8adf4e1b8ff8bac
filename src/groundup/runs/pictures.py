"""The pictures of a run: what the network sees after augmentation, and the training curves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from groundup import augment
from groundup.basis.pictures import image_grid, training_curves
from groundup.recipe import Recipe
from groundup.runs.folder import RunFolder
from groundup.tracking import read
from groundup.training import Job
from groundup.training.loop import batch_of, draw

_SAMPLES = 32


def draw_samples(path: Path, job: Job, classes: list[str]) -> list[str]:
    """The first images of the first step: each as it is in the data, and as the network gets it.

    Returns the names of the operations that changed none of them: a setting that does nothing should be said to do nothing.
    """
    indices, batch = batch_of(job, 0)
    live = job.live.at(0)
    drawn = draw(job, 0, live)
    whole = slice(0, min(augment.MIX_GROUP, len(indices)))  # partners of mixing lie inside it
    originals, labels = job.data.take(indices[whole])
    images = job.data.training(drawn.places[whole], 0)
    seen = augment.normalize(
        augment.apply(live.policy, images, drawn.policy, whole), job.mean, job.std, live.resolution
    )
    titles = [classes[label] for label in labels.tolist()]
    if drawn.mixed is not None:
        seen = augment.apply_mix(seen, drawn.mixed, whole)
        titles = _mixed_titles(titles, drawn.mixed)
    shown = min(_SAMPLES, len(originals))
    image_grid(_bytes(_denormalized(seen[:shown], job)), titles[:shown], path, originals=_bytes(originals[:shown]))
    return augment.without_effect(live.policy, images, replace(batch, indices=indices[whole]))


def _mixed_titles(titles: list[str], mixed: augment.Mixed) -> list[str]:
    """What each image is made of, such as `70% apple, 30% pear`; the partners of the first group lie inside it."""
    pairs = zip(titles, mixed.lam.tolist(), mixed.partner.tolist(), strict=False)
    return [own if lam == 1 else f"{lam:.0%} {own}, {1 - lam:.0%} {titles[partner]}" for own, lam, partner in pairs]


def _denormalized(images: torch.Tensor, job: Job) -> torch.Tensor:
    """Back from what the network sees to pixels, uint8 (B, 3, R, R)."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (job.mean, job.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _bytes(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).cpu().numpy()


def draw_curves(folder: RunFolder, recipe: Recipe) -> None:
    """training_curves.png from metrics.jsonl, once there is a line in it."""
    records = read(folder.metrics_file) if folder.metrics_file.exists() else []
    if records:
        mixes = any(
            mix is not None and mix.methods for mix in (recipe.mix, *(phase.set.mix for phase in recipe.phases))
        )
        training_curves(
            records,
            folder.curves_picture,
            recipe.name,
            train_label="train (mixed, weighted)" if mixes else "train",
            validation_label="test (optimistic)" if recipe.evaluate.optimistic else "validation",
        )
