"""Mixing of pairs of training images: who is mixed with whom, by which method, how much; then images and labels.

Shapes   images float32 (b, 3, R, R), normalised, in either memory order -> the same; labels int64 (B,) -> float32 (B, C).
Partner  Inside each group of 64 consecutive images of the global batch a random cycle: nobody is his own partner. So a batch may be
         split at multiples of 64 and every partner is still at hand. An image alone in its group stays as it is.
Choice   A share `clean` of the batches (or of the images) stays as it is; the rest is shared out by the weights of the methods.
Draws    All parameters are drawn on the CPU and sent to the device in pinned memory, so that a GPU is never waited for. Drawn there
         they would be other numbers than on a CPU; here they follow from (settings, seed, step, count, size) alone, and what
         the batch does not need (blending, pasting) is known on the host and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from groundup.augment.mixing.base import Drawn, MixMethod
from groundup.augment.mixing.cutmix import CutMixSettings, cutmix
from groundup.augment.mixing.mixup import MixUpSettings, mixup
from groundup.basis.errors import UsageError
from groundup.basis.seeding import generator
from groundup.basis.settings import Settings
from groundup.data import sent

MIX_GROUP = 64

MIXERS: dict[str, type[Settings]] = {"cutmix": CutMixSettings, "mixup": MixUpSettings}
MixMethodSettings = Annotated[CutMixSettings | MixUpSettings, Field(discriminator="name")]


def _leaves_something(value: Any) -> Any:
    if not isinstance(value, bool | str) and value == 1:
        raise ValueError(
            "with clean 1 nothing would ever be mixed; allowed: 0 up to, not including, 1; "
            "to mix nothing, leave mix.methods empty"
        )
    return value


class MixSettings(Settings):
    """Which pairs of training images are mixed, and how. Without methods nothing is."""

    methods: tuple[MixMethodSettings, ...] = Field((), description="Methods, one of which is chosen at a time.")
    clean: Annotated[float, BeforeValidator(_leaves_something)] = Field(
        0.0, ge=0, lt=1, description="Share of the batches, or of the images, that stay as they are, in [0, 1)."
    )
    per: Literal["batch", "sample"] = Field(
        "batch", description="Whether method and lambda are chosen once per batch, or for each image."
    )

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return bool(self.methods)

    @model_validator(mode="after")
    def _every_setting_acts(self) -> "MixSettings":
        names = [method.name for method in self.methods]
        if not names and self.clean > 0:
            raise ValueError(f"clean={self.clean} does nothing without methods; set methods, or remove clean")
        if not names and self.per != "batch":
            raise ValueError(f"per={self.per!r} does nothing without methods; set methods, or remove per")
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"methods: {twice[0]!r} stands {names.count(twice[0])} times; keep one, with its weight")
        if len(names) == 1 and self.methods[0].weight != 1:
            raise ValueError(
                f"methods: weight={self.methods[0].weight} does nothing, {names[0]!r} is the only method; remove it; "
                "to leave a share of the batches as they are, set clean"
            )
        return self


@dataclass(frozen=True)
class Mixed:
    """How each of the B images of a global batch is mixed. Tensors on the device.

    `partner`: int64 (B,), position in the global batch; `lam`: float32 (B,), weight of the image itself; `box`: int64 (B, 4),
    (y0, y1, x0, x1) in px, the ends exclusive, empty where nothing is pasted; `paste`: bool (B,), where CutMix was chosen.
    Known on the host: `size`, the side in px that the boxes were drawn for; `blends`, `pastes`: whether any image needs it.
    """

    partner: Tensor
    lam: Tensor
    box: Tensor
    paste: Tensor
    size: int
    blends: bool = True
    pastes: bool = True


def draw_mix(settings: MixSettings, count: int, size: int, seed: int, step: int, device: torch.device) -> Mixed | None:
    """How the `count` images, of side `size` px, of update number `step` are mixed; None without methods."""
    if not settings.active:
        return None
    source = generator(seed, "mix", step)
    partner = _partners(count, source)
    draws = count if settings.per == "sample" else 1
    choice = _choices(settings, draws, source)
    drawn = _chosen(settings.methods, choice, [method.draw(draws, size, source) for method in settings.methods])
    # One draw serves the whole batch, but for an image that has no partner.
    stays = (choice == 0).expand(count) | (partner == torch.arange(count))
    lam = torch.where(stays, 1.0, drawn.lam.expand(count)).float()
    box = torch.where(stays[:, None], 0, drawn.box.expand(count, 4))
    paste = torch.tensor([False, *(method.pastes for method in settings.methods)])[choice].expand(count) & ~stays
    return Mixed(
        partner=_send(partner, device),
        lam=_send(lam, device),
        box=_send(box, device),
        paste=_send(paste, device),
        size=size,
        blends=bool((~paste & ~stays).any()),
        pastes=bool(paste.any()),
    )


def mix_groups(part: slice, count: int) -> slice:
    """The whole groups around `part` of a batch of `count` images, which hold its partners: `part` itself if cut at groups."""
    end = -(-part.stop // MIX_GROUP) * MIX_GROUP
    return slice(part.start // MIX_GROUP * MIX_GROUP, min(end, count))


def _partners(count: int, source: torch.Generator) -> Tensor:
    """int64 (count,): the next one in a random cycle through each group of 64; uniform over all such cycles."""
    shuffled = torch.randperm(count, generator=source)
    shuffled = shuffled[(shuffled // MIX_GROUP).argsort(stable=True)]  # group by group, shuffled inside
    place = torch.arange(count)
    start = place // MIX_GROUP * MIX_GROUP
    length = (count - start).clamp(max=MIX_GROUP)
    return torch.empty_like(shuffled).scatter_(0, shuffled, shuffled[start + (place - start + 1) % length])


def _choices(settings: MixSettings, draws: int, source: torch.Generator) -> Tensor:
    """int64 (draws,): 0 for clean, i for the method number i - 1."""
    weights = torch.tensor([method.weight for method in settings.methods], dtype=torch.float64)
    shares = torch.cat([weights.new_tensor([settings.clean]), (1 - settings.clean) * weights / weights.sum()])
    return torch.bucketize(torch.rand(draws, generator=source, dtype=torch.float64), shares.cumsum(0)[:-1], right=True)


def _chosen(methods: Sequence[MixMethod], choice: Tensor, drawn: Sequence[Drawn]) -> Drawn:
    """Of what every method drew, that of the method which `choice` says; the first where it says clean."""
    method, place = (choice - 1).clamp(min=0), torch.arange(len(choice))
    return Drawn(
        torch.stack([each.lam for each in drawn])[method, place],
        torch.stack([each.box for each in drawn])[method, place],
    )


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    return sent(tensor.pin_memory() if device.type == "cuda" else tensor, device)


def apply_mix(images: Tensor, mixed: Mixed, part: slice) -> Tensor:
    """Mix `images` (float32 (b, 3, R, R)), which are `part` of the global batch; never in place, memory order kept.

    `part` begins at a multiple of 64 and ends at one, or with the batch; UsageError if not. Returns `images` itself where
    nothing is to be done.
    """
    start = _start_of(part, mixed, images)
    if not (mixed.blends or mixed.pastes):
        return images
    partners = _taken(images, mixed.partner[part] - start)
    result = images
    if mixed.blends:
        weight = torch.where(mixed.paste[part], 1.0, mixed.lam[part]) if mixed.pastes else mixed.lam[part]
        result = mixup(result, partners, weight)
    if mixed.pastes:
        result = cutmix(result, partners, mixed.box[part])
    return result


def _start_of(part: slice, mixed: Mixed, images: Tensor) -> int:
    count = len(mixed.partner)
    start, stop, _ = part.indices(count)
    if start % MIX_GROUP or (stop % MIX_GROUP and stop != count):
        raise UsageError(
            f"mix: images {start} to {stop} of a batch of {count} are mixed alone, but partners stay inside groups of {MIX_GROUP}",
            hint=f"make train.micro_batch a multiple of {MIX_GROUP}",
        )
    if tuple(images.shape[-2:]) != (mixed.size, mixed.size):
        raise ValueError(f"mixing was drawn for a side of {mixed.size} px; the images are {tuple(images.shape)}")
    return start


def _taken(images: Tensor, places: Tensor) -> Tensor:
    """The images at `places`, in the memory order of `images`."""
    if images.is_contiguous(memory_format=torch.channels_last):
        # Through the order in memory: several times as fast on a CPU.
        return images.permute(0, 2, 3, 1).index_select(0, places).permute(0, 3, 1, 2)
    return images.index_select(0, places)


def mixed_labels(labels: Tensor, num_classes: int, mixed: Mixed) -> Tensor:
    """float32 (B, num_classes): `lam` on the image's own class, 1 - `lam` on that of its partner; they add where they are one.

    `labels`: int64 (B,), class numbers of the global batch.
    """
    own = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    return torch.lerp(own[mixed.partner], own, mixed.lam[:, None])
