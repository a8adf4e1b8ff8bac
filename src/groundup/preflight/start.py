"""Whether a network is ready to learn, judged from what its first passes were measured to do.

The loss of an untrained network should be what a network pays that knows nothing, one whose logits are all zero: ln(C) for
cross-entropy over C classes, with label smoothing too; C ln(2) for the sum of C binary ones. The reference is measured with the
recipe's own loss on the same labels, so that it is right under mixing and class weights as well.

Gradients that are exactly zero at the first step are looked at twice, because some are meant to be: a block whose last scale
begins at zero passes no gradient to what lies before that scale. In the second pass parameters that began at zero are moved a
little; what has no gradient then is not reached by the loss.
"""

import math
from dataclasses import dataclass

from groundup.basis.errors import listed
from groundup.preflight.findings import Code, Finding, find

# Times the loss of all-zero logits, and at least so far from it. The project's own networks begin at 0.98 to 1.17 times it; with
# few classes and few images chance alone moves it by some tenths.
_TOO_HIGH, _TOO_LOW, _FAR = 1.5, 0.5, 1.0
OVERFIT_FACTOR = 4.0  # by which the loss of one small batch has to fall

STRANGE_LOSS = Code(
    "GU701",
    "warning",
    "The first loss is not that of a network that knows nothing",
    "An untrained network should give every class about the same probability. A much higher loss means that it begins very sure of "
    "wrong answers (logits of a wrong scale, unnormalised inputs), a much lower one that it knows the answers already.",
    "Look at the scale of the last layer and at augment.normalize; for a lower one, at where the weights come from.",
)
NOT_FINITE = Code(
    "GU702",
    "error",
    "The first loss or its gradient is not finite",
    "Nothing can be learned from it: every update would be skipped or destroy the weights.",
    "Try train.precision=fp32; then look at the images, the labels and the network's own divisions and logarithms.",
)
UNREACHED = Code(
    "GU703",
    "error",
    "The loss does not reach every trainable parameter",
    "Parameters without a gradient stay as they were drawn: a branch that is not used, a detach in the wrong place, or a copy that "
    "was registered in place of the original.",
    "Use them in the forward pass, or set requires_grad to False.",
)
NOT_OVERFITTED = Code(
    "GU704",
    "error",
    "One small batch cannot be learned by heart",
    "A network that cannot memorise a handful of images will not learn a data set. The usual causes are labels that do not belong "
    "to the images, an output that saturates, and gradients that stop on their way. The optimizer is a plain AdamW here, without "
    "augmentation, mixing and dropout, so none of these is to blame.",
    "Look at the labels under the samples, and at the network.",
)
NOT_REPEATED = Code(
    "GU705",
    "error",
    "Two networks built with one seed differ",
    "A run is a function of its recipe and seed. Where its initial weights are not, nobody can repeat it, and a comparison of "
    "seeds says nothing.",
    "Draw initial weights with torch's global generator and nothing else.",
)

START_CODES: dict[str, Code] = {
    code.number: code for code in (STRANGE_LOSS, NOT_FINITE, UNREACHED, NOT_OVERFITTED, NOT_REPEATED)
}


@dataclass(frozen=True)
class Start:
    """What the first passes showed.

    loss: of `images` training images as the first step sees them; reference: what all-zero logits pay there; unreached: trainable
    parameters without a gradient; not_finite: those with one that is not finite; parameters: trainable tensors in all; differing:
    tensors that differ between two builds; overfit: losses of one small batch over its steps, empty: not tried.
    """

    loss: float
    reference: float
    classes: int
    images: int
    parameters: int
    unreached: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    overfit: tuple[float, ...] = ()


def check_start(start: Start) -> list[Finding]:
    """What keeps the network from learning, or from doing so twice in the same way."""
    found = [*_gradients(start), *_overfit(start)]
    if start.differing:
        found.append(find(NOT_REPEATED, f"different: {listed(start.differing, 6)}"))
    return found


def _gradients(start: Start) -> list[Finding]:
    if not math.isfinite(start.loss) or start.not_finite:
        where = f"; gradients of {listed(start.not_finite, 6)}" if start.not_finite else ""
        return [find(NOT_FINITE, f"the first loss is {start.loss:.4g}{where}", "train.precision=fp32")]
    found = []
    low = min(_TOO_LOW * start.reference, start.reference - _FAR)
    if not low <= start.loss <= max(_TOO_HIGH * start.reference, start.reference + _FAR):
        saw = (
            f"{start.loss:.3f} on {start.images} images; a network that knows nothing about {start.classes} classes pays "
            f"{start.reference:.3f}"
        )
        found.append(find(STRANGE_LOSS, saw))
    if start.unreached:
        saw = f"{len(start.unreached)} of {start.parameters} parameters have no gradient: {listed(start.unreached, 6)}"
        found.append(find(UNREACHED, saw))
    return found


def _overfit(start: Start) -> list[Finding]:
    if not start.overfit:
        return []
    first, last = start.overfit[0], start.overfit[-1]
    if math.isfinite(last) and last * OVERFIT_FACTOR <= first:
        return []
    steps = len(start.overfit)
    saw = f"{first:.3f} before, {last:.3f} after {steps} steps on the same images: less than a factor of {OVERFIT_FACTOR:g}"
    return [find(NOT_OVERFITTED, saw)]
