"""SAM: the gradient is taken not at the weights but at the worst point near them, one more pass per step.

    e = rho * g / |g| over all parameters together;  update with the gradient at w + e, applied to w

Source   P. Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization" (arXiv 2010.01412).
Values   rho 0.05 to 0.1 on CIFAR-100 with WRN-28-10 (both gave the same there), 0.05 on ImageNet. Only every 5 to 10 steps, or only
         late in the run, is said to keep most of the gain (MosaicML's recipes; arXiv 2410.10373).
Cost     a second forward and backward pass on each step that uses it (counted in the PFLOP), a copy of the weights.
Changed  both passes see the same images and the same dropout; batch-norm statistics move in the first pass only.
         With gradient accumulation each of both passes runs over all micro-batches, so that it is the SAM of the whole batch.
Hurts    short runs at a fixed compute budget: half the steps for the same cost.
"""

import contextlib
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import UsageError
from groundup.basis.settings import Settings


class SAMSettings(Settings):
    """Sharpness-aware minimization on top of any optimizer."""

    rho: float = Field(
        0.05, gt=0, description="Radius of the neighbourhood, in units of the weights' norm space; above 0."
    )
    every: Duration = Field(Duration(1, "step"), description="Time between two steps that use it; 1step: all do.")
    start: Duration = Field(Duration(0, "step"), alias="from", description="From when on it is used.")

    def check(self, clock: Clock) -> None:
        """UsageError if no step of the run would use it, or a single one though there are more."""
        if clock.steps(self.start) >= clock.total_steps:
            raise UsageError(
                f"optimizer.sam.from={self.start}: step {clock.steps(self.start)} of a run of {clock.total_steps} steps: "
                "it would never begin; allowed: a point before the end",
                hint="use a share of the run, such as 0.8dur",
            )
        if clock.steps(self.every) < 1:
            raise UsageError(f"optimizer.sam.every={self.every}: shorter than a step; allowed: 1step or more")
        every, left = clock.steps(self.every), clock.total_steps - clock.steps(self.start)
        if every >= left > 1:
            raise UsageError(
                f"optimizer.sam.every={self.every}: {every} steps, and the run has {left} from optimizer.sam.from={self.start} on: "
                f"a single step would use it; allowed: less than {left} steps",
                hint="set optimizer.sam.every=1step, or 5step for a fifth of the cost",
            )

    def is_due(self, step: int, clock: Clock) -> bool:
        """Whether update number `step` (0-based) uses it."""
        since = step - clock.steps(self.start)
        return since >= 0 and since % clock.steps(self.every) == 0


@contextlib.contextmanager
def uphill(parameters: list[nn.Parameter], rho: float) -> Iterator[None]:
    """Inside, the parameters stand at w + e, without gradients; afterwards at w again, bit for bit, with the new gradients.

    The scale of the gradients does not matter, so that those of a loss scaler will do. Gradients that are not finite or zero move
    nothing: the step then is the plain one.
    """
    moved: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    gradients: list[Tensor] = [parameter.grad for parameter in moved if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    length = torch.where(norm.isfinite() & (norm > 0), rho / norm, 0.0)
    with torch.no_grad():
        home = [parameter.detach().clone() for parameter in moved]
        steps = [torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0) for gradient in gradients]
        torch._foreach_mul_(steps, length)
        torch._foreach_add_(moved, steps)
    for parameter in moved:
        parameter.grad = None
    del steps, gradients
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, home)


@contextlib.contextmanager
def frozen_norm_statistics(model: nn.Module) -> Iterator[None]:
    """Training passes inside leave no trace in the running statistics of batch norms."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    # Put back, and not held still by a momentum of 0: a compiled network would be compiled again for that.
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:  # none without a batch norm, of which torch makes an error
            torch._foreach_copy_(buffers, before)
