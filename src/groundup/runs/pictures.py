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
from groundup.training.loop import batch_of

_SAMPLES = 32


def draw_samples(path: Path, job: Job, classes: list[str]) -> list[str]:
    """The first images of the first step: each as it is in the data, and as the network gets it.

    Returns the names of the operations that changed none of them: a setting that does nothing should be said to do nothing.
    """
    indices, batch = batch_of(job, 0)
    live = job.live.at(0)
    part = slice(0, min(_SAMPLES, len(indices)))
    drawn = augment.draw(live.policy, batch, 0)
    originals, labels = job.data.take(indices[part])
    seen = augment.normalize(augment.apply(live.policy, originals, drawn, part), job.mean, job.std, live.resolution)
    titles = [classes[label] for label in labels.tolist()]
    image_grid(_bytes(_denormalized(seen, job)), titles, path, originals=_bytes(originals))
    return augment.without_effect(live.policy, originals, replace(batch, indices=indices[part]))


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
        training_curves(records, folder.curves_picture, recipe.name)
