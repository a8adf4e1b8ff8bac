"""torch.compile, believed only after it agreed with eager.

Before a compiled run starts, both give logits and gradients for one batch per shape, dropout off, and are compared. Dropout is
part of what is compiled, its share too, and draws other numbers than eager: the graphs that have it are compiled and run before
the first step, but cannot be compared.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from groundup.basis.errors import GroundupError
from groundup.basis.machine import out_of_memory
from groundup.models import set_dropout
from groundup.training.engine import Engine

# Relative to the largest value: rounding of one reduced-precision network pass, reordered by the compiler.
TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2, "fp16": 2e-2}


def compile_network(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The compiled network: static shapes, one graph per shape and dropout, sharing its parameters with `model`."""
    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 64)
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False)
    return compiled


def disagreement(model: nn.Module, compiled: Callable[[Tensor], Tensor], images: Tensor, engine: Engine) -> float:
    """Largest difference of logits and parameter gradients between eager and compiled, relative to the largest value; inf for NaN.
    GroundupError if it does not compile.

    `images`: float (B, 3, S, S). Batch-norm statistics and gradients of `model` are left as they were.
    """
    with _left_as_it_was(model):
        for module in _dropouts(model):
            module.p = 0.0
        expected, got = _outcome(model, model, images, engine), _compiled_outcome(model, compiled, images, engine)
        return max(_relative(a, b) for a, b in zip(expected, got, strict=True))


def warm_up(
    model: nn.Module, compiled: Callable[[Tensor], Tensor], images: Tensor, engine: Engine, dropout: float | None
) -> None:
    """Compile what training with this `dropout` in the blocks runs (None: as the network was built), where any is in force.
    GroundupError if it does not compile. `model` and the random numbers to come are left as they were."""
    with _left_as_it_was(model), torch.random.fork_rng([images.device] if images.is_cuda else []):
        if dropout is not None:
            set_dropout(model, dropout)
        if any(module.p for module in _dropouts(model)):
            _compiled_outcome(model, compiled, images, engine)


def first_passes(model: nn.Module, batches: Iterable[Tensor], engine: Engine, check: Callable[[], None]) -> None:
    """A forward and a backward pass of each of `batches`, which leave everything as it was: on a GPU kernels are loaded, and chosen
    by trying them (torch.backends.cudnn.benchmark), when the first batch of a shape comes. `check`: called between them; may raise.

    What does not fit into memory is left to whoever takes the real step, who knows what to say of it.
    """
    for images in batches:
        check()
        try:
            with _left_as_it_was(model), torch.random.fork_rng([images.device] if images.is_cuda else []):
                _outcome(model, model, images, engine)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return
    engine.synchronize()


def _dropouts(model: nn.Module) -> list[_DropoutNd]:
    return [module for module in model.modules() if isinstance(module, _DropoutNd)]


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Buffers, gradients and shares of dropout are afterwards what they were before."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    dropouts = [(module, module.p) for module in _dropouts(model)]
    try:
        yield
    finally:
        for module, p in dropouts:
            module.p = p
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _outcome(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, engine: Engine
) -> tuple[Tensor, Tensor]:
    model.train()
    model.zero_grad(set_to_none=True)
    with engine.autocast():
        logits = forward(images)
    logits.float().square().mean().backward()
    gradients = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    return logits.detach().float(), gradients


def _compiled_outcome(
    model: nn.Module, compiled: Callable[[Tensor], Tensor], images: Tensor, engine: Engine
) -> tuple[Tensor, Tensor]:
    """GroundupError for whatever compiling raises, from a missing C++ compiler to a fault in the compiler."""
    try:
        return _outcome(model, compiled, images, engine)
    except Exception as error:
        if out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GroundupError(
            f"train.compile: at {images.shape[-1]} px the network could not be compiled: {said}",
            hint="set train.compile=never, or give torch.compile what it lacks: on a CPU a C++ compiler such as g++",
        ) from error


def _relative(a: Tensor, b: Tensor) -> float:
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))


def check_agreement(
    model: nn.Module, compiled: Callable[[Tensor], Tensor], batches: list[Tensor], engine: Engine
) -> None:
    """GroundupError if it does not compile, or if compiled and eager differ beyond `TOLERANCE` on any of `batches` (one per input
    size)."""
    for images in batches:
        found = disagreement(model, compiled, images, engine)
        if found > TOLERANCE[engine.precision]:
            raise GroundupError(
                f"train.compile: at {images.shape[-1]} px the compiled network differs from the eager one by {found:.2g} of the "
                f"largest value; allowed for {engine.precision}: {TOLERANCE[engine.precision]:.2g}",
                hint="set train.compile=never",
            )
