"""Gaussian blur of a random width.

Shapes   images uint8 (B, 3, S, S) -> the same; parameter `sigma` float (B,) in px, above 0.
Source   T. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (arXiv 2002.05709), appendix A;
         kernel and border as in torchvision's GaussianBlur, sigma drawn for every image.
Values   sigma 0.1 to 2 px, kernel a tenth of the image's side, p 0.5.
Cost     two convolutions of the batch in float32, growing with the kernel.
Hurts    on small images, whose fine detail is all there is; with a kernel much smaller than 4 sigma it is nearly a box.
"""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, field_validator
from torch import Tensor

from groundup.augment import colour
from groundup.augment.base import Batch, Parameters, RandomOperation
from groundup.augment.ranges import Span, acceptable, uniform
from groundup.basis.errors import UsageError

_NARROWEST = 0.3  # px; below about 0.26 a neighbour's share is too small to change any level
_Width = Annotated[float, Field(gt=0)]
_Widths = Annotated[_Width | tuple[_Width, _Width], AfterValidator(acceptable)]


class GaussianBlur(RandomOperation):
    """Blur with a Gaussian of random width."""

    name: Literal["gaussian_blur"] = Field(description="Blur with a Gaussian of random width.")
    p: float = Field(0.5, gt=0, le=1, description="Probability that an image is changed, above 0.")
    kernel_size: int = Field(3, ge=3, description="Side of the kernel in px, odd, at most 2 * image side - 1.")
    sigma: _Widths = Field(
        (0.1, 2.0),
        description="Standard deviation in px, above 0: one number, or the range [low, high] it is drawn from.",
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"a kernel has a middle, so its side is odd; write {size - 1} or {size + 1}")
        return size

    @field_validator("sigma")
    @classmethod
    def _acts(cls, sigma: float | Span) -> float | Span:
        widest = sigma[1] if isinstance(sigma, tuple) else sigma
        if widest < _NARROWEST:
            raise ValueError(f"a sigma of {widest} px changes no level; use {_NARROWEST} px or more")
        return sigma

    def draw_parameters(self, batch: Batch, generator: torch.Generator) -> Parameters:
        if self.kernel_size // 2 >= batch.size:
            raise UsageError(
                f"gaussian_blur: kernel_size={self.kernel_size} is too large for images of {batch.size} px; "
                f"allowed: odd numbers up to {2 * batch.size - 1}",
                hint="a tenth of the image's side is usual",
            )
        span = self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)
        return {"sigma": uniform(span, batch, generator)}

    def transform(self, images: Tensor, parameters: Parameters) -> Tensor:
        return colour.gaussian_blur(images, parameters["sigma"], self.kernel_size)
