"""Muon: momentum, then the nearest semi-orthogonal matrix as the update, for convolution filters; SGD for the rest.

A filter bank (out, in, kh, kw) is taken as the matrix (out, in*kh*kw). Its Nesterov momentum is orthogonalised by a few
Newton-Schulz iterations and scaled to the norm of the weights, which are themselves kept at a constant norm.

    Source   Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the form with normalised
             filters follows the description of the CIFAR-10 speed records (cifar10-airbench).
    Changed  Equal shapes are orthogonalised as one batch; the aspect-ratio is handled by transposing to the wide form;
             the columns of a channels-last filter bank stand in the order of its memory, of which the iteration knows nothing;
             the products are made in bfloat16 where those of the network are, else in float32: never by what this one machine
             could do, so that processes on unlike machines and a resumed run take the same steps.
    Values   lr 0.24, momentum 0.6, 3 iterations for 8 epochs of CIFAR-10 at batch 2000; lr around 0.18 for CIFAR-100.
    Cost     iterations x 2 x out^2 x (in*kh*kw) multiply-adds a step, fewer for long filters: a few percent of a step at batch 512.
    Hurts    on norms, biases and the classifier: these keep SGD.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.optim.groups import BaseOptimizerSettings, GroupScales, LrScale, WeightDecay

# Quintic coefficients that maximise the slope at zero while keeping singular values within about [0.7, 1.2].
_QUINTIC = (3.4445, -4.7750, 2.0315)
_MOST_TURNS_ON_GRAM = 5


def orthogonalize(matrices: Tensor, iterations: int = 3, bfloat16: bool = False) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix.

    `matrices`: float (batch, rows, columns), any scale; `bfloat16`: multiply in it, else in float32. Returns the same shape and
    dtype with singular values near 1.
    """
    x = matrices.bfloat16() if bfloat16 else matrices.float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    # Iterating on the small Gram matrix saves time for long matrices. It needs real float32 (a GPU's products may have the digits
    # of TF32) and few turns: each multiplies what rounding made negative among the smallest eigenvalues by 12.
    long = x.shape[2] > 1.5 * x.shape[1] and x.dtype == torch.float32 and x.device.type == "cpu"
    x = _iterate_on_gram(x, iterations) if long and iterations <= _MOST_TURNS_ON_GRAM else _iterate(x, iterations)
    return (x.mT if tall else x).to(matrices.dtype)


def _iterate(x: Tensor, iterations: int) -> Tensor:
    """x <- (a + b G + c G^2) x with G = x x^T, for wide matrices (batch, m, n): 2 m^2 n + m^3 multiply-adds a turn."""
    a, b, c = _QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_on_gram(x: Tensor, iterations: int) -> Tensor:
    """The same result as `_iterate`: every turn multiplies by a polynomial of G, and these commute, so G is turned into the next
    turn's G without x, and x is multiplied once, at the end. About 2 m^2 n multiply-adds in all, and up to 4 m^3 a turn."""
    a, b, c = _QUINTIC
    gram = x @ x.mT
    identity = torch.eye(len(gram[0]), dtype=x.dtype, device=x.device)
    product = None
    for turn in range(iterations):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor if product is None else factor @ product
        if turn + 1 < iterations:
            gram = factor @ gram @ factor
    return x if product is None else product @ x


class Muon(torch.optim.Optimizer):
    """Muon for groups with `muon=True` (parameters of 2 or more dimensions), Nesterov SGD for the others.

    `bfloat16`: make the products of the iteration in it. Group keys: `lr`, `momentum`, `weight_decay`, `muon`, and `iterations` for
    Muon groups. In a Muon group the learning rate is relative to the norm of the filters: 0.1 turns each filter bank by about a
    tenth of its size a step.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
        iterations: int = 3,
        bfloat16: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "muon": False,
            "iterations": iterations,
        }
        super().__init__(params, defaults)
        self.bfloat16 = bfloat16

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            updates = self._nesterov(parameters, group)
            if group["muon"]:
                self._turn(parameters, updates, group)
            else:
                torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _nesterov(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Gradient plus decay, into the buffer, and looked ahead by one momentum step."""
        gradients: list[Tensor] = [p.grad for p in parameters]  # type: ignore[misc]
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        if group["weight_decay"] and not group["muon"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))

    def _turn(self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        """Rescale each filter bank to norm sqrt(out), then step by the orthogonalised update."""
        scales = [len(p) ** 0.5 for p in parameters]
        norms = torch._foreach_add(torch._foreach_norm(parameters), 1e-7)
        torch._foreach_mul_(parameters, torch._foreach_mul(torch._foreach_reciprocal(norms), scales))
        turned = _orthogonal(parameters, updates, group["iterations"], self.bfloat16)
        torch._foreach_add_(parameters, turned, alpha=-group["lr"])


def _orthogonal(parameters: list[Tensor], updates: list[Tensor], iterations: int, bfloat16: bool) -> list[Tensor]:
    """The orthogonalised updates in the memory order of their parameters, batched over equal shapes."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, p in enumerate(parameters):
        by_shape[len(p), p.numel() // len(p)].append(position)
    results = list(updates)
    for positions in by_shape.values():
        rows = [_in_memory_order(updates[i], parameters[i]) for i in positions]
        stacked = torch.stack([row.reshape(len(row), -1) for row in rows])
        matrices = orthogonalize(stacked, iterations, bfloat16).contiguous()  # tall ones come transposed
        for i, row, matrix in zip(positions, rows, matrices, strict=True):
            result = matrix.view(row.shape)
            results[i] = result.permute(0, 3, 1, 2) if _is_channels_last(parameters[i]) else result
    return results


def _in_memory_order(update: Tensor, parameter: Tensor) -> Tensor:
    return update.permute(0, 2, 3, 1) if _is_channels_last(parameter) else update


def _is_channels_last(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)


class MuonSettings(BaseOptimizerSettings):
    """Muon for the trainable convolution filters at the schedule's rate; Nesterov SGD at multiples of it for the rest.

    Weights of 2 or more dimensions beside the filters and the head are the group `other`, at the schedule's rate.
    """

    name: Literal["muon"] = Field("muon", description="Muon for convolution filters, SGD for the rest.")
    momentum: float = Field(0.6, ge=0, lt=1, description="Momentum of the filters, in [0, 1).")
    iterations: int = Field(3, ge=1, le=20, description="Newton-Schulz iterations of each update, 1 to 20.")
    sgd_momentum: float = Field(0.85, ge=0, lt=1, description="Nesterov momentum of all other parameters, in [0, 1).")
    weight_decay: WeightDecay = Field(
        5e-4, description="Weight decay of the SGD part, from 0 (filters keep their norm)."
    )
    norm_lr_scale: LrScale = Field(
        0.22, description="Learning rate of the norm weights, as a multiple of the schedule's, above 0."
    )
    bias_lr_scale: LrScale = Field(
        0.22, description="Learning rate of the biases (but the head's), as a multiple of the schedule's, above 0."
    )
    head_lr_scale: LrScale = Field(
        2.8, description="Learning rate of the final classifier, as a multiple of the schedule's, above 0."
    )

    def build(self, model: nn.Module, bfloat16: bool = False) -> Muon:
        groups: list[dict[str, Any]] = []
        for group in self.groups(model):
            group |= {"muon": False, "momentum": self.sgd_momentum}
            if group["name"] != "filters":
                groups.append(group)
                continue
            filters = [p for p in group["params"] if p.ndim == 4]
            other = [p for p in group["params"] if p.ndim != 4]
            turned = {"params": filters, "weight_decay": 0.0, "muon": True, "momentum": self.momentum}
            groups += [group | turned] if filters else []
            groups += [group | {"name": "other", "params": other}] if other else []
        if not any(group["muon"] for group in groups):
            raise UsageError(
                "optimizer.name='muon': the model has no trainable convolution filters for it; allowed: sgd, adamw",
                hint="set optimizer.name=sgd",
            )
        return Muon(groups, lr=0.0, iterations=self.iterations, bfloat16=bfloat16)

    def _scales(self) -> GroupScales:
        return GroupScales(bias=self.bias_lr_scale, head=self.head_lr_scale, norm=self.norm_lr_scale)
