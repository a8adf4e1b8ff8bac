"""Stopping together: every process of a run sees a request to stop at the same check, whichever of them was asked.

Every check sends what this process was asked and reads what all were asked at the check before: one number, the largest of all,
which travels in main memory while the step runs, so that no GPU is waited for. All processes must make the same checks. It is also
how a process learns within a step that another one has died.

A process that has given up waiting for its images cannot take part in another step. Where that may happen all agree with
`check_now`, which waits for the answer.
"""

from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.basis.interruption import Interrupted, StopRequest


class Agreeing(Protocol):
    """What is needed of the processes of a run: see `distributed.TorchrunWorld`."""

    size: int

    def largest_later(self, tensor: Tensor) -> dist.Work:
        """Begin to take the largest of `tensor` over all processes, in place."""
        ...

    def finish(self, work: dist.Work) -> None:
        """Wait for what was begun."""
        ...


# A world of so many processes agrees at every check; one of k times as many at every k-th.
_AGREES_EACH_CHECK = 64
# What a process was asked, from the least to the most urgent: the largest of all processes is what they agree on.
_REQUESTS: list[tuple[str, int]] = [
    ("", 0),
    ("--max-time is up", 0),
    ("asked to", 0),
    ("SIGINT", 130),
    ("SIGTERM", 143),
]


class AgreedStop(StopRequest):
    """A request to stop that every process of a run sees at the same check: one check after the first of them was asked."""

    def __init__(self, own: StopRequest, world: Agreeing) -> None:
        super().__init__()
        self._own, self._world = own, world
        self._every = 1 + (world.size - 1) // _AGREES_EACH_CHECK
        self._checks = 0
        self._flying: tuple[Tensor, dist.Work] | None = None

    def check(self) -> None:
        """Raise `Interrupted` if any process was asked to stop by the check before."""
        self._checks += 1
        if self._checks % self._every:
            return
        agreed = self.land()
        request = torch.tensor(self._wish())
        self._flying = (request, self._world.largest_later(request))
        if agreed:
            self._raise(agreed)

    def check_now(self) -> None:
        """Raise `Interrupted` if any process is asked to stop now."""
        before, request = self.land(), torch.tensor(self._wish())
        self._world.finish(self._world.largest_later(request))
        if agreed := max(before, int(request)):
            self._raise(agreed)

    @property
    def pending(self) -> Interrupted | None:
        """What this process alone was asked."""
        return self._own.pending

    def land(self) -> int:
        """Wait for what is under way: the number of the request that all agree on, 0 for none."""
        if self._flying is None:
            return 0
        (request, work), self._flying = self._flying, None
        self._world.finish(work)
        return int(request)

    def _wish(self) -> int:
        pending = self._own.pending
        if pending is None:
            return 0
        numbers = {name: number for number, (name, _) in enumerate(_REQUESTS)}
        return numbers.get(pending.reason, 2)

    def _raise(self, agreed: int) -> NoReturn:
        own = self._own.pending
        if own is not None and self._wish() == agreed:
            raise own
        reason, exit_code = _REQUESTS[agreed]
        raise Interrupted(f"{reason} (another process of the run)" if agreed == 2 else reason, exit_code)
