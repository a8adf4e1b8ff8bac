"""PreActResNet-18: where norm and ReLU stand."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from groundup.models import PreActResNetSettings
from groundup.models.blocks import PreActBlock
from groundup.models.preact_resnet import PreActResNet


def narrow(**settings: Any) -> PreActResNet:
    torch.manual_seed(0)
    return cast(PreActResNet, PreActResNetSettings(name="preact_resnet18", width=8, **settings).build(10))


def pooled_and_summed(model: PreActResNet) -> tuple[Tensor, Tensor]:
    """What the classifier takes and what the last block gives, for one batch."""
    pooled: list[Tensor] = []
    summed: list[Tensor] = []
    model.fc.register_forward_pre_hook(lambda _module, inputs: pooled.append(inputs[0]))
    model.layer4.register_forward_hook(lambda _module, _inputs, output: summed.append(output))
    model(torch.randn(16, 3, 32, 32))
    return pooled[0], summed[0]


def test_the_stages_halve_the_side_three_times() -> None:
    model = narrow().eval()
    x = model.conv1(torch.randn(1, 3, 32, 32))
    sides = [x.shape[-1]]
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        sides.append(x.shape[-1])
    assert sides == [32, 32, 16, 8, 4]


def test_the_last_sum_is_normalised_and_rectified_before_pooling() -> None:
    pooled, last = pooled_and_summed(narrow())
    assert (last < 0).any(), "nothing follows the sum inside the last block"
    deviation, mean = torch.std_mean(last, (0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(pooled, ((last - mean) / deviation).relu().mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_without_the_final_norm_the_raw_sums_are_pooled_and_all_other_weights_are_the_same() -> None:
    bare = narrow(final_norm=False)
    pooled, last = pooled_and_summed(bare)
    assert (last < 0).any()
    torch.testing.assert_close(pooled, last.mean((2, 3)))
    expected = narrow().state_dict()
    weights = narrow(final_norm=False).state_dict()
    assert list(weights) == [key for key in expected if not key.startswith("bn.")]
    assert all(torch.equal(value, expected[key]) for key, value in weights.items())


def silenced(block: nn.Module) -> PreActBlock:
    """The block with its branch at zero, so that only the shortcut is left."""
    assert isinstance(block, PreActBlock)
    nn.init.zeros_(block.conv2.weight)
    return block


def test_only_the_first_block_of_an_unchanged_shape_starts_its_shortcut_after_norm_and_relu() -> None:
    model = narrow()
    x = torch.randn(4, 8, 6, 6)
    first, second = (silenced(block) for block in model.layer1)
    torch.testing.assert_close(first(x), first.bn1(x).relu())
    torch.testing.assert_close(second(x), x)


def test_a_shortcut_that_changes_the_shape_projects_the_activated_input() -> None:
    block = silenced(narrow().layer2[0])
    x = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(block(x), block.shortcut(block.bn1(x).relu()))
    assert not torch.allclose(block(x), block.shortcut(x))
