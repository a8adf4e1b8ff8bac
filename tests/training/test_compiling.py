"""A compiled network is believed only after it agreed with the eager one, and the check leaves no trace."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groundup.basis.errors import GroundupError
from groundup.basis.seeding import generator
from groundup.training import Engine, check_agreement, compile_network, first_passes, warm_up
from groundup.training.compiling import disagreement

FP32 = Engine("cpu", 1, "fp32", True, True, "a test")
BF16 = Engine("cpu", 1, "bf16", True, True, "a test")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 4)
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=generator(0))


@pytest.mark.parametrize("engine", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_network_agrees_with_itself_to_the_bit_dropout_included(
    engine: Engine, model: nn.Module, images: Tensor
) -> None:
    assert disagreement(model, model, images, engine) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model, x: model(x) * 1.2,
        lambda model, x: model(x.flip(-1)),
        lambda model, x: model(x) + 0 * model(x).detach().sum().log().mul(float("nan")),
        lambda model, x: model(x).detach() + 0.5 * (model(x) - model(x).detach()),  # right logits, wrong gradients
    ],
    ids=["scaled logits", "mirrored input", "nan", "half the gradient"],
)
def test_a_wrong_network_disagrees_and_is_refused_with_the_way_out(
    wrong: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, images: Tensor
) -> None:
    assert disagreement(model, lambda x: wrong(model, x), images, FP32) > 0.1
    with pytest.raises(GroundupError, match=r"train\.compile: at 8 px the compiled network differs") as caught:
        check_agreement(model, lambda x: wrong(model, x), [images], FP32)
    assert caught.value.hint == "set train.compile=never"


def test_rounding_is_allowed(model: nn.Module, images: Tensor) -> None:
    check_agreement(model, lambda x: model(x) * (1 + 1e-4), [images], FP32)
    check_agreement(model, lambda x: model(x) * (1 + 1e-2), [images], BF16)
    with pytest.raises(GroundupError):
        check_agreement(model, lambda x: model(x) * (1 + 1e-2), [images], FP32)


def test_every_input_size_is_compared(images: Tensor) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    only_wrong_at_6 = lambda x: model(x) * (2 if x.shape[-1] == 6 else 1)  # noqa: E731
    check_agreement(model, only_wrong_at_6, [images], FP32)
    with pytest.raises(GroundupError, match="at 6 px"):
        check_agreement(model, only_wrong_at_6, [images, images[..., :6, :6]], FP32)


@pytest.mark.parametrize("fails", [False, True])
def test_statistics_gradients_and_dropout_are_left_as_they_were(fails: bool, model: nn.Module, images: Tensor) -> None:
    model(images).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    before = deepcopy(model.state_dict())

    def compiled(x: Tensor) -> Tensor:
        if fails:
            raise RuntimeError("the compiler broke")
        result: Tensor = model(x)
        return result

    if fails:
        with pytest.raises(GroundupError, match="at 8 px the network could not be compiled: the compiler broke"):
            disagreement(model, compiled, images, FP32)
    else:
        disagreement(model, compiled, images, FP32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5]
    left = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(left) == len(gradients)
    assert all(torch.equal(a, b) for a, b in zip(left, gradients, strict=True))


def test_the_check_before_a_compiled_run_changes_nothing(lab: Any) -> None:
    _, eager = lab.build()
    _, checked = lab.build()
    check_agreement(checked.model, checked.model, [torch.randn(4, 3, 8, 8)], FP32)
    assert all(parameter.grad is None for parameter in checked.model.parameters())
    pairs = zip(eager.model.state_dict().values(), checked.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_really_compiled_network_agrees_and_shares_its_weights(images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.SiLU())
    compiled = compile_network(model)
    check_agreement(model, compiled, [images], FP32)
    with torch.no_grad():
        model[1].weight.mul_(2)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(compiled(images), model(images))


def test_a_warm_up_compiles_the_dropout_in_force_and_leaves_no_trace(model: nn.Module, images: Tensor) -> None:
    seen = []

    def compiled(x: Tensor) -> Tensor:
        seen.append([module.p for module in model.modules() if isinstance(module, nn.Dropout)])
        result: Tensor = model(x)
        return result

    before, drawn = deepcopy(model.state_dict()), torch.random.get_rng_state()
    warm_up(model, compiled, images, FP32, None)
    assert seen == [[0.5]]
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    without = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    warm_up(without, lambda x: pytest.fail("there is no dropout to compile"), images, FP32, None)


def test_a_first_pass_runs_both_ways_and_leaves_everything_as_it_was(model: nn.Module, images: Tensor) -> None:
    model(images).square().mean().backward()
    before = deepcopy(model.state_dict()), [parameter.grad for parameter in model.parameters()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    passes: list[str] = []
    hooks = [
        model[0].register_forward_hook(lambda *_: passes.append("forward")),
        model[0].register_full_backward_hook(lambda *_: passes.append("backward")),
    ]
    first_passes(model, [images.requires_grad_()], FP32, lambda: passes.append("check"))
    for hook in hooks:
        hook.remove()
    assert passes == ["check", "forward", "backward"]
    assert torch.equal(torch.rand(4), expected)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before[0].items())
    assert all(old is new.grad for old, new in zip(before[1], model.parameters(), strict=True))


def test_a_first_pass_that_does_not_fit_is_left_to_the_real_step(model: nn.Module, images: Tensor) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.register_forward_pre_hook(full)
    before = deepcopy(model.state_dict())
    first_passes(model, [images, images], FP32, lambda: None)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    hook.remove()
    with pytest.raises(RuntimeError, match="shape"):
        first_passes(model, [images[..., :5]], FP32, lambda: None)
