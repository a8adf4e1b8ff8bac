"""Parameter groups and the rates applied to them."""

from collections import OrderedDict

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from groundup.basis.errors import UsageError
from groundup.optim import OPTIMIZERS, GroupScales, LiveRates, OptimizerSettings, apply_rates, parameter_groups

ADAPTER = TypeAdapter(OptimizerSettings)


def small_net(head_bias=True):
    """A frozen stem with a trainable bias, two blocks, a gate with a linear layer of its own, a classifier."""
    net = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 4, 2),
            conv1=nn.Conv2d(4, 6, 3, bias=False),
            norm1=nn.BatchNorm2d(6),
            conv2=nn.Conv2d(6, 8, 3, bias=True),
            norm2=nn.BatchNorm2d(8),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            gate=nn.Linear(8, 8),
            head=nn.Linear(8, 5, bias=head_bias),
        )
    )
    net.stem.weight.requires_grad_(False)
    return net


def names_by_group(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[id(parameter)] for parameter in group["params"]] for group in groups}


def test_parameters_fall_into_the_documented_groups_in_order():
    model = small_net()
    assert list(names_by_group(model, parameter_groups(model, weight_decay=0.1)).items()) == [
        ("filters", ["conv1.weight", "conv2.weight", "gate.weight"]),
        ("head", ["head.weight"]),
        ("norms", ["norm1.weight", "norm2.weight"]),
        ("biases", ["stem.bias", "norm1.bias", "conv2.bias", "norm2.bias", "gate.bias"]),
        ("head_bias", ["head.bias"]),
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_trainable_parameter_is_in_exactly_one_group(name):
    model = small_net()
    optimizer = OPTIMIZERS[name](name=name).build(model)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_shared_parameter_is_grouped_once():
    model = small_net()
    expected = names_by_group(model, parameter_groups(model, weight_decay=0.1))
    model.conv1_again = model.conv1
    assert names_by_group(model, parameter_groups(model, weight_decay=0.1)) == expected


def test_norms_and_biases_decay_only_when_asked():
    decays = {g["name"]: g["weight_decay"] for g in parameter_groups(small_net(), weight_decay=0.1)}
    assert decays == {"filters": 0.1, "head": 0.1, "norms": 0.0, "biases": 0.0, "head_bias": 0.0}
    asked = parameter_groups(small_net(), weight_decay=0.1, decay_norm_and_bias=True)
    assert {group["weight_decay"] for group in asked} == {0.1}


def test_scales_reach_their_kind_of_parameters():
    groups = parameter_groups(small_net(), weight_decay=0.1, scales=GroupScales(bias=64, head=2, norm=0.5))
    scales = {group["name"]: group["lr_scale"] for group in groups}
    assert scales == {"filters": 1.0, "head": 2, "norms": 0.5, "biases": 64, "head_bias": 2}


def test_model_without_linear_layer_has_no_head_group():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert [group["name"] for group in parameter_groups(model, weight_decay=0.1)] == ["filters", "norms", "biases"]


def test_model_without_trainable_parameters_is_refused():
    with pytest.raises(UsageError, match="no trainable parameters"):
        parameter_groups(small_net().requires_grad_(False), weight_decay=0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scale_with_nothing_to_act_on_is_refused_by_name(name):
    headless = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    OPTIMIZERS[name](name=name).build(headless)
    for key in ("head_lr_scale", "bias_lr_scale"):
        with pytest.raises(UsageError, match=rf"optimizer\.{key}=7: the model has no trainable") as error:
            OPTIMIZERS[name](name=name, **{key: 7}).build(headless)
        assert error.value.hint == f"remove optimizer.{key}"


def test_scale_of_norms_in_a_network_without_norms_is_refused():
    with pytest.raises(UsageError, match=r"optimizer\.norm_lr_scale=7: the model has no trainable norm weights"):
        OPTIMIZERS["muon"](name="muon", norm_lr_scale=7).build(nn.Sequential(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_optimizer_has_rate_zero_until_the_schedule_gives_one(name):
    optimizer = OPTIMIZERS[name](name=name).build(small_net())
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}
    assert all("lr_scale" in group for group in optimizer.param_groups)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_has_no_learning_rate_of_its_own(name):
    with pytest.raises(ValidationError, match="lr\n  Extra inputs are not permitted"):
        ADAPTER.validate_python({"name": name, "lr": 0.1})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_applied_rate_is_the_schedules_times_the_scale(name):
    optimizer = OPTIMIZERS[name](name=name, bias_lr_scale=4, head_lr_scale=2).build(small_net())
    before = [(g.get("momentum"), g.get("betas")) for g in optimizer.param_groups]
    apply_rates(optimizer, LiveRates(0.5))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert (rates["filters"], rates["biases"], rates["head"], rates["head_bias"]) == (0.5, 2.0, 1.0, 1.0)
    assert [(g.get("momentum"), g.get("betas")) for g in optimizer.param_groups] == before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_of_the_schedule_reaches_every_group(name):
    optimizer = OPTIMIZERS[name](name=name).build(small_net())
    apply_rates(optimizer, LiveRates(0.5, momentum=0.77))
    if name == "adamw":
        assert {group["betas"] for group in optimizer.param_groups} == {(0.77, 0.999)}
    else:
        assert {group["momentum"] for group in optimizer.param_groups} == {0.77}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_field_has_a_description_and_name_comes_first(name):
    fields = OPTIMIZERS[name].model_fields
    assert next(iter(fields)) == "name"
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_survive_a_round_trip_through_json(name):
    settings = ADAPTER.validate_python({"name": name, "weight_decay": 0.003})
    assert type(settings) is OPTIMIZERS[name]
    assert ADAPTER.validate_json(settings.model_dump_json()) == settings


def train(model, optimizer, steps, seed):
    """`steps` updates on random gradients that depend on the step alone."""
    for step in range(steps):
        noise = torch.Generator().manual_seed(seed + step)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=noise)
        apply_rates(optimizer, LiveRates(0.01 * (step + 1)))
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_loaded_from_its_state_goes_on_bit_for_bit(name, tmp_path):
    torch.manual_seed(0)
    model, settings = small_net(), OPTIMIZERS[name](name=name)
    optimizer = settings.build(model)
    train(model, optimizer, 3, seed=10)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    train(model, optimizer, 3, seed=20)

    again = small_net()
    optimizer_again = settings.build(again)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(state["model"])
    optimizer_again.load_state_dict(state["optimizer"])
    train(again, optimizer_again, 3, seed=20)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(model.conv1.weight, state["model"]["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.01)),
    ],
)
def test_updates_equal_those_of_torch(name, reference):
    torch.manual_seed(0)
    model = small_net()
    twin = small_net()
    twin.load_state_dict(model.state_dict())
    own = {"sgd": {"momentum": 0.8}, "adamw": {"betas": (0.8, 0.99), "eps": 1e-6}}[name]
    optimizer = OPTIMIZERS[name](name=name, weight_decay=0.01, decay_norm_and_bias=True, **own).build(model)
    expected = reference([p for p in twin.parameters() if p.requires_grad])
    for step in range(4):
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
                other.grad = parameter.grad.clone()
        apply_rates(optimizer, LiveRates(0.02))
        optimizer.step()
        expected.step()
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValidationError, match="nesterov=true needs momentum above 0"):
        ADAPTER.validate_python({"name": "sgd", "momentum": 0})
    ADAPTER.validate_python({"name": "sgd", "momentum": 0, "nesterov": False})
