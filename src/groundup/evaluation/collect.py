"""Running a model over a split: images in, logits out.

Nothing of the model changes: no gradients, no batch-norm updates, and every module is left in the mode it was found in.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from groundup.basis.errors import GroundupError
from groundup.evaluation.tta import Forward, none


def collect_logits(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    forward: Forward = none,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    check: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The logits, float32 (N, C), and labels, int64 (N,), of all `batches`, on the CPU, in the order they came.

    batches: pairs of images, float (B, 3, H, W) on the model's device, and labels, (B,) integers.
    forward: (model, images) -> logits; a member of `TTA` for test-time augmentation.
    autocast: makes the precision context of one forward pass.
    check: called before every batch; raises to stop (an interruption).
    """
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    # no_grad, not inference_mode: a tensor cached inside the model (or by a compiler) must stay usable in training.
    with evaluation_mode(model), torch.no_grad():
        for images, batch_labels in batches:
            if check:
                check()
            with autocast():
                output = forward(model, images)
            logits.append(output.float())  # stays on the device: moved once, at the end
            labels.append(batch_labels)
    if not logits:
        raise GroundupError("there is nothing to evaluate: 0 batches", hint="check that the split is not empty")
    return torch.cat(logits).cpu(), torch.cat(labels).long().cpu()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module, on its own, is back in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
