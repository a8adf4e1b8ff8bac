"""Images/s of groundup's loop over those of (a) a notebook's training loop and (b) plain PyTorch in our precision and layout.

The notebook does what the five systems did: fp32, channels first, crop, flip and normalisation image by image in DataLoader
workers (Pillow and numpy, as torchvision's transforms do it), and `.item()` in every step. The plain loop is what a careful script
does: the data on the device, batch-wide crop and flip, our precision, channels last, nothing else. All train the same network with
the recipe's optimizer settings, at the recipe's last input size, and are timed in turn, in another order in every round, each in
a process of its own that waits while the others work: what groundup sets for a process (memory that is kept, docs/speed.md) is not
set for the other two, and their network is written with torch's own convolutions, pools and dropout. The notebook's workers begin
with its turn, with nothing prepared, and have nothing left to do when it ends, so that they work beside nobody else; a turn is at
least twice as many steps as there are workers.

    python bench/notebook.py cifar100-speed data.source=parquet:PATH [--rounds 5] [--images 2048] [--out FILE.json]
    python bench/notebook.py cifar100-wrn28-10 model.depth=16 model.width=4 train.batch_size=256 data.source=parquet:PATH

--generated N: noise of 32 px, N images of 100 classes, in place of the recipe's data: speed does not depend on what they show.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import noise
from kept import keep
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from groundup import augment
from groundup.basis.interruption import StopRequest
from groundup.data import ImageSet
from groundup.models import build_model
from groundup.models.blocks import BlurredConv2d
from groundup.models.convolution import Convolution
from groundup.models.regularization import BlockDropout
from groundup.models.same_size_conv import PooledConv, SameSizeConv
from groundup.optim import apply_rates
from groundup.recipe import load_recipe
from groundup.runs.folder import environment
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.training import Job, TrainingState, engine, train_step

CONTESTANTS = ("groundup", "plain", "notebook")
PAD = 4


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images as a notebook's data set gives them: one at a time, cropped, flipped, turned into a tensor, normalised."""

    def __init__(self, images: ImageSet, side: int, mean: augment.Colour, std: augment.Colour) -> None:
        self._images, self._side = images, side
        self._mean, self._std = (torch.tensor(colour)[:, None, None] for colour in (mean, std))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self._images.read(np.array([index]))[0].numpy()
        picture = Image.fromarray(pixels)
        if picture.width != self._side:
            picture = picture.resize((self._side, self._side), Image.Resampling.BILINEAR)
        page = Image.new("RGB", (self._side + 2 * PAD, self._side + 2 * PAD))
        page.paste(picture, (PAD, PAD))
        left, top = torch.randint(0, 2 * PAD + 1, (2,)).tolist()
        picture = page.crop((left, top, left + self._side, top + self._side))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return (tensor - self._mean) / self._std, int(self._images.labels[index])


class Batches(Sampler[list[int]]):
    """The batches of one turn: `count` of `size` images, drawn anew."""

    def __init__(self, images: int, size: int) -> None:
        self._images, self._size = images, size
        self.count = 0

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.count):
            yield torch.randperm(self._images)[: self._size].tolist()


class Written(nn.Module):
    """A `SameSizeConv`, or `PooledConv`, as a script writes it: padding, convolution, max-pool."""

    def __init__(self, layer: SameSizeConv) -> None:
        super().__init__()
        kernel = layer.kernel_size[0]
        self._pad = (kernel // 2, kernel // 2 - 1) * 2 if kernel % 2 == 0 else None
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, kernel, padding=layer.padding, bias=False)  # type: ignore[arg-type]
        self.conv.weight = layer.weight
        self._pools = isinstance(layer, PooledConv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if self._pad is None else nn.functional.pad(x, self._pad))
        return nn.functional.max_pool2d(x, 2) if self._pools else x


def plain_convolution(layer: Convolution) -> nn.Module:
    """The same convolution, and the blur before it if it has one, of torch's own modules."""
    size, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, size, stride, padding, bias=False)
    plain.weight = layer.weight
    if not isinstance(layer, BlurredConv2d):
        return plain
    blur = nn.Conv2d(layer.in_channels, layer.in_channels, 3, padding=1, groups=layer.in_channels, bias=False)
    blur.weight = nn.Parameter(layer.blur, requires_grad=False)
    return nn.Sequential(blur, plain)


def in_torch(network: nn.Module) -> nn.Module:
    """The same function of the same weights with torch's own modules where ours do less work."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SameSizeConv):
                setattr(parent, name, Written(child))
            elif isinstance(child, Convolution):
                setattr(parent, name, plain_convolution(child))
            elif isinstance(child, BlockDropout):
                setattr(parent, name, nn.Dropout(child.p))
    return network


class Notebook:
    """fp32, channels first, DataLoader workers, a wait in every step."""

    def __init__(self, job: Job, images: ImageSet, network: nn.Module, optimizer: Any, side: int, workers: int) -> None:
        self._network, self._optimizer = network, optimizer
        self._device, self._smoothing = job.engine.torch_device, job.live.at(0).label_smoothing
        self._batches = Batches(len(images), job.train.batch_size)
        data = PerImage(images, side, job.mean, job.std)
        self._loader = DataLoader(
            data, batch_sampler=self._batches, num_workers=workers, persistent_workers=workers > 0
        )

    def train(self, steps: int) -> None:
        self._batches.count = steps
        for images, labels in self._loader:
            self._step(images.to(self._device), labels.to(self._device))

    def _step(self, images: Tensor, labels: Tensor) -> float:
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self._network(images), labels, label_smoothing=self._smoothing)
        loss.backward()
        self._optimizer.step()
        return loss.item()


class Plain:
    """The data on the device, batch-wide crop and flip, our precision and layout: a careful script, eager."""

    def __init__(self, job: Job, network: nn.Module, optimizer: Any, side: int) -> None:
        self._job, self._network, self._optimizer, self._side = job, network, optimizer, side

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        job = self._job
        indices = torch.randint(0, len(job.data), (job.train.batch_size,), device=job.data.labels.device)
        pixels, labels = job.data.take(indices)
        pixels = nn.functional.pad(pixels, (PAD,) * 4)
        left, top = torch.randint(0, 2 * PAD + 1, (2,)).tolist()
        pixels = pixels[:, :, top : top + job.image_size, left : left + job.image_size]
        pixels = pixels.flip(3) if torch.rand(()) < 0.5 else pixels
        images = augment.normalize(pixels, job.mean, job.std, self._side)
        images = images.contiguous(memory_format=torch.channels_last)
        self._optimizer.zero_grad(set_to_none=True)
        for part, known in zip(images.split(self._most), labels.split(self._most), strict=True):
            with job.engine.autocast():
                logits = self._network(part)
            loss = nn.functional.cross_entropy(logits.float(), known, label_smoothing=job.live.at(0).label_smoothing)
            (loss * (len(known) / len(labels))).backward()
        self._optimizer.step()

    @property
    def _most(self) -> int:
        return self._job.train.micro_batch or self._job.train.batch_size


class Ours:
    """The last steps of the run, which all have its last input size, one after the other and from the first again."""

    def __init__(self, job: Job, state: TrainingState) -> None:
        self._job, self._state = job, state
        self._first = max((step for step, _ in job.live.changes), default=0)
        self._count = job.clock.total_steps - self._first
        self._done = 0

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self._state.step = self._first + self._done % self._count
            self._done += 1
            train_step(self._job, self._state)


def prepared(name: str, chosen: argparse.Namespace) -> tuple[Callable[[int], None], Job, dict[str, Any]]:
    """What trains as `name` says, for a number of steps; our job; what the record says of it."""
    if name != "groundup":
        engine.keep_freed_memory = bool  # as a process of torch's is that nobody has set anything for
    recipe = load_recipe(chosen.recipe, chosen.overrides)
    splits = noise(chosen.generated, 100) if chosen.generated else open_data(recipe, StopRequest())
    plan = make_plan(with_measured_constants(recipe, splits), splits)
    job, state = first_job(plan, lambda: None)
    last = plan.clock.total_steps - 1
    side = job.live.at(last).resolution
    facts = {"recipe": recipe.name, "resolution": side, "batch_size": recipe.train.batch_size}
    facts |= {"engine": job.engine.to_dict(), **environment(job.engine)}
    if name == "groundup":
        return Ours(job, state).train, job, facts
    network = in_torch(build_model(recipe.model, num_classes=job.classes, seed=1)).to(job.engine.torch_device).train()
    layout = torch.channels_last if name == "plain" else torch.contiguous_format
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = recipe.optimizer.build(network, bfloat16=name == "plain" and job.engine.precision == "bf16")
    apply_rates(optimizer, job.rates.at(last, state.schedule))
    if name == "plain":
        return Plain(job, network, optimizer, side).train, job, facts
    return Notebook(job, splits.train, network, optimizer, side, chosen.workers).train, job, facts


def serve(name: str, chosen: argparse.Namespace, line: Connection) -> None:
    """A contestant's process: prepares itself, then trains as many steps as it is told to, until nobody is there any more."""
    train, job, facts = prepared(name, chosen)
    try:
        line.send(facts)
        while True:
            train(line.recv())
            job.engine.synchronize()
            line.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        job.data.close()


class Apart:
    """A contestant in a process of its own. `facts`: what the record says of it."""

    def __init__(self, name: str, chosen: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._name, self._process = name, context.Process(target=serve, args=(name, chosen, theirs))
        self._process.start()
        theirs.close()
        try:
            self.facts: dict[str, Any] = self._reply()
        except BaseException:
            self.close()
            raise

    def train(self, steps: int) -> None:
        self._reply(steps)

    def close(self) -> None:
        self._line.close()
        self._process.join()

    def _reply(self, steps: int | None = None) -> Any:
        try:
            if steps is not None:
                self._line.send(steps)
            return self._line.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise SystemExit(f"{self._name}: its process ended; the reason stands above") from None


def timed(train: Callable[[int], None], steps: int) -> float:
    started = time.perf_counter()
    train(steps)
    return time.perf_counter() - started


def in_turn(contestants: dict[str, Callable[[int], None]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of `steps` steps of each, round by round, each first in every third."""
    for train in contestants.values():
        train(2)  # warm-up
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(timed(contestants[name], steps))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048, help="Images that each contestant trains on per round.")
    parser.add_argument("--workers", type=int, default=2, help="The notebook's DataLoader workers.")
    parser.add_argument("--generated", type=int, metavar="N", help="Train on N generated images of 32 px.")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    apart = {}
    try:
        for name in CONTESTANTS:
            apart[name] = Apart(name, chosen)
        facts = apart["groundup"].facts
        steps = max(1, 2 * chosen.workers, chosen.images // facts["batch_size"])
        seconds = in_turn({name: contestant.train for name, contestant in apart.items()}, chosen.rounds, steps)
    finally:
        for contestant in apart.values():
            contestant.close()
    result: dict[str, Any] = {
        "what": "images/s of groundup over those of a plain PyTorch loop and of a notebook's, round by round",
        "overrides": chosen.overrides,
        "steps_per_round": steps,
        "generated_images": chosen.generated,
        "workers": chosen.workers,
    }
    for name in ("plain", "notebook"):
        ratios = sorted(b / a for a, b in zip(seconds["groundup"], seconds[name], strict=True))
        result[f"over_{name}"] = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
    count = steps * facts["batch_size"]
    result["images_per_second"] = {name: count / statistics.median(values) for name, values in seconds.items()}
    keep(result | facts, chosen.out)


if __name__ == "__main__":
    main()
