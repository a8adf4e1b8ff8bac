"""The engine of a run: device, threads, precision and whether to compile. Chosen once, stored with the run, used again on resume.

bf16 is chosen where the hardware multiplies it faster than fp32: CUDA GPUs from Ampere on, CPUs with AMX (about 3 times on
convolutions). CPUs without it emulate bf16 and lose, so they stay at fp32. fp16 with loss scaling is for GPUs that have only that
(T4, V100).
"""

import contextlib
import importlib.util
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.basis.machine import keep_freed_memory, multiplies_bfloat16, usable_cores
from groundup.training.distributed import World
from groundup.training.settings import TrainSettings

Precision = Literal["fp32", "bf16", "fp16"]
# Fewer steps than this do not pay for a compilation of half a minute or more on a GPU.
COMPILE_PAYS_FROM = 3000


@dataclass(frozen=True)
class Engine:
    """`device`: a torch device string; `threads`: CPU threads; `compiled`: whether the network is compiled; `why`: in words;
    `deterministic`: only kernels that repeat bit for bit (a GPU's choice; a CPU's always do); `processes`: how many train
    together; `backend`: what carries their gradients, None for one process alone."""

    device: str
    threads: int
    precision: Precision
    compiled: bool
    channels_last: bool
    why: str
    deterministic: bool = False
    processes: int = 1
    backend: str | None = None

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision context for one forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.torch_device.type, dtype=dtype)

    def activate(self) -> None:
        """Set the process-wide switches that belong to this engine."""
        torch.set_num_threads(self.threads)
        if self.torch_device.type == "cpu":
            keep_freed_memory()
        if self.torch_device.type == "cuda":
            if self.torch_device.index is not None:  # torch takes no "cuda" here; it means the current one already
                torch.cuda.set_device(self.torch_device)
            torch.use_deterministic_algorithms(self.deterministic)
            torch.backends.cudnn.benchmark = not self.deterministic
            if self.deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for
            if self.compiled:
                from torch._inductor import config as compiler  # takes a while

                # Else the compiler chooses kernels by timing them, and another process may choose others.
                if hasattr(compiler, "deterministic"):  # torch 2.10 and later
                    compiler.deterministic = self.deterministic
                elif self.deterministic:
                    raise UsageError(
                        f"train.deterministic=true: torch {torch.__version__} cannot compile deterministically",
                        hint="set train.compile=never, or take torch 2.10 or later",
                    )
            torch.set_float32_matmul_precision("high")

    def take(self, model: nn.Module) -> nn.Module:
        """The network, in place, on this device and in the memory order that it is to compute in."""
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif _in_plain_order not in model._forward_pre_hooks.values():
            model.register_forward_pre_hook(_in_plain_order)
        return model.to(self.torch_device)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
        elif self.torch_device.type == "mps":
            torch.mps.synchronize()

    def hardware(self) -> str | None:
        """The name of the GPU, None on a CPU (see `environment`) and on MPS."""
        return torch.cuda.get_device_name(self.torch_device) if self.torch_device.type == "cuda" else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _in_plain_order(_network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Images come in channels-last order, and a convolution takes it on if either side has it."""
    return tuple(images.contiguous() for images in inputs)


def choose_engine(settings: TrainSettings, total_steps: int, world: World | None = None) -> Engine:
    """The engine for this machine; UsageError if the recipe asks for what the machine has not. `world`: the processes that train
    together; each takes a GPU of its own, or its share of the cores."""
    world = world or World()
    device, precision, why_precision = hardware_for(settings, world)
    compiled, why_compile = _compile(settings.compile, device, total_steps)
    why = f"{precision}: {why_precision}; {'compiled' if compiled else 'eager'}: {why_compile}"
    return Engine(
        str(device),
        settings.threads or max(1, usable_cores() // world.local_size),
        precision,
        compiled,
        settings.channels_last,
        why,
        settings.deterministic,
        world.size,
        None if not world.is_shared else "nccl" if device.type == "cuda" else "gloo",
    )


def hardware_for(settings: TrainSettings, world: World) -> tuple[torch.device, Precision, str]:
    """Device and precision of this process, and why; UsageError if the machine has not what the recipe asks for, or if several
    processes are asked to find a batch. Known before any data is read."""
    if settings.finds_batch_size and world.size > 1:
        raise UsageError(
            f"train.batch_size=auto: finds what fits one process, and {world.size} share a batch; allowed here: a number",
            hint=f"train.batch_size={64 * world.size} gives each process 64 images; `groundup check` finds what fits one",
        )
    device = _of_this_process(_device(settings.device), world)
    if settings.sync_batch_norm and device.type != "cuda":
        raise UsageError(
            f"train.sync_batch_norm=true: torch synchronises batch norm on CUDA GPUs only, not on {device}; allowed here: false",
            hint="set train.sync_batch_norm=false: each process then normalises by its own images",
        )
    return device, *_precision(settings.precision, device)


def _of_this_process(device: torch.device, world: World) -> torch.device:
    """The device of one of several processes on a machine: the GPU of its number."""
    if not world.is_shared or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UsageError(
            f"train.device: {device} does not carry several processes; allowed under torchrun: cpu, cuda",
            hint="start the run without torchrun, or set train.device=cpu",
        )
    count = torch.cuda.device_count()
    if world.local_size > count or (device.index is not None and world.local_size > 1):
        raise UsageError(
            f"train.device={str(device)!r}: {world.local_size} processes on a machine with {count} GPUs; each needs one of its own",
            hint=f"torchrun --nproc-per-node {count}, and train.device=auto or cuda",
        )
    return device if device.index is not None else torch.device("cuda", world.local_rank)


def _device(name: str) -> torch.device:
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    have = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if mps else [])]
    if name.split(":")[0] not in have:
        raise UsageError(
            f"train.device={name!r}: this machine and this torch do not have it; allowed: auto, {', '.join(have)}",
            hint="use train.device=auto" if name.startswith(("cuda", "mps")) else None,
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"train.device={name!r}: not a device; allowed: auto, {', '.join(have)}, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"train.device={name!r}: this machine has {torch.cuda.device_count()} GPUs, counted from cuda:0"
        )
    return device


def _precision(wanted: str, device: torch.device) -> tuple[Precision, str]:
    if wanted != "auto":
        if wanted == "fp16" and device.type != "cuda":
            raise UsageError(
                f"train.precision='fp16': needs a CUDA GPU, the device is {device}; allowed here: auto, fp32, bf16"
            )
        return wanted, "as the recipe says"  # type: ignore[return-value]
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return "bf16", "the GPU multiplies it at full speed"
        return "fp16", "the GPU has no bf16, so fp16 with loss scaling"
    if device.type == "cpu" and multiplies_bfloat16():
        return "bf16", "the CPU has AMX"
    return "fp32", "this CPU has no AMX" if device.type == "cpu" else "bf16 brings nothing on this device"


def _compile(wanted: str, device: torch.device, total_steps: int) -> tuple[bool, str]:
    if wanted != "auto":
        return wanted == "always", "as the recipe says"
    if device.type != "cuda":
        return False, f"compiling is not shown to pay on {device.type}"
    if total_steps < COMPILE_PAYS_FROM:
        return False, f"a run of {total_steps} steps is too short to pay for it (from {COMPILE_PAYS_FROM})"
    if importlib.util.find_spec("triton") is None:
        return False, "no compiler (triton) is installed"
    return True, f"{total_steps} steps pay for it"
