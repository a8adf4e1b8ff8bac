"""Muon: the orthogonalised update, its grouping, and its SGD part."""

import pytest
import torch
from torch import nn

from groundup.basis.errors import UsageError
from groundup.optim import LiveRates, Muon, MuonSettings, apply_rates
from groundup.optim.muon import _iterate, _iterate_on_gram, _orthogonal, orthogonalize


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 24, 216), (4, 216, 24), (2, 64, 576), (1, 10, 100)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_update_is_orthogonalized(shape, scale):
    # Gaussian matrices far from square have no tiny singular values, which a few iterations could not lift.
    values = torch.linalg.svdvals(orthogonalize(scale * noise(*shape), iterations=3))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_more_iterations_lift_the_small_singular_values_of_a_square_matrix():
    matrix = noise(1, 48, 48)
    few, many = (torch.linalg.svdvals(orthogonalize(matrix, n)) for n in (2, 8))
    assert many.min() > few.min()
    assert ((many > 0.5) & (many < 1.4)).float().mean() > 0.9


def test_update_keeps_the_singular_directions():
    matrix = noise(1, 16, 128)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ orthogonalize(matrix, 5) @ vh.mT
    off_diagonal = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def test_batched_orthogonalisation_equals_one_by_one():
    matrices = noise(5, 12, 60)
    together = orthogonalize(matrices)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_tall_matrix_gives_the_transpose_of_the_wide_one():
    matrices = noise(2, 12, 60)
    torch.testing.assert_close(orthogonalize(matrices.mT), orthogonalize(matrices).mT)


def test_zero_gradient_gives_a_zero_update():
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 9)), torch.zeros(1, 4, 9))


def muon(parameters, **group):
    return Muon([{"params": parameters, "muon": True, **group}], lr=0.1)


def test_filters_of_equal_shape_move_as_if_each_were_alone():
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (8, 36, 1, 1), (6, 8, 3, 3)]

    def filters():
        return [nn.Parameter(noise(*shape, seed=seed)) for seed, shape in enumerate(shapes)]

    together, alone = filters(), filters()
    optimizers = [muon(together)], [muon([parameter]) for parameter in alone]
    for step in range(3):
        for group in (together, alone):
            for seed, parameter in enumerate(group):
                parameter.grad = noise(*parameter.shape, seed=100 * step + seed)
        for optimizer in (*optimizers[0], *optimizers[1]):
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_filters_move_the_same_whatever_the_scale_of_their_gradient():
    one, other = (nn.Parameter(noise(8, 4, 3, 3)) for _ in range(2))
    one.grad, other.grad = noise(8, 4, 3, 3, seed=1), 1000 * noise(8, 4, 3, 3, seed=1)
    muon([one]).step()
    muon([other]).step()
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.equal(one, nn.Parameter(noise(8, 4, 3, 3)))


def test_parameter_without_gradient_stays():
    parameter = nn.Parameter(noise(8, 4, 3, 3))
    muon([parameter]).step()
    assert torch.equal(parameter, noise(8, 4, 3, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_sgd_part_equals_torch_nesterov_step_by_step(weight_decay):
    one = [nn.Parameter(noise(5, 7)), nn.Parameter(noise(7))]
    other = [nn.Parameter(p.detach().clone()) for p in one]
    own = Muon([{"params": one, "weight_decay": weight_decay, "momentum": 0.85}], lr=0.03)
    reference = torch.optim.SGD(other, lr=0.03, momentum=0.85, nesterov=True, weight_decay=weight_decay)
    for step in range(6):
        for p, q in zip(one, other, strict=True):
            p.grad = noise(*p.shape, seed=step)
            q.grad = p.grad.clone()
        own.step()
        reference.step()
        for p, q in zip(one, other, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def net():
    model = nn.Sequential(
        nn.Conv2d(3, 24, 2), nn.Conv2d(24, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 5)
    )
    model[0].weight.requires_grad_(False)
    return model


def test_settings_give_muon_the_trainable_filters_and_sgd_the_rest():
    model = net()
    optimizer = MuonSettings(momentum=0.5, iterations=4, sgd_momentum=0.8, weight_decay=0.02).build(model)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert list(groups) == ["filters", "other", "head", "norms", "biases", "head_bias"]
    assert [group["name"] for group in optimizer.param_groups if group["muon"]] == ["filters"]
    assert groups["filters"]["params"] == [model[1].weight]
    assert groups["other"]["params"] == [model[4].weight]
    assert (groups["filters"]["momentum"], groups["filters"]["iterations"]) == (0.5, 4)
    assert {group["momentum"] for name, group in groups.items() if name != "filters"} == {0.8}
    decays = {name: group["weight_decay"] for name, group in groups.items() if group["weight_decay"]}
    assert decays == {"other": 0.02, "head": 0.02}


def test_scales_of_norms_biases_and_head_are_separate():
    optimizer = MuonSettings(norm_lr_scale=0.1, bias_lr_scale=0.2, head_lr_scale=3).build(net())
    apply_rates(optimizer, LiveRates(0.5))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    expected = {"filters": 0.5, "other": 0.5, "head": 1.5, "norms": 0.05, "biases": 0.1, "head_bias": 1.5}
    assert rates == pytest.approx(expected)


def test_model_without_trainable_filters_is_refused():
    with pytest.raises(UsageError, match=r"optimizer\.name='muon': the model has no trainable convolution filters"):
        MuonSettings().build(nn.Linear(4, 4))


def test_iterating_on_the_gram_matrix_gives_what_iterating_on_the_matrix_gives() -> None:
    x = torch.randn(2, 24, 100, generator=torch.Generator().manual_seed(0))
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for iterations in (1, 2, 3, 5):
        torch.testing.assert_close(_iterate_on_gram(x, iterations), _iterate(x, iterations), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("iterations", [3, 5, 6, 9, 20])
def test_an_update_of_low_rank_stays_bounded_however_many_the_turns(iterations: int) -> None:
    matrix = noise(1, 32, 8) @ noise(1, 8, 288, seed=1)
    turned = orthogonalize(matrix, iterations)
    assert torch.linalg.svdvals(turned).max() < 1.4
    exact = _iterate((matrix / (matrix.norm() + 1e-7)).double(), iterations)
    # Many turns lift what rounding left beside the 8 directions, as they are meant to.
    assert iterations > 9 or (turned - exact).norm() < 0.01 * exact.norm()


SHAPES = [(8, 4, 3, 3), (8, 4, 3, 3), (6, 8, 1, 1), (48, 4, 3, 3), (8, 4, 3, 5), (5, 7)]


def filters(channels_last):
    kept = [noise(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    return [nn.Parameter(in_layout(each, channels_last)) for each in kept]


def in_layout(tensor, channels_last):
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.ndim == 4 else tensor


def test_the_layout_in_memory_changes_nothing_but_the_rounding():
    planes, last = filters(False), filters(True)
    before = [p.stride() for p in last]
    optimizers = muon(planes), muon(last)
    for step in range(5):
        for seed, (p, q) in enumerate(zip(planes, last, strict=True)):
            p.grad = noise(*p.shape, seed=100 * step + seed)
            q.grad = in_layout(p.grad, step % 2 == 0)  # of either layout
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(planes, last, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5)
    assert [q.stride() for q in last] == before


def test_updates_lie_in_memory_as_their_filters_do():
    for channels_last in (False, True):
        parameters = filters(channels_last)
        updates = [in_layout(noise(*p.shape), channels_last) for p in parameters]
        for p, update in zip(parameters, _orthogonal(parameters, updates, 3, bfloat16=False), strict=True):
            assert update.shape == p.shape
            assert [s for s, n in zip(update.stride(), p.shape, strict=True) if n > 1] == [
                s for s, n in zip(p.stride(), p.shape, strict=True) if n > 1
            ]


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_step_rescales_the_filters_and_takes_off_the_orthogonal_matrix(channels_last):
    parameters = filters(channels_last)
    before = [p.detach().clone() for p in parameters]
    for seed, p in enumerate(parameters):
        p.grad = in_layout(noise(*p.shape, seed=seed + 50), channels_last)
    muon(parameters, momentum=0.0).step()
    for p, was in zip(parameters, before, strict=True):
        turned = orthogonalize(p.grad.reshape(1, len(p), -1)).view(p.shape)
        expected = was * len(p) ** 0.5 / was.norm() - 0.1 * turned
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 24, 216), (1, 216, 24), (1, 48, 64)])
def test_bfloat16_turns_into_the_same_direction_but_for_its_rounding(shape):
    exact, rounded = (orthogonalize(noise(*shape), bfloat16=bfloat16) for bfloat16 in (False, True))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_step_multiplies_in_what_it_was_built_for(bfloat16):
    parameter = nn.Parameter(noise(8, 4, 3, 3))
    model = nn.ParameterList([parameter])
    parameter.grad = noise(8, 4, 3, 3, seed=1)
    scaled = parameter.detach() * 8**0.5 / parameter.detach().norm()
    optimizer = MuonSettings(momentum=0.0).build(model, bfloat16=bfloat16)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    turned = orthogonalize(parameter.grad.reshape(1, 8, -1), bfloat16=bfloat16).view_as(parameter)
    torch.testing.assert_close(parameter.detach(), scaled - 0.1 * turned, rtol=1e-5, atol=1e-6)
