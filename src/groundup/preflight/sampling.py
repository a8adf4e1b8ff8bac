"""What the network will really be shown, drawn as the loop draws it.

Drawn are the images of the first step, augmented, normalised and mixed; the parameters of augmentation at the start and after
every phase; the mixing of batches spread over the run; and training images as they are, for the constants of normalisation.
Everything is a function of the recipe's seed. Images are uint8 (B, 3, S, S) before and float32 (B, 3, R, R) after normalisation.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from groundup import augment
from groundup.augment import MIX_GROUP, Batch, Colour, Operation, Parameters
from groundup.augment.coarse_dropout import CoarseDropout
from groundup.augment.cutout import Cutout
from groundup.augment.one_of import OneOf
from groundup.augment.random_erasing import RandomErasing
from groundup.data import Splits, some_positions, windowed_order
from groundup.preflight.subject import Subject
from groundup.training import SampleOrder

ERASING = (Cutout, CoarseDropout, RandomErasing)

_CPU = torch.device("cpu")
_LOOKED_AT = 2 << 20  # pixels of training images as they are, for the constants and for what changes nothing
_AUGMENTED = 256  # images whose erased pixels are counted
_CHANGED_AT_LEAST = 5  # images that an operation with a small p should have changed before it counts as idle


@dataclass(frozen=True)
class Erased:
    """What the policy in force from `step` on erases: `mean` share of the pixels, and share of the images that lose over half."""

    step: int
    mean: float
    heavily: float


@dataclass(frozen=True, eq=False)
class Samples:
    """What a run shows to its network.

    originals: uint8 (n, 3, S, S), the first images of the first step; seen: float32 (n, 3, R, R), what the network gets for them;
    pictures: uint8 (n, 3, R, R), that as pixels; titles: (n,) what is in each; erased: at the start and after each phase;
    batches: how many were drawn for their mixing; clean: share of them that is not mixed; nearly_clean: share of their images that
    keep at least nine tenths of themselves; normalize: the constants; mean, std: of `looked_at` training images after
    normalisation; idle: operations that changed none of them.
    """

    originals: Tensor
    seen: Tensor
    pictures: Tensor
    titles: list[str]
    erased: list[Erased]
    batches: int
    clean: float
    nearly_clean: float
    normalize: tuple[Colour, Colour]
    mean: Colour
    std: Colour
    looked_at: int
    idle: list[str]

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest value that the network gets."""
        return float(self.seen.min()), float(self.seen.max())

    @property
    def saturated(self) -> tuple[float, float]:
        """Share of the values that the network gets as black (0) and as white (1) before normalisation, all channels together."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in self.normalize)
        return _at_the_ends(self.seen * std + mean)

    @property
    def saturated_before(self) -> tuple[float, float]:
        """The same of the images as they are in the data."""
        return _at_the_ends(self.originals.float() / 255)


def _at_the_ends(values: Tensor) -> tuple[float, float]:
    half = 0.5 / 255  # of a step between two pixel values
    return float((values <= half).float().mean()), float((values >= 1 - half).float().mean())


def see_samples(subject: Subject, count: int = 64, steps: int = 100) -> Samples:
    """`count` images of the first step (all of a smaller batch), the mixing of `steps` batches. The subject needs its splits."""
    if subject.splits is None:
        raise ValueError("there are no images to draw samples from: the subject has no splits")
    plain = _plain_images(subject, subject.splits)
    constants = _constants(subject, plain)
    order = _order(subject)
    looks = [0, *sorted({first for first, _ in subject.live.changes} - {0})]
    originals, seen, titles = _first_batch(subject, subject.splits, order, constants, count)
    clean, nearly = _mixing(subject, steps)
    normalized = augment.normalize(plain, *constants)
    return Samples(
        originals=originals,
        seen=seen,
        pictures=_pixels(seen, constants),
        titles=titles,
        erased=[_erased_at(subject, order, step, constants[0]) for step in looks],
        batches=steps,
        clean=clean,
        nearly_clean=nearly,
        normalize=constants,
        mean=_colour(normalized.mean((0, 2, 3))),
        std=_colour(normalized.std((0, 2, 3), unbiased=False)),
        looked_at=len(plain),
        idle=_idle(subject, plain, constants[0]),
    )


def sample_facts(samples: Samples) -> dict[str, str]:
    """What there is to say about samples that are as they should be."""
    mean, std = samples.normalize
    facts = {
        "normalisation": f"mean {shown(mean)}, std {shown(std)}; one function for training, evaluation and prediction, so that "
        "they cannot differ",
        "after it": f"{samples.looked_at} training images have mean {shown(samples.mean)}, std {shown(samples.std)}",
        "range": "{:.2f} to {:.2f} after normalisation, of the {} images of the first step".format(
            *samples.span, len(samples.seen)
        ),
        "saturation": "{:.1%} of their values are black and {:.1%} white; {:.1%} and {:.1%} before augmentation".format(
            *samples.saturated, *samples.saturated_before
        ),
    }
    if any(erased.mean for erased in samples.erased):
        facts["erased pixels"] = ", then ".join(f"{erased.mean:.0%}" for erased in samples.erased)
    if samples.clean < 1:
        facts["clean batches"] = f"{samples.clean:.0%} of {samples.batches} drawn over the run"
    return facts


def _order(subject: Subject) -> SampleOrder:
    train = subject.recipe.train
    return SampleOrder(
        subject.recipe.seed,
        subject.labels,
        batch_size=train.batch_size,
        drop_last=train.drop_last,
        balanced=train.sampling == "balanced",
        windows=windowed_order(subject.splits.train, subject.recipe.data.shuffle_window) if subject.splits else None,
    )


def _plain_images(subject: Subject, splits: Splits) -> Tensor:
    """Training images as they are, chosen by the seed: uint8 (n, 3, S, S)."""
    count = max(64, _LOOKED_AT // splits.image_size**2)
    chosen = some_positions(splits.train, count, subject.recipe.seed, "samples")
    return splits.train.read(chosen).permute(0, 3, 1, 2)


def _constants(subject: Subject, plain: Tensor) -> tuple[Colour, Colour]:
    """Those of the recipe; where it leaves them to be measured, measured on `plain`."""
    asked = subject.recipe.augment.normalize
    mean, std = augment.measure([plain.permute(0, 2, 3, 1)])
    return asked.mean or mean, asked.std or std


def _batch(subject: Subject, order: SampleOrder, step: int, mean: Colour) -> Batch:
    epoch, indices = order.at(step)
    return Batch(indices, epoch, subject.recipe.seed, subject.image_size, mean, _CPU)


def _first_batch(
    subject: Subject, splits: Splits, order: SampleOrder, constants: tuple[Colour, Colour], count: int
) -> tuple[Tensor, Tensor, list[str]]:
    """Originals, what the network sees of them, and titles."""
    batch, live = _batch(subject, order, 0, constants[0]), subject.live.at(0)
    # Partners of mixing lie inside groups of 64.
    whole = slice(0, min(-(-count // MIX_GROUP) * MIX_GROUP, len(batch)))
    drawn = augment.draw(live.policy, batch, 0)
    mixed = augment.draw_mix(live.mix, len(batch), live.resolution, subject.recipe.seed, 0, _CPU)
    chosen = batch.indices[whole].numpy()
    originals = splits.train.read(chosen).permute(0, 3, 1, 2)
    seen = augment.normalize(augment.apply(live.policy, originals, drawn, whole), *constants, live.resolution)
    titles = [splits.classes[label] for label in splits.train.labels[chosen].tolist()]
    if mixed is not None:
        seen = augment.apply_mix(seen, mixed, whole)
        titles = [
            own if lam == 1 else f"{lam:.0%} {own}, {1 - lam:.0%} {titles[partner]}"
            for own, lam, partner in zip(titles, mixed.lam.tolist(), mixed.partner.tolist(), strict=False)
        ]
    return originals[:count], seen[:count], titles[:count]


def _pixels(seen: Tensor, constants: tuple[Colour, Colour]) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in constants)
    return ((seen * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _colour(values: Tensor) -> Colour:
    red, green, blue = values.tolist()
    return red, green, blue


def _mixing(subject: Subject, steps: int) -> tuple[float, float]:
    """Over `steps` batches of the run: the share that is clean, and the share of images that keep nine tenths of themselves."""
    clean = nearly = 0.0
    drawn = torch.linspace(0, subject.clock.total_steps - 1, steps, dtype=torch.float64).long().tolist()
    for step in drawn:
        live = subject.live.at(step)
        mixed = augment.draw_mix(
            live.mix, subject.recipe.train.batch_size, live.resolution, subject.recipe.seed, step, _CPU
        )
        if mixed is None or not (mixed.blends or mixed.pastes):
            clean, nearly = clean + 1, nearly + 1
        else:
            nearly += float((mixed.lam >= 0.9).float().mean())
    return clean / len(drawn), nearly / len(drawn)


def _erased_at(subject: Subject, order: SampleOrder, step: int, mean: Colour) -> Erased:
    batch, policy = _batch(subject, order, step, mean), subject.live.at(step).policy
    images = min(_AUGMENTED, len(batch))
    blank = torch.zeros((images, subject.image_size, subject.image_size), dtype=torch.bool)
    for operation, drawn in zip(policy, augment.draw(policy, batch, step), strict=True):
        blank |= _erased_by(operation, {key: value[:images] for key, value in drawn.items()}, blank)
    share = blank.float().mean((1, 2))
    return Erased(step, float(share.mean()), float((share > 0.5).float().mean()))


def _erased_by(operation: Operation, drawn: Parameters, like: Tensor) -> Tensor:
    """bool (B, S, S): pixels that `operation` fills whatever was there: black and white images come out the same."""
    result = torch.zeros_like(like)
    if isinstance(operation, OneOf):
        for place, member in enumerate(operation.members()):
            own = {key.removeprefix(f"{place}."): drawn[key] for key in drawn if key.startswith(f"{place}.")}
            acts = drawn["chosen"] & (drawn["choice"] == place)
            result |= _erased_by(member, own, like) & acts[:, None, None]
    elif isinstance(operation, ERASING):
        black = torch.zeros((len(like), 3, *like.shape[1:]), dtype=torch.uint8)
        result = (operation.apply(black, drawn) == operation.apply(black + 255, drawn)).all(1)
    return result


def _idle(subject: Subject, plain: Tensor, mean: Colour) -> list[str]:
    """Operations of any policy of the run that change none of many images."""
    few = plain[:MIX_GROUP]
    batch = Batch(torch.arange(len(plain)), 0, subject.recipe.seed, subject.image_size, mean, _CPU)
    idle = []
    for policy in dict.fromkeys(values.policy for values in subject.live.everything()):
        suspects = augment.without_effect(policy, few, replace(batch, indices=batch.indices[: len(few)]))
        for operation in policy:
            likely = getattr(operation, "p", 1.0) * len(plain) >= _CHANGED_AT_LEAST
            if operation.name in suspects and likely:
                idle += augment.without_effect((operation,), plain, batch)
    return list(dict.fromkeys(idle))


def shown(values: Colour) -> str:
    """A colour as a person reads it."""
    return "(" + ", ".join(f"{value:.3g}" if abs(value) >= 0.005 else "0" for value in values) + ")"
