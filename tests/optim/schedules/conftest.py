from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler


@pytest.fixture
def torch_rates() -> Callable[..., tuple[list[float], list[float]]]:
    """Learning rate and momentum of each update under a torch scheduler, stepped once per update."""

    def rates(make: Callable[[torch.optim.Optimizer], LRScheduler], lr: float, steps: int) -> tuple[list, list]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
        scheduler = make(optimizer)
        lrs, momenta = [], []
        for step in range(steps):
            if step:
                optimizer.step()
                scheduler.step()
            lrs.append(optimizer.param_groups[0]["lr"])
            momenta.append(optimizer.param_groups[0]["momentum"])
        return lrs, momenta

    return rates
