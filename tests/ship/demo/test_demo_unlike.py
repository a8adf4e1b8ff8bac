"""The score of a picture unlike the training images: its scale, its order, and what it does without a linear layer."""

import numpy as np
import torch
from torch import Tensor, nn

from groundup.data import ImageSet
from groundup.ship.demo.unlike import NEIGHBOUR, Reference, last_linear, logits_and_features, make_reference


def features_of(images: Tensor) -> Tensor:
    """Mean colours of the four quarters, (B, 12)."""
    return nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


def reddish(count: int, seed: int) -> ImageSet:
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (count, 4, 4, 3), dtype=np.uint8)
    images[..., 0] += 190
    return ImageSet.whole(images, np.arange(count) % 2)


def reference() -> Reference:
    return make_reference(features_of, reddish(400, 0), reddish(1000, 1), "validation")


def test_one_of_a_hundred_held_out_images_is_called_unlike() -> None:
    known = reference()
    unseen = reddish(1000, 2)
    scores = known.scores(features_of(unseen.read(slice(None)).permute(0, 3, 1, 2)))
    assert 0.002 < float((scores > 1).float().mean()) < 0.03
    assert (known.held_out, known.held_out_images) == ("validation", 1000)


def test_a_picture_of_another_kind_is_unlike() -> None:
    blue = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    blue[:, 2] = 255
    assert float(reference().scores(features_of(blue))) > 5


def test_the_distance_is_that_to_the_kth_neighbour() -> None:
    towards = torch.eye(20)
    stored = torch.cat([towards[:1].expand(NEIGHBOUR - 1, -1), towards[1:2]])
    known = Reference(stored.half(), 0.5, "test", 100)
    # Nine stored images are the same as it, the tenth has nothing in common with it: distance 1.
    assert float(known.scores(3 * towards[:1])) == 2.0


def test_features_are_what_enters_the_last_linear_layer() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2), nn.BatchNorm1d(2))
    images = torch.rand(3, 3, 2, 2)
    network.train()
    logits, features = logits_and_features(network, images)
    assert network.training
    assert features is not None
    assert torch.equal(features, network[:3](images))
    assert torch.equal(logits, network.eval()(images))
    assert not network[3]._forward_pre_hooks


def test_a_network_without_a_linear_layer_has_no_features() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert last_linear(network) is None
    assert logits_and_features(network, torch.rand(1, 3, 4, 4))[1] is None
