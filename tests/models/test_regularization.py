"""Dropout in the blocks, live, and stochastic depth: where they act, how often, and that evaluation knows neither."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.models import MODELS, build_model, has_block_dropout, set_dropout
from groundup.models.regularization import BlockDropout, BranchNoise, NoisyBlock, StochasticDepth

NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 8},
    "resnet50": {"width": 8},
    "preact_resnet18": {"width": 8},
    "wide_resnet": {"depth": 10, "width": 1},
}
every_network_with_blocks = pytest.mark.parametrize("name", list(NARROW))
every_position = pytest.mark.parametrize("position", ["between", "after"])


def network(name: str, **changes: Any) -> nn.Module:
    settings = MODELS[name].model_validate({"name": name, **NARROW.get(name, {}), **changes})
    return build_model(settings, num_classes=10, seed=1)  # type: ignore[arg-type]


def images(count: int = 4, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def blocks_of(model: nn.Module) -> list[NoisyBlock]:
    return [module for module in model.modules() if isinstance(module, NoisyBlock)]


def draws(model: nn.Module, batch: Tensor) -> bool:
    """Whether a forward pass takes numbers from the default generator."""
    before = torch.get_rng_state()
    model(batch)
    return not torch.equal(torch.get_rng_state(), before)


@every_network_with_blocks
@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.5},
        {"dropout": 0.5, "dropout_position": "after"},
        {"head_dropout": 0.5},
        {"stochastic_depth": 0.5},
    ],
    ids=["between", "after", "head", "depth"],
)
def test_each_option_acts_in_training_and_not_in_evaluation(name: str, changes: dict[str, Any]) -> None:
    model, batch = network(name, **changes), images()
    torch.manual_seed(0)
    assert draws(model, batch)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert not draws(model, batch)
    plain = network(name)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(batch), plain.eval()(batch))


@every_network_with_blocks
def test_at_zero_training_draws_nothing(name: str) -> None:
    assert not draws(network(name), images())


@every_network_with_blocks
@every_position
def test_dropout_stands_where_its_position_says(name: str, position: str) -> None:
    block = blocks_of(network(name, dropout=0.5, dropout_position=position))[1]
    last = block.get_submodule("conv3" if name == "resnet50" else "conv2")
    end = block.get_submodule({"resnet18": "bn2", "resnet50": "bn3"}.get(name, "conv2"))
    seen: dict[str, Tensor] = {}
    block.dropout.register_forward_hook(lambda _m, inputs, output: seen.update(entering=inputs[0], left=output))
    last.register_forward_pre_hook(lambda _m, inputs: seen.update(convolved=inputs[0]))
    end.register_forward_hook(lambda _m, _inputs, output: seen.update(branch=output))
    channels = next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels
    torch.manual_seed(0)
    block(torch.randn(8, channels, 6, 6))
    if position == "between":
        assert (seen["entering"] >= 0).all()
        assert torch.equal(seen["left"], seen["convolved"])
    else:
        assert torch.equal(seen["entering"], seen["branch"])
        assert (seen["convolved"] == 0).float().mean() < 0.6, "the ReLU alone"
    kept = seen["left"] != 0
    torch.testing.assert_close(seen["left"][kept], 2 * seen["entering"][kept])
    assert kept.sum() / (seen["entering"] != 0).sum() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_dropout_in_blocks_drops_its_share_at_every_place_and_preserves_the_expected_value(
    share: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.full((40_001, 5), 2.0, dtype=dtype)  # an odd number of values: four of them share one drawn word
    out = BlockDropout(share)(x)
    assert out.dtype == dtype
    dropped = out == 0
    torch.testing.assert_close(
        out[~dropped], (x / (1 - share))[~dropped], rtol={2: 8e-3}.get(dtype.itemsize, 1e-4), atol=0
    )
    error = 4 * (share * (1 - share) / x.numel() * 4) ** 0.5
    for place in range(4):  # of the word
        assert dropped.flatten()[place::4].float().mean().item() == pytest.approx(share, abs=error)


def test_dropout_in_blocks_draws_values_independent_of_their_neighbours() -> None:
    torch.manual_seed(0)
    dropped = (BlockDropout(0.5)(torch.ones(400_000)) == 0).float() - 0.5
    for distance in (1, 2, 3, 4, 8):
        product = (dropped[distance:] * dropped[:-distance]).mean().item() * 4
        assert abs(product) < 4 / 400_000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "cut", "expanded"])
def test_dropout_in_blocks_keeps_shape_and_layout_and_its_gradient_is_its_mask(layout: str, dtype: torch.dtype) -> None:
    x = torch.randn(6, 8, 5, 5, dtype=dtype)
    x = {
        "channels_first": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "cut": x[:, 1:7, :, ::2],
        "expanded": x[:1].expand(6, 8, 5, 5),
    }[layout].requires_grad_()
    torch.manual_seed(0)
    out = BlockDropout(0.5)(x)
    assert out.shape == x.shape
    if layout == "channels_last":
        assert out.is_contiguous(memory_format=torch.channels_last)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(out == 0, 0.0, 2.0).to(dtype))


def test_dropout_in_blocks_is_the_same_again_from_the_same_seed() -> None:
    layer, x = BlockDropout(0.3), torch.ones(1000)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-6])
def test_a_share_too_near_to_none_or_all_for_sixteen_bits_still_acts(share: float) -> None:
    torch.manual_seed(0)
    dropped = (BlockDropout(share)(torch.ones(4_000_000)) == 0).sum().item()
    assert dropped not in (0, 4_000_000)


@every_network_with_blocks
def test_dropout_set_live_acts_like_dropout_from_the_start(name: str) -> None:
    early, late = network(name, dropout=0.4, dropout_position="after"), network(name, dropout_position="after")
    keys, modules = list(late.state_dict()), list(late.modules())
    assert has_block_dropout(late)
    set_dropout(late, 0.4)
    outputs = []
    for model in (early, late):
        torch.manual_seed(0)
        outputs.append(model(images()))
    assert torch.equal(*outputs)
    set_dropout(late, 0)
    assert not draws(late, images())
    assert list(late.state_dict()) == keys
    assert list(late.modules()) == modules


@every_network_with_blocks
def test_setting_dropout_leaves_the_classifier_and_stochastic_depth(name: str) -> None:
    model = network(name, dropout=0.1, head_dropout=0.4, stochastic_depth=0.3)
    depth = [block.stochastic_depth.p for block in blocks_of(model)]
    set_dropout(model, 0.2)
    assert {module.p for module in model.modules() if isinstance(module, BlockDropout)} == {0.2}
    assert model.get_submodule("head_dropout").p == 0.4
    assert [block.stochastic_depth.p for block in blocks_of(model)] == depth


def test_the_head_drops_pooled_features_only() -> None:
    model = network("speed_net", head_dropout=0.5)
    entering: list[Tensor] = []
    model.get_submodule("head").register_forward_pre_hook(lambda _m, inputs: entering.append(inputs[0]))
    torch.manual_seed(0)
    model(images())
    assert entering[0].shape == (4, 768)
    assert (entering[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    model.eval()(images())
    assert (entering[1] != 0).all()


def test_a_network_without_block_dropout_takes_zero_only() -> None:
    model = network("speed_net", head_dropout=0.4)
    assert not has_block_dropout(model)
    set_dropout(model, 0)
    with pytest.raises(UsageError, match=r"dropout=0.2: SpeedNet has no blocks with dropout"):
        set_dropout(model, 0.2)
    assert model.get_submodule("head_dropout").p == 0.4


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused_and_changes_nothing(share: float) -> None:
    model = network("resnet18", dropout=0.1)
    with pytest.raises(UsageError, match="0 <= dropout < 1"):
        set_dropout(model, share)
    assert {module.p for module in model.modules() if isinstance(module, BlockDropout)} == {0.1}


@every_network_with_blocks
@pytest.mark.parametrize("key", ["dropout", "head_dropout", "stochastic_depth"])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_shares_outside_their_range_are_refused(name: str, key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        network(name, **{key: value})


def test_a_position_waits_for_dropout_and_an_unknown_one_is_refused() -> None:
    assert torch.equal(network("resnet18", dropout_position="after")(images()), network("resnet18")(images()))
    with pytest.raises(ValidationError, match="dropout_position"):
        network("resnet18", dropout_position="before")


@every_network_with_blocks
def test_stochastic_depth_grows_linearly_from_zero_at_the_first_block_to_its_share_at_the_last(name: str) -> None:
    rates = [block.stochastic_depth.p for block in blocks_of(network(name, stochastic_depth=0.6))]
    assert len(rates) == {"resnet18": 8, "resnet50": 16, "preact_resnet18": 8, "wide_resnet": 3}[name]
    assert rates == pytest.approx([0.6 * i / (len(rates) - 1) for i in range(len(rates))])


@every_network_with_blocks
def test_stochastic_depth_leaves_some_images_their_shortcut_and_scales_the_branch_of_the_others(name: str) -> None:
    block = blocks_of(network(name, stochastic_depth=0.75))[-1].eval()
    block.stochastic_depth.train()
    channels = next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels
    batch = torch.randn(64, channels, 2, 2).relu()  # on which the ReLU after the sum leaves a bare shortcut as it is
    branches: list[Tensor] = []
    block.stochastic_depth.register_forward_pre_hook(lambda _m, inputs: branches.append(inputs[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        out = block(batch)
        shortcut = batch
        if not isinstance(getattr(block, "shortcut", nn.Identity()), nn.Identity):
            shortcut = block.get_submodule("shortcut")(block.get_submodule("bn1")(batch).relu())
        scaled = shortcut + 4 * branches[0]
    scaled = scaled.relu() if name.startswith("resnet") else scaled
    dropped = (out - shortcut).abs().amax((1, 2, 3)) < 1e-6
    assert 32 < dropped.sum() < 62
    torch.testing.assert_close(out[~dropped], scaled[~dropped])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stochastic_depth_preserves_the_expected_value_and_acts_per_image(dtype: torch.dtype) -> None:
    depth = StochasticDepth(0.3)
    branch = torch.ones(20_000, 2, 2, 2, dtype=dtype).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    out = depth(branch)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    rows = out.flatten(1).float()
    assert (rows == rows[:, :1]).all(), "an image is dropped or kept as a whole"
    assert rows.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=0.004)
    # One image has variance 0.3 / 0.7; four standard errors of the mean, and the rounding of the factor in bf16.
    assert rows[:, 0].mean().item() == pytest.approx(1, abs=4 * (0.3 / 0.7 / 20_000) ** 0.5 + 0.004)


def test_a_dropped_branch_gets_no_gradient_and_a_kept_one_the_scaled() -> None:
    branch = torch.randn(50, 3, requires_grad=True)
    torch.manual_seed(0)
    StochasticDepth(0.5)(branch).sum().backward()
    assert branch.grad is not None
    assert set(branch.grad.flatten().tolist()) == {0.0, 2.0}


def test_the_same_seed_gives_the_same_step() -> None:
    model = network("wide_resnet", dropout=0.3, stochastic_depth=0.5, head_dropout=0.2)
    losses = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(F.cross_entropy(model(images()), torch.arange(4)).item())
    assert losses[0] == losses[1] != losses[2]


def test_noise_is_shared_out_over_stages_of_any_depth() -> None:
    stages = BranchNoise(0.1, "after", 0.4).over(3, 1, 1)
    assert [len(stage) for stage in stages] == [3, 1, 1]
    assert [noise.stochastic_depth for stage in stages for noise in stage] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {(noise.dropout, noise.dropout_position) for stage in stages for noise in stage} == {(0.1, "after")}
