"""What the methods of mixing share: how they are drawn, and Beta(alpha, alpha) out of plain uniform numbers.

Beta     lambda is 1/2 + T / (2 sqrt(2 alpha + T^2)) of a Student t with 2 alpha degrees of freedom, and Bailey's polar method
         makes T out of two uniform numbers: L. Devroye, "Random variate generation in one line of code" (1996); R. Bailey,
         Mathematics of Computation 62 (1994). It is exact for every alpha, rejects nothing, and takes a generator, which
         torch.distributions does not. The other way, a ratio of two gammas, is 0 / 0 where alpha is small.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from pydantic import BeforeValidator
from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """`lam`: float64 (N,), weight of the image itself, in [0, 1]; `box`: int64 (N, 4), what is pasted, (y0, y1, x0, x1) in px."""

    lam: Tensor
    box: Tensor


class MixMethod(Protocol):
    """One way to mix an image with its partner. Settings classes of the family implement it."""

    @property
    def name(self) -> str:
        """What the method is called in a recipe."""
        ...

    @property
    def weight(self) -> float:
        """Its share among the methods, relative to theirs."""
        ...

    @property
    def pastes(self) -> bool:
        """Whether it pastes a box; if not, it blends all pixels."""
        ...

    def draw(self, count: int, size: int, generator: torch.Generator) -> Drawn:
        """Parameters of `count` choices for images of side `size` in px, on the CPU."""
        ...


def symmetric_beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """`count` draws from Beta(alpha, alpha), alpha above 0: float64 (count,) in [0, 1], on the CPU."""
    radius, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
    # t / sqrt(2 alpha); infinite where alpha is small, and then the angle is a right one.
    t = torch.expm1(-radius.log() / alpha).sqrt() * (2 * math.pi * angle).cos()
    return (1 + t.atan().sin()) / 2


def _above_zero(value: Any) -> Any:
    if not isinstance(value, bool | str) and value == 0:
        raise ValueError(
            "with alpha 0 lambda would always be 1 and nothing would be mixed; allowed: above 0, e.g. 0.2 or 1.0; "
            "to do without this method, take it out of mix.methods"
        )
    return value


def _ever_chosen(value: Any) -> Any:
    if not isinstance(value, bool | str) and value == 0:
        raise ValueError(
            "with weight 0 this method would never be chosen; allowed: above 0; take the method out of mix.methods"
        )
    return value


# Zero has a message of its own, since it is the mistake that looks like a setting; the range is the field's.
Alpha = Annotated[float, BeforeValidator(_above_zero)]
Weight = Annotated[float, BeforeValidator(_ever_chosen)]
