"""Adding up the gradients of all processes, of an eager network while backward is still running.

Every process has divided the losses of its part of the batch by the weight of the whole batch, so the gradient of the batch is the
plain sum. It travels in buckets of 25 MB in the order in which backward gives them, last layer first; a bucket leaves as soon as
the last micro-batch has completed it. A compiled network gives all of its gradients when its backward graph ends, so that nothing
travels before. After the buckets go the sums of loss and right answers and the running statistics of batch norms (float64, one
small all-reduce): after every step all processes hold the same numbers, whoever writes the checkpoint.

Why not DistributedDataParallel: it averages where this is a sum, and it needs a backward pass from every process at every
step, but here a part may be empty (a short last batch) and a process may cut its part into fewer micro-batches than another.

Shapes   a bucket is a flat tensor of the parameters' dtype; gradients become views of it, in the memory order of their parameters.
Norms    `BatchNorm` sees the images of one process at a time; its running mean and variance become the mean over the processes that
         had images; `num_batches_tracked` is that of process 0. Other buffers stay as each process has them; a checkpoint, and so
         a resume, has those of process 0.
Unused   Which parameters get gradients is agreed upon in the first step. One that later gets none in any process counts as zero.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from groundup.basis.errors import GroundupError, UsageError
from groundup.training.distributed import TorchrunWorld, World, share_of

_BUCKET_BYTES = 25 << 20


class Gradients:
    """The gradients of a process alone: there is nothing to add."""

    def expect(self, last: bool) -> None:
        """Told before every backward pass of a batch. `last`: it is the last one of this process."""

    def summed(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """After the last backward pass: the gradients become those of the global batch, and so do these two sums."""
        return loss, correct


def gradients_of(model: nn.Module, world: World) -> Gradients:
    """What adds up the gradients of `model` over `world`."""
    return SharedGradients(model, world) if isinstance(world, TorchrunWorld) else Gradients()


def check_equal_parts(world: World, batches: set[int], micro_batch: int | None) -> None:
    """UsageError unless every process makes as many forward passes as the others: torch's synchronised batch norm waits for all.

    `batches`: the sizes of the global batches of the run.
    """
    for count in sorted(batches):
        shares = [share_of(count, rank, world.size) for rank in range(world.size)]
        passes = {-(-(part.stop - part.start) // (micro_batch or count)) for part in shares}
        if passes != {max(passes)} or 0 in passes:
            raise UsageError(
                f"train.sync_batch_norm: {world.size} processes make {min(passes)} to {max(passes)} forward passes of "
                f"{count} images, train.micro_batch={micro_batch or 'null'}, and would wait for each other; allowed: equally many",
                hint="make train.batch_size a multiple of train.micro_batch times the processes, with train.drop_last=true",
            )


@dataclass
class _Bucket:
    """`views`: parts of `flat`, one for each parameter, in its memory order; `missing`: gradients that are still to come."""

    parameters: list[nn.Parameter]
    flat: Tensor
    views: list[Tensor]
    missing: int = 0
    work: dist.Work | None = None

    @classmethod
    def of(cls, parameters: list[nn.Parameter]) -> "_Bucket":
        flat = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
        parts = flat.split([p.numel() for p in parameters])
        views = [_in_order_of(p, part) for p, part in zip(parameters, parts, strict=True)]
        return cls(parameters, flat, views)

    def fill(self) -> None:
        """Copy the gradients in; zero where this process has none."""
        pairs = [(view, p.grad) for view, p in zip(self.views, self.parameters, strict=True)]
        given = [(view, gradient) for view, gradient in pairs if gradient is not None]
        if len(given) < len(pairs):
            self.flat.zero_()
        if given:
            torch._foreach_copy_([view for view, _ in given], [gradient for _, gradient in given])


def _in_order_of(parameter: Tensor, part: Tensor) -> Tensor:
    dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
    return part.as_strided(parameter.shape, parameter.stride()) if dense else part.view(parameter.shape)


class SharedGradients(Gradients):
    """The gradients of `model`, added up over the processes of `world`."""

    def __init__(self, model: nn.Module, world: TorchrunWorld) -> None:
        self._world = world
        self._parameters = [p for p in reversed(list(model.parameters())) if p.requires_grad]
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self._statistics = [b for m in norms for b in m.buffers(False) if b.is_floating_point()]
        self._counters = [b for m in norms for b in m.buffers(False) if not b.is_floating_point()]
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._unused: list[nn.Parameter] | None = None  # None before the first step
        self._launched = 0
        self._is_last = self._had_images = False
        for parameter in self._parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def expect(self, last: bool) -> None:
        self._is_last, self._had_images = last, True

    def summed(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            if self._unused is None:
                self._agree_on_buckets()
            elif any(parameter.grad is not None for parameter in self._unused):
                raise GroundupError(
                    "a parameter that had no gradient in the first step has one now; several processes train only networks "
                    "that use the same parameters in every step",
                    hint="train this network in one process",
                )
            while self._launched < len(self._buckets):
                self._launch()
            numbers = self._numbers(loss, correct)
            work = self._world.sum_later(numbers)
            for bucket in self._buckets:
                assert bucket.work is not None
                self._world.finish(bucket.work)
                for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                    parameter.grad = view
                bucket.missing = len(bucket.parameters)
            self._launched, self._is_last, self._had_images = 0, False, False
            self._world.finish(work)
            return self._read(numbers, loss, correct)

    def _arrived(self, parameter: Tensor) -> None:
        """A gradient of this process is complete; called by backward."""
        if not self._is_last or self._unused is None:
            return
        assert isinstance(parameter, nn.Parameter)
        if (bucket := self._bucket_of.get(parameter)) is not None:
            bucket.missing -= 1
        # Always in the same order: the processes' collectives are matched by it.
        while self._launched < len(self._buckets) and self._buckets[self._launched].missing == 0:
            self._launch()

    @torch.no_grad()
    def _launch(self) -> None:
        bucket = self._buckets[self._launched]
        bucket.fill()
        bucket.work = self._world.sum_later(bucket.flat)
        self._launched += 1

    def _agree_on_buckets(self) -> None:
        have = torch.tensor([p.grad is not None for p in self._parameters], dtype=torch.int32)
        used = [bool(count) for count in self._world.sum(have).tolist()]
        self._unused = [p for p, is_used in zip(self._parameters, used, strict=True) if not is_used]
        waiting: list[nn.Parameter] = []
        for parameter in (p for p, is_used in zip(self._parameters, used, strict=True) if is_used):
            size = sum(p.numel() for p in waiting) * parameter.element_size()
            if waiting and (size >= _BUCKET_BYTES or waiting[0].dtype != parameter.dtype):
                self._buckets.append(_Bucket.of(waiting))
                waiting = []
            waiting.append(parameter)
        if waiting:
            self._buckets.append(_Bucket.of(waiting))
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.parameters}

    def _numbers(self, loss: Tensor, correct: Tensor) -> Tensor:
        """(1 if this process had images, loss, correct, statistics if it had, counters of process 0): float64."""
        numbers = [torch.full((1,), float(self._had_images), dtype=torch.float64, device=loss.device)]
        numbers.append(torch.stack([loss, correct]).double())
        if self._statistics:
            statistics = torch.cat([each.flatten() for each in self._statistics]).double()
            numbers.append(statistics if self._had_images else torch.zeros_like(statistics))
        if self._counters:
            counters = torch.stack(self._counters).double()
            numbers.append(counters if self._world.is_main else torch.zeros_like(counters))
        return torch.cat(numbers)

    def _read(self, numbers: Tensor, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [each.numel() for each in self._statistics]
        counts, sums, statistics, counters = numbers.split([1, 2, sum(sizes), len(self._counters)])
        if self._statistics:
            means = (statistics / counts).split(sizes)
            torch._foreach_copy_(self._statistics, [m.view_as(b) for m, b in zip(means, self._statistics, strict=True)])
        for own, counter in zip(self._counters, counters.unbind(), strict=True):
            own.copy_(counter)
        return sums[0].to(loss.dtype), sums[1].to(correct.dtype)
