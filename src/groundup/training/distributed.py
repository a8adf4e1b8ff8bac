"""Several processes that train one run together, as torchrun starts them: who they are, how they agree, what they share.

Without RANK, WORLD_SIZE and LOCAL_RANK in the environment there is one process, `World`, which asks nobody and opens no group.
`together` is the one way in and out; a process that leaves it with an error tells the others why.

Store      small things, before and beside the group: what process 0 decided (`from_main`), who has prepared its data, who failed.
           Waiting there has no time limit, since decoding takes as long as it takes; it ends when another process has failed.
Group      gloo for tensors in main memory, NCCL for those on GPUs. A collective that takes longer than
           `train.collective_timeout` is an error.
Shares     Of n things in a row process r of k gets the r-th run of n / k; sizes differ by one at most, and process 0 never has
           less than another.
"""

import contextlib
import json
import os
import pickle
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.basis.errors import GroundupError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.basis.machine import is_launched, out_of_memory
from groundup.training.agreed_stop import AgreedStop
from groundup.training.state import TrainingState

Result = TypeVar("Result")

# Seconds that a process waits for the others to start; for the reason why another one has gone; for the others to read what it
# left in the store.
_ARRIVAL, _LAST_WORDS, _FAREWELL = 600.0, 3.0, 30.0


class LostProcess(GroundupError):
    """Another process of the run has failed, has died, or cannot be reached."""


def share_of(count: int, rank: int, size: int) -> slice:
    """The part of `count` things in a row that process `rank` of `size` gets; empty where there are fewer things than processes."""
    base, extra = divmod(count, size)
    start = rank * base + min(rank, extra)
    return slice(start, start + base + (rank < extra))


class World:
    """The processes that train one run, as one of them sees them. This class: one process alone.

    `rank`, `size`: its number and how many there are; `local_rank`, `local_size`: the same on this machine; `backend`: what
    carries the gradients.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    backend: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes: the run folder, the terminal, the trackers."""
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether torchrun started this, even if it is one process."""
        return False

    def share(self, count: int) -> slice:
        """This process's part of `count` things in a row."""
        return share_of(count, self.rank, self.size)

    def from_main(self, make: Callable[[], Result]) -> Result:
        """What process 0 makes, which alone is asked to; everybody gets it. What it raises ends them all."""
        return make()

    def start(self, device: torch.device, timeout: float) -> None:
        """Open the group once all processes have come here. `timeout`: seconds that a collective may take."""

    def stop(self, own: StopRequest) -> StopRequest:
        """A request to stop that all processes see at the same check."""
        return own

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all processes, in place."""
        return tensor

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes in their order, (N, ...), on the CPU, at process 0; elsewhere its own."""
        return rows

    def all_agree(self, yes: bool) -> bool:
        """Whether every process says yes."""
        return yes

    def share_state(self, state: TrainingState) -> None:
        """Bring every process to the state of process 0, in place."""


class TorchrunWorld(World):
    """The world of a process that torchrun started."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.local_rank = int(environment["LOCAL_RANK"])
        self.local_size = int(environment.get("LOCAL_WORLD_SIZE", self.size))
        store, _, _ = next(dist.rendezvous("env://", self.rank, self.size))
        self._store = dist.PrefixStore(f"groundup/{_meet(store, self.rank, self.size)}", store)
        self._asked = 0
        self._timeout = _FAREWELL
        self._stop: AgreedStop | None = None

    @property
    def is_shared(self) -> bool:
        return True

    def from_main(self, make: Callable[[], Result]) -> Result:
        self._asked += 1
        key = f"main/{self._asked}"
        if self.is_main:
            made = make()
            self._store.set(key, pickle.dumps(made))  # type: ignore[arg-type]
            return made
        self._wait(lambda: self._store.check([key]))
        result: Result = pickle.loads(self._store.get(key))
        return result

    def start(self, device: torch.device, timeout: float) -> None:
        self._store.add("prepared", 1)
        self._wait(lambda: self._store.add("prepared", 0) >= self.size)
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        self._timeout = timeout
        _use_loopback_if_alone_on_it(self)
        with self._collective():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if self.backend == "nccl" else "gloo",
                store=dist.PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=timeout),
            )

    def stop(self, own: StopRequest) -> StopRequest:
        if self._stop is not None:
            self._stop.land()
        self._stop = AgreedStop(own, self)
        return self._stop

    def sum(self, tensor: Tensor) -> Tensor:
        with self._collective():
            dist.all_reduce(tensor)
        return tensor

    def sum_later(self, tensor: Tensor) -> dist.Work:
        """Begin to sum `tensor` over all processes, in place; `finish` waits for it."""
        with self._collective():
            work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        return work

    def largest_later(self, tensor: Tensor) -> dist.Work:
        """Begin to take the largest of `tensor` over all processes, in place; `finish` waits for it."""
        with self._collective():
            work = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        return work

    def finish(self, work: dist.Work) -> None:
        """Wait for what was begun. `LostProcess` if another process has gone."""
        with self._collective():
            work.wait()

    def gather(self, rows: Tensor) -> Tensor:
        parts: list[Any] | None = [None] * self.size if self.is_main else None
        with self._collective():
            dist.gather_object(rows.cpu(), parts)
        return rows.cpu() if parts is None else torch.cat(parts)

    def all_agree(self, yes: bool) -> bool:
        return bool(self.sum(torch.tensor(int(yes))) == self.size)

    def share_state(self, state: TrainingState) -> None:
        networks = [state.model, *([] if state.average is None else [state.average.network])]
        box = [_on_cpu(state.to_dict()) if self.is_main else None]
        with self._collective(), torch.no_grad():
            for tensor in (tensor for network in networks for tensor in network.state_dict().values()):
                sent = tensor.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)
            dist.broadcast_object_list(box, src=0)
        if not self.is_main:
            assert box[0] is not None
            state.load_dict(box[0])

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        """Says who is to blame if a collective fails."""
        try:
            yield
        except RuntimeError as error:  # of which torch's DistError is a kind
            if out_of_memory(error):
                raise
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> BaseException:
        deadline = time.monotonic() + _LAST_WORDS
        with contextlib.suppress(Exception):  # the store may be gone too
            while time.monotonic() < deadline:
                if self._store.check(["failure"]):
                    return self._failure()
                time.sleep(0.05)
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return LostProcess(
            f"another process of this run has died or has not answered within train.collective_timeout ({said})",
            hint="`groundup resume` goes on from the last checkpoint; under `torchrun --max-restarts` it does so by itself",
        )

    def _failure(self) -> BaseException:
        failure = json.loads(self._store.get("failure"))
        if failure["kind"] == "interrupted":
            return Interrupted(failure["said"], failure["exit_code"])
        return LostProcess(f"process {failure['rank']} failed: {failure['said']}")

    def _wait(self, happened: Callable[[], bool]) -> None:
        """Until `happened`. What ended another process ends this one too."""
        pause = 0.01
        try:
            while not happened():
                if self._store.check(["failure"]):
                    raise self._failure()
                time.sleep(pause)
                pause = min(0.5, 1.5 * pause)
        except RuntimeError as error:
            raise self._lost(error) from error

    def leave(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        interrupted = isinstance(error, Interrupted)
        said = error.reason if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}".strip()
        failure = {
            "rank": self.rank,
            "kind": "interrupted" if interrupted else "error",
            "said": said,
            "exit_code": getattr(error, "exit_code", 1),
        }
        with contextlib.suppress(Exception):  # whoever hosts the store may have gone first
            if not isinstance(error, LostProcess) and self._store.add("failures", 1) == 1:
                self._store.set("failure", json.dumps(failure))
            if self.is_main:
                self._store.set("main left", said)
        if interrupted and self._stop is not None:
            # All stop. Once one process has ended, torchrun gives the others 30 s, and process 0 may need more for its checkpoint.
            self._main_left(self._timeout)
        if isinstance(error, Exception) and not self.is_main and not interrupted:
            error.only_here = self._is_only_here(error, said)  # type: ignore[attr-defined]
        if not interrupted and self.backend == "nccl":
            return  # a group with a kernel that waits for a lost process cannot be closed
        self._close_group()
        self._farewell(_LAST_WORDS)

    def _is_only_here(self, error: BaseException, said: str) -> bool:
        """Whether process 0 does not tell of this: it died without a word, or something else ended it."""
        told = self._main_left(_LAST_WORDS)
        return told is None or (not isinstance(error, LostProcess) and told != said)

    def _main_left(self, seconds: float) -> str | None:
        """Wait until process 0 has ended by an error: what it said. None if it has not by then."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Exception):
            while time.monotonic() < deadline:
                if self._store.check(["main left"]):
                    return self._store.get("main left").decode()
                time.sleep(0.05)
        return None

    def close(self) -> None:
        """The run is over."""
        self._close_group()
        self._farewell(_FAREWELL)

    def _close_group(self) -> None:
        with contextlib.suppress(Exception):
            if self._stop is not None:
                self._stop.land()
            if dist.is_initialized():
                dist.destroy_process_group()

    def _farewell(self, seconds: float) -> None:
        """Process 0 may host the store: it leaves last."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Exception):
            self._store.add("left", 1)
            while self.is_main and self._store.add("left", 0) < self.size and time.monotonic() < deadline:
                time.sleep(0.02)


def _meet(store: dist.Store, rank: int, size: int) -> str:
    """A name for this meeting of the processes; it returns when all have come.

    The store may remember earlier meetings: a process may train one run after the other, and torchrun keeps the store when it
    starts all of them again. Its TORCHELASTIC_RESTART_COUNT tells nothing, since each machine counts for itself. So everybody
    comes with a name of its own, which process 0 answers.
    """
    own, deadline = secrets.token_hex(8), time.monotonic() + _ARRIVAL
    if rank > 0:
        store.set(f"groundup/here/{rank}", own)
    while time.monotonic() < deadline:
        if rank > 0:
            if store.check([f"groundup/welcome/{own}"]):
                meeting = store.get(f"groundup/welcome/{own}").decode()
                store.add(f"groundup/{meeting}/met", 1)
                return meeting
        elif store.add(f"groundup/{own}/met", 0) == size - 1:
            return own
        else:
            for here in [key for other in range(1, size) if store.check([key := f"groundup/here/{other}"])]:
                # It may be of a meeting that is over; nobody reads that answer.
                store.set(f"groundup/welcome/{store.get(here).decode()}", own)
        time.sleep(0.02)
    raise LostProcess(
        f"not all of the {size} processes have started within {_ARRIVAL:.0f} s",
        hint="see what they said, and start again",
    )


@contextlib.contextmanager
def together() -> Iterator[World]:
    """The processes of this run: those that torchrun started, or this one alone. Leaving it by an error ends the others too."""
    if not is_launched():
        yield World()
        return
    world = TorchrunWorld(os.environ)
    try:
        yield world
    except BaseException as error:
        world.leave(error)
        raise
    world.close()


def job_id() -> str | None:
    """What names the job of this process, the same after a restart; None if torchrun did not start it. It tells nothing else.

    It is the id that torchrun was given (`--rdzv-id`); without one, the torchrun process that is the parent of this.
    """
    if not is_launched():
        return None
    import hashlib

    import psutil

    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if given == "none":
        parent = psutil.Process(os.getppid())
        given = f"{parent.pid} since {parent.create_time()}"
    return hashlib.blake2b(given.encode(), digest_size=8).hexdigest()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    return type(value)(map(_on_cpu, value)) if isinstance(value, list | tuple) else value


def _use_loopback_if_alone_on_it(world: World) -> None:
    """On one machine gloo needs no name of it, which not every container can resolve."""
    names = {name for _, name in socket.if_nameindex()}
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    if world.local_size == world.size and loopback in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
