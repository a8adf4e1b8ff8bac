"""Draws the pictures of the documentation anew: every schedule, every operation. Run it after a change of either.

python docs/make_pictures.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from groundup.augment import OPERATIONS, Batch, OperationSettings, augment
from groundup.basis.duration import Clock
from groundup.basis.pictures import GREY, PALETTE, image_grid, new_figure, save_figure
from groundup.optim import SCHEDULES, ScheduleSettings, curve

HERE = Path(__file__).parent / "pictures"
CLOCK = Clock(steps_per_epoch=10, total_steps=1000)

# Settings that show what a schedule can do; a schedule without an entry is refused, so that none is forgotten.
SCHEDULE_EXAMPLES: dict[str, dict[str, Any]] = {
    "constant": {"lr": 0.1, "warmup": "0.05dur"},
    "linear": {"lr": 0.1, "warmup": "0.1dur"},
    "cosine": {"lr": 0.1, "warmup": "0.05dur"},
    "one_cycle": {"max_lr": 0.1},
    "trapezoid": {"lr": 0.1, "shape": "sqrt"},
    "step": {"lr": 0.1, "milestones": ["0.3dur", "0.6dur", "0.8dur"], "gamma": 0.2},
    "cosine_restarts": {"lr": 0.1, "period": "0.15dur", "growth": 2},
    "ramp": {"start_lr": 0.01, "lr": 0.1},
    "exponential": {"lr": 0.1, "gamma": 0.96},
    "polynomial": {"lr": 0.1, "power": 2},
    "inverse_sqrt": {"lr": 0.1, "warmup": "0.1dur"},
    "plateau": {"lr": 0.1, "patience": "10ep", "factor": 0.3, "metric": "validation_loss"},
    "sequence": {
        "parts": [
            {"schedule": {"name": "ramp", "start_lr": 0.01, "lr": 0.1}, "length": "0.2dur"},
            {"schedule": {"name": "constant", "lr": 0.1}, "length": "0.3dur"},
            {"schedule": {"name": "cosine", "lr": 0.1}},
        ]
    },
}


def rates_of(name: str) -> list[float]:
    """The learning rate of every step; the plateau sees a loss that stops falling twice."""
    settings = TypeAdapter(ScheduleSettings).validate_python({"name": name, **SCHEDULE_EXAMPLES[name]})
    if not settings.stateful:
        return [rates.lr for rates in curve(settings, CLOCK)]
    memory, rates = settings.memory(), []
    for step in range(CLOCK.total_steps):
        if step and step % CLOCK.steps_per_epoch == 0:
            loss = max(0.5, 2 - step / 150) if step < 600 else max(0.3, 0.5 - (step - 600) / 400)
            memory = settings.observe(memory, {"validation_loss": loss}, step, CLOCK)
        rates.append(settings.at(step, CLOCK, memory).lr)
    return rates


def draw_schedules() -> None:
    missing = set(SCHEDULES) - set(SCHEDULE_EXAMPLES)
    assert not missing, f"no example for {missing}"
    columns = 5
    rows = -(-len(SCHEDULES) // columns)
    figure = new_figure(2.7 * columns, 2.1 * rows)
    for place, name in enumerate(SCHEDULES):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.plot(np.linspace(0, 1, CLOCK.total_steps), rates_of(name), color=PALETTE["blue"], linewidth=1.6)
        axes.set_title(name, fontsize=10, loc="left", color=PALETTE["black"])
        axes.set_ylim(0, 0.11)
        axes.tick_params(labelsize=8, colors=GREY)
        axes.grid(True, axis="y", color="#E5E5E5", linewidth=0.8)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
        if place >= len(SCHEDULES) - columns:
            axes.set_xlabel("share of the run", fontsize=8, color=GREY)
    save_figure(figure, HERE / "schedules.png")


def draw_operations() -> None:
    """Each operation on one photograph that comes with scikit-learn, six draws at full probability."""
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("flower.jpg")[60:380, 190:510]
    small = photograph.reshape(80, 4, 80, 4, 3).mean((1, 3)).astype(np.uint8)
    draws = 6
    images = torch.from_numpy(small).permute(2, 0, 1).expand(draws, 3, 80, 80).contiguous()
    either = [{"name": "random_solarize", "p": 1.0}, {"name": "random_grayscale", "p": 1.0}]
    required = {"one_of": {"operations": either}}
    batch = Batch(torch.arange(draws), 0, 0, 80, (0.45, 0.42, 0.35), torch.device("cpu"))
    strips, titles = [strip(images)], ["as it is"]
    for name, settings in OPERATIONS.items():
        always = {"p": 1.0} if "p" in settings.model_fields and name not in ("flip", "vertical_flip") else {}
        operation = TypeAdapter(OperationSettings).validate_python({"name": name, **required.get(name, {}), **always})
        strips.append(strip(augment([operation], images, batch, step=0)))
        titles.append(name)
    image_grid(np.stack(strips), titles, HERE / "operations.png", columns=2)


def strip(images: torch.Tensor) -> np.ndarray:
    """Images uint8 (B, 3, S, S) side by side, white between them."""
    gap = np.full((images.shape[-2], 4, 3), 255, np.uint8)
    return np.concatenate([part for image in images.permute(0, 2, 3, 1).numpy() for part in (image, gap)], axis=1)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    draw_schedules()
    draw_operations()
