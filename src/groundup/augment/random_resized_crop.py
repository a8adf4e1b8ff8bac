"""Random resized crop: cut a window of random area and shape, and enlarge it to the old size.

Shapes   images uint8 (B, 3, S, S) -> the same; parameters `top`, `left`, `height`, `width` int64 (B,): the window in px.
Source   C. Szegedy et al., "Going Deeper with Convolutions" (arXiv 1409.4842), section 6; the algorithm is torchvision's
         `RandomResizedCrop`: ten tries for a window that fits, and a window in the centre if none does.
Differs  All ten tries are drawn for every image and the first that fits is taken. A window is never larger than the result, so
         that antialiasing has nothing to do; `bilinear` differs from Pillow's crop and resize by at most 1 of 255.
Values   scale 0.08 to 1 for 224 px and long runs; 0.25 or 0.35 to 1 for short runs; small images (32 px) rather pad_crop.
At load  Images that are decoded from their source (data.cache=none) are cut by the decoder instead: `windows` draws the same
         windows, of images of any size, from (seed, epoch, image index). The window is then brought to the input size in one
         go, antialiased, where the device enlarges it to the stored size first.
Cost     a copy in float32 and one interpolation.
Hurts    in short runs and small networks with the small scales: most of what they see is a part of the object.
"""

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundup.augment.base import Batch, Parameters, RandomOperation
from groundup.augment.geometry import Interpolation, Positive, PositiveShare, refuse_unordered, sample, warp
from groundup.augment.ranges import Span
from groundup.basis.seeding import uniforms

_TRIES = 10


class RandomResizedCrop(RandomOperation):
    """Cut a window of random area and shape, and enlarge it to the old size."""

    name: Literal["random_resized_crop"] = Field(description="Cut a window, enlarge it.")
    scale: tuple[PositiveShare, PositiveShare] = Field(
        (0.08, 1.0), description="Smallest and largest area of the window, shares of the image."
    )
    ratio: tuple[Positive, Positive] = Field(
        (3 / 4, 4 / 3), description="Smallest and largest width over height of the window; log-uniform."
    )
    interpolation: Interpolation = Field(
        "bilinear", description="How values between pixels are read: a weighted mean, or the nearest pixel."
    )

    @model_validator(mode="after")
    def _acts(self) -> "RandomResizedCrop":
        refuse_unordered(scale=self.scale, ratio=self.ratio)
        if self.scale == (1, 1) and self.ratio[0] <= 1 <= self.ratio[1]:
            raise ValueError("scale=[1, 1] cuts nothing off where ratio allows 1; lower the first of scale")
        return self

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        boxes = crop_boxes(len(batch), batch.size, batch.size, self.scale, self.ratio, generator, batch.device)
        return boxes._asdict()

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return resized_crop(images, boxes_of(parameters), interpolation=self.interpolation)

    def windows(self, sizes: Tensor, indices: Tensor, epoch: int, seed: int) -> Tensor:
        """The windows of images of the heights and widths `sizes`, int64 (B, 2) in px, for cutting while they are decoded.

        int64 (B, 4): top, left, height, width; height and width 0 where the image stays whole (`p`). A function of (settings,
        seed, epoch, image index, image size): the same whatever the batch. `indices`: int64 (B,); all on the CPU.
        """
        drawn = uniforms(indices, 2 * _TRIES + 3, seed, "crop", epoch)
        area, aspect, place, chance = drawn.split([_TRIES, _TRIES, 2, 1], 1)
        heights, widths = sizes.unbind(1)
        fitting = first_that_fits(area, aspect, place.T, heights, widths, self.scale, self.ratio)
        boxes = torch.stack(fitting, 1)
        for image in (boxes[:, 2] == 0).nonzero().flatten().tolist():
            height, width = sizes[image].tolist()
            tall, wide = centre_box(height, width, self.ratio)
            boxes[image] = torch.tensor([(height - tall) // 2, (width - wide) // 2, tall, wide])
        return boxes * (chance < self.p)


class Boxes(NamedTuple):
    """A window of every image, in px: int64 (B,) each. A window that does not exist has the height and width 0."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def boxes_of(parameters: Parameters) -> Boxes:
    """The windows among the parameters of an operation."""
    return Boxes(*(parameters[key] for key in Boxes._fields))


def random_boxes(
    count: int,
    height: int,
    width: int,
    scale: Span,
    ratio: Span,
    generator: torch.Generator,
    device: torch.device,
    *,
    smaller: bool = False,
) -> Boxes:
    """Windows within (height, width) px whose area, a share of the image, is uniform in `scale` and whose width over height
    is log-uniform in `ratio`; 0 by 0 where none of ten tries fits. `smaller`: a window has to be smaller along both sides."""
    area = torch.rand(count, _TRIES, generator=generator, device=device)
    aspect = torch.rand(count, _TRIES, generator=generator, device=device)
    place = torch.rand(2, count, generator=generator, device=device)
    return first_that_fits(area, aspect, place, height, width, scale, ratio, smaller=smaller)


def first_that_fits(
    area: Tensor,
    aspect: Tensor,
    place: Tensor,
    height: int | Tensor,
    width: int | Tensor,
    scale: Span,
    ratio: Span,
    *,
    smaller: bool = False,
) -> Boxes:
    """The first of several tries that lies within the image, 0 by 0 where none does; see `random_boxes`.

    `area`, `aspect`: float (B, tries), and `place`: float (2, B), all uniform in [0, 1); `height`, `width`: of the images in px,
    one number or int64 (B,).
    """
    rows, columns = (side[:, None] if isinstance(side, Tensor) else side for side in (height, width))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    root = ((area * (scale[1] - scale[0]) + scale[0]) * (rows * columns)).sqrt()
    stretch = ((aspect * (high - low) + low) / 2).exp()
    heights, widths = (root / stretch).round().long(), (root * stretch).round().long()
    fits = (heights > 0) & (widths > 0) & (heights <= rows - int(smaller)) & (widths <= columns - int(smaller))
    first = fits.int().argmax(1, keepdim=True)  # the first of the largest
    found = fits.any(1)
    box_height, box_width = (sides.gather(1, first)[:, 0] * found for sides in (heights, widths))
    top = (place[0] * (height - box_height + 1)).long()
    left = (place[1] * (width - box_width + 1)).long()
    return Boxes(top, left, box_height, box_width)


def crop_boxes(
    count: int, height: int, width: int, scale: Span, ratio: Span, generator: torch.Generator, device: torch.device
) -> Boxes:
    """As `random_boxes`; where none of the tries fits, the largest centred window of an allowed shape."""
    boxes = random_boxes(count, height, width, scale, ratio, generator, device)
    tall, wide = centre_box(height, width, ratio)
    found = boxes.height > 0
    return Boxes(
        torch.where(found, boxes.top, (height - tall) // 2),
        torch.where(found, boxes.left, (width - wide) // 2),
        torch.where(found, boxes.height, tall),
        torch.where(found, boxes.width, wide),
    )


def centre_box(height: int, width: int, ratio: Span) -> tuple[int, int]:
    """Height and width of the largest window within (height, width) px whose width over height lies in `ratio`."""
    if width / height < ratio[0]:
        return round(width / ratio[0]), width
    if width / height > ratio[1]:
        return height, round(height * ratio[1])
    return height, width


def resized_crop(images: Tensor, boxes: Boxes, *, interpolation: str = "bilinear") -> Tensor:
    """The windows of uint8 images (B, C, H, W), each enlarged to (H, W)."""
    height, width = images.shape[-2:]
    step_x, step_y = boxes.width / width, boxes.height / height
    if interpolation == "nearest":
        zero = torch.zeros_like(step_x)
        matrix = torch.stack([step_x, zero, boxes.left, zero, step_y, boxes.top], -1).view(-1, 2, 3)
        return warp(images, matrix, interpolation="nearest", fill="reflect")  # nothing lies outside
    x = _within(boxes.left, boxes.width, step_x, width)
    y = _within(boxes.top, boxes.height, step_y, height)
    return sample(images, x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width))


def _within(start: Tensor, length: Tensor, step: Tensor, count: int) -> Tensor:
    """Where `count` output pixels are read along one axis, float32 (B, count): not beyond the window's outermost centres, for
    what surrounds the window is cut off before it is enlarged."""
    positions = (torch.arange(count, device=start.device) + 0.5) * step[:, None]
    return start[:, None] + torch.minimum(positions.clamp(min=0.5), length[:, None] - 0.5)
