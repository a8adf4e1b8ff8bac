"""Where the evidence lies: a network whose answer is known in one corner of the image."""

import torch
from torch import Tensor, nn

from groundup.evaluation.grad_cam import grad_cam


class Corner(nn.Module):
    """Class 0 sees the red of the image, class 1 the green; neither looks at blue."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3))


def spots() -> Tensor:
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, :2, :2] = 1  # red, top left
    images[:, 1, 6:, 6:] = 1  # green, bottom right
    return images


def test_the_heat_lies_where_the_evidence_for_the_class_is() -> None:
    heat = grad_cam(Corner(), spots(), torch.tensor([0, 1]))
    assert heat is not None
    assert heat.shape == (2, 8, 8)
    assert heat[0, 0, 0] == 1
    assert heat[0, 4:, 4:].max() == 0
    assert heat[1, 7, 7] == 1
    assert heat[1, :4, :4].max() == 0


def test_no_evidence_is_no_heat_and_the_network_stays_as_it_was() -> None:
    network = Corner().train().requires_grad_(False)
    heat = grad_cam(network, torch.zeros(1, 3, 8, 8), torch.tensor([1]))
    assert heat is not None
    assert float(heat.abs().max()) == 0
    assert network.training
    assert network.conv.weight.grad is None
    assert not network.conv._forward_hooks


def test_a_network_without_a_feature_map_has_no_heat() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    assert grad_cam(network, torch.zeros(1, 3, 8, 8), torch.tensor([0])) is None
