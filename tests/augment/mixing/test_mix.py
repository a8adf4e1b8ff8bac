"""Drawing and applying a mix: partners, shares, the exact weight of the labels, and independence of how a batch is split."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional

from groundup.augment import MIX_GROUP, MIXERS, Mixed, MixSettings, apply_mix, draw_mix, mix_groups, mixed_labels
from groundup.basis.errors import UsageError
from groundup.optim import loss_parts

CPU = torch.device("cpu")
MIXUP, CUTMIX = {"name": "mixup", "alpha": 1.0}, {"name": "cutmix"}
SECTIONS: list[dict[str, Any]] = [
    {"methods": methods, "per": per, "clean": clean}
    for methods in ([MIXUP], [CUTMIX], [MIXUP, CUTMIX])
    for per in ("batch", "sample")
    for clean in (0.0, 0.3)
]
every_section = pytest.mark.parametrize(
    "section", SECTIONS, ids=["+".join(m["name"] for m in s["methods"]) + f"-{s['per']}-{s['clean']}" for s in SECTIONS]
)
every_count = pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 100, 128, 300])


def drawn(section: dict[str, Any], count: int, size: int = 8, seed: int = 0, step: int = 0) -> Mixed:
    mixed = draw_mix(MixSettings.model_validate(section), count, size, seed, step, CPU)
    assert mixed is not None
    return mixed


def numbered(count: int, size: int = 8) -> Tensor:
    """float32 (count, 3, size, size): every pixel of image i is i, so that a pixel tells where it comes from."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, size, size).contiguous()


def same(one: Mixed, other: Mixed) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Mixed)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def test_without_methods_there_is_nothing_to_draw() -> None:
    assert draw_mix(MixSettings(), 64, 8, 0, 0, CPU) is None


@every_section
@every_count
def test_there_is_one_entry_of_each_kind_per_image(section: dict[str, Any], count: int) -> None:
    mixed = drawn(section, count)
    kinds = {"partner": torch.int64, "lam": torch.float32, "box": torch.int64, "paste": torch.bool}
    assert {key: getattr(mixed, key).dtype for key in kinds} == kinds
    assert {key: getattr(mixed, key).shape for key in kinds} == {
        key: (count, 4) if key == "box" else (count,) for key in kinds
    }


@every_count
def test_partners_are_one_cycle_through_each_group(count: int) -> None:
    for step in range(5):
        partner = drawn(SECTIONS[0], count, step=step).partner.tolist()
        assert sorted(partner) == list(range(count))
        for start in range(0, count, MIX_GROUP):
            length = min(MIX_GROUP, count - start)
            seen, here = [], start
            for _ in range(length):
                here = partner[here]
                seen.append(here)
            assert sorted(seen) == list(range(start, start + length))
            assert length == 1 or all(partner[i] != i for i in range(start, start + length))


def test_every_other_image_of_the_group_is_an_equally_likely_partner() -> None:
    partners = torch.stack([drawn(SECTIONS[0], 69, step=step).partner for step in range(1000)])
    for image, others in ((0, range(1, 64)), (66, (64, 65, 67, 68))):
        counts = torch.bincount(partners[:, image], minlength=69)
        assert counts.sum() == counts[list(others)].sum()
        assert chisquare(counts[list(others)].numpy()).pvalue > 1e-4


@every_section
@every_count
def test_an_image_alone_in_its_group_stays_as_it_is(section: dict[str, Any], count: int) -> None:
    if count % MIX_GROUP != 1:
        count += 1 - count % MIX_GROUP
    images = numbered(count)
    for step in range(10):
        mixed = drawn(section, count, step=step)
        assert mixed.lam[-1] == 1
        assert torch.equal(apply_mix(images, mixed, slice(None))[-1], images[-1])


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("size", [1, 7, 8, 33])
def test_the_weight_of_the_label_is_the_share_of_the_pixels_that_are_left(per: str, size: int) -> None:
    images, seen = numbered(70, size), 0
    for step in range(40):
        mixed = drawn({"methods": [CUTMIX], "per": per}, 70, size, step=step)
        result = apply_mix(images, mixed, slice(None))
        own = (result == images)[:, 0].sum((1, 2))
        others = (result == images[mixed.partner])[:, 0].sum((1, 2))
        assert (own + others == size**2).all(), "every pixel is the image's or its partner's"
        assert torch.equal(mixed.lam, (1 - others.double() / size**2).float())
        seen += int((others > 0).sum())
    assert seen > 40


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_blended_images_are_the_weighted_mean_of_the_pair(per: str) -> None:
    images = numbered(70)
    mixed = drawn({"methods": [MIXUP], "per": per}, 70)
    result = apply_mix(images, mixed, slice(None))
    lam = mixed.lam.view(-1, 1, 1, 1)
    torch.testing.assert_close(result, lam * images + (1 - lam) * images[mixed.partner])
    assert not torch.equal(result, images)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_of_mixup_is_distributed_by_its_alpha(alpha: float) -> None:
    section = {"methods": [{"name": "mixup", "alpha": alpha}]}
    per_sample = drawn({**section, "per": "sample"}, 20_000).lam.double()
    per_batch = torch.cat([drawn(section, 2, step=step).lam[:1] for step in range(1000)]).double()
    variance = 1 / (4 * (2 * alpha + 1))
    for lam, tolerance in ((per_sample, 0.05), (per_batch, 0.2)):
        assert lam.mean().item() == pytest.approx(0.5, abs=4 * (variance / len(lam)) ** 0.5)
        assert lam.var().item() == pytest.approx(variance, rel=tolerance)


def test_per_batch_all_images_share_one_choice() -> None:
    for step in range(20):
        mixed = drawn({"methods": [MIXUP, CUTMIX], "clean": 0.3}, 100, step=step)
        assert len(mixed.lam.unique()) == len(mixed.paste.unique()) == len(mixed.box.unique(dim=0)) == 1


def test_per_sample_each_image_has_a_choice_of_its_own() -> None:
    mixed = drawn({"methods": [MIXUP, CUTMIX], "clean": 0.3, "per": "sample"}, 128, 32)
    clean = mixed.lam == 1
    assert min(clean.sum(), mixed.paste.sum(), (~clean & ~mixed.paste).sum()) > 10
    assert len(mixed.lam[~mixed.paste & ~clean].unique()) > 10
    assert len(mixed.box[mixed.paste].unique(dim=0)) > 10


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_clean_and_the_weights_are_the_shares_of_what_is_chosen(per: str) -> None:
    # Alpha 4: lambda is never 1 by chance, so that 1 means clean.
    methods = [{"name": "cutmix", "alpha": 4, "weight": 3}, {"name": "mixup", "alpha": 4, "weight": 1}]
    section = {"methods": methods, "clean": 0.2, "per": per}
    rounds = [drawn(section, 4096, 32)] if per == "sample" else [drawn(section, 2, 32, step=i) for i in range(1000)]
    lam, paste = (torch.cat([getattr(each, key) for each in rounds]) for key in ("lam", "paste"))
    if per == "batch":
        lam, paste = lam[::2], paste[::2]
    counts = torch.stack([(lam == 1).sum(), paste.sum(), ((lam != 1) & ~paste).sum()])
    assert counts.sum() == len(lam)
    assert chisquare(counts.numpy(), [len(lam) * share for share in (0.2, 0.6, 0.2)]).pvalue > 1e-4


@every_section
def test_clean_images_stay_bit_for_bit(section: dict[str, Any], digit_images: Tensor) -> None:
    images, clean = digit_images.float() / 77 - 1.3, 0
    for step in range(20):
        mixed = drawn(section, 64, 16, step=step)
        stays = mixed.lam == 1
        assert torch.equal(apply_mix(images, mixed, slice(None))[stays], images[stays])
        clean += int(stays.sum())
    assert not section["clean"] or clean > 64


@every_section
@pytest.mark.parametrize("count", [65, 128, 300])
@pytest.mark.parametrize("micro_batch", [64, 128, 192])
def test_slices_at_multiples_of_64_equal_the_whole(section: dict[str, Any], count: int, micro_batch: int) -> None:
    images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        mixed = drawn(section, count, step=step)
        whole = apply_mix(images, mixed, slice(0, count))
        parts = [slice(start, min(start + micro_batch, count)) for start in range(0, count, micro_batch)]
        assert torch.equal(torch.cat([apply_mix(images[part], mixed, part) for part in parts]), whole)


@pytest.mark.parametrize("part", [slice(0, 32), slice(32, 64), slice(64, 100), slice(1, 128)])
def test_a_slice_that_cuts_a_group_is_refused_with_the_fix(part: slice) -> None:
    images = numbered(128)
    with pytest.raises(UsageError, match=f"images {part.start} to {part.stop} of a batch of 128") as caught:
        apply_mix(images[part], drawn(SECTIONS[0], 128), part)
    assert caught.value.hint == "make train.micro_batch a multiple of 64"


def test_images_of_another_size_than_the_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="side of 16 px"):
        apply_mix(numbered(64, 8), drawn(SECTIONS[2], 64, 16), slice(None))


@every_section
def test_memory_order_is_kept_and_does_not_matter_and_the_input_is_not_changed(section: dict[str, Any]) -> None:
    images = torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    for step in range(4):
        mixed = drawn(section, 70, step=step)
        one, other = (apply_mix(each, mixed, slice(None)) for each in (images, channels_last))
        assert one.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one, other)
    assert torch.equal(images, torch.randn(70, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(images, channels_last)


@every_section
def test_a_draw_follows_from_seed_and_step_alone(section: dict[str, Any]) -> None:
    first = drawn(section, 100, seed=5, step=7)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert same(drawn(section, 100, seed=5, step=7), first)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is not touched"
    assert not same(drawn(section, 100, seed=6, step=7), first)
    assert not same(drawn(section, 100, seed=5, step=8), first)


@every_section
def test_nothing_is_read_back_from_the_device(section: dict[str, Any]) -> None:
    # A meta tensor has no values: to read one, as in waiting for a GPU, is an error there.
    meta = torch.device("meta")
    for step in range(4):
        mixed = draw_mix(MixSettings.model_validate(section), 70, 8, 0, step, meta)
        assert mixed is not None
        assert mixed.partner.device == mixed.lam.device == mixed.box.device == mixed.paste.device == meta
        assert apply_mix(numbered(70).to(meta), mixed, slice(None)).shape == (70, 3, 8, 8)
        assert mixed_labels(torch.zeros(70, dtype=torch.int64, device=meta), 10, mixed).shape == (70, 10)


def labels_of(count: int, classes: int) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(3))


@every_section
@every_count
def test_mixed_labels_carry_lambda_and_the_rest(section: dict[str, Any], count: int) -> None:
    mixed, labels = drawn(section, count), labels_of(count, 5)
    mixture = mixed_labels(labels, 5, mixed)
    assert mixture.dtype == torch.float32
    torch.testing.assert_close(mixture.sum(1), torch.ones(count))
    for row, own, partner, lam in zip(mixture, labels, mixed.partner, mixed.lam, strict=True):
        expected = torch.zeros(5)
        expected[own] += lam
        expected[labels[partner]] += 1 - lam
        torch.testing.assert_close(row, expected)
    assert torch.equal(mixture[mixed.lam == 1], functional.one_hot(labels, 5).float()[mixed.lam == 1])


@every_section
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0])], ids=["equal", "weighted"])
def test_the_loss_is_the_mixture_of_the_losses(
    section: dict[str, Any], smoothing: float, weights: Tensor | None
) -> None:
    logits = 3 * torch.randn(100, 5, generator=torch.Generator().manual_seed(1))
    labels, mixed = labels_of(100, 5), drawn(section, 100)
    loss_sum, denominator = loss_parts(logits, mixed_labels(labels, 5, mixed), smoothing, weights)

    def mixture(of_labels: Any) -> Tensor:
        return (mixed.lam * of_labels(labels) + (1 - mixed.lam) * of_labels(labels[mixed.partner])).sum()

    expected = mixture(
        lambda y: functional.cross_entropy(logits, y, weight=weights, label_smoothing=smoothing, reduction="none")
    )
    torch.testing.assert_close(loss_sum, expected)
    carried = mixture(lambda y: torch.ones(100) if weights is None else weights[y])
    torch.testing.assert_close(denominator, carried)


@pytest.mark.parametrize("name", list(MIXERS))
def test_every_method_does_something_to_images(name: str, digit_images: Tensor) -> None:
    images = digit_images.float()
    mixed = drawn({"methods": [{"name": name}], "per": "sample"}, 64, 16)
    changed = (apply_mix(images, mixed, slice(None)) != images).flatten(1).any(1)
    assert changed.sum() > 32
    assert not changed[mixed.lam == 1].any()


def test_the_groups_around_a_part_hold_it_and_begin_and_end_where_groups_do() -> None:
    assert mix_groups(slice(0, 64), 140) == slice(0, 64)
    assert mix_groups(slice(47, 94), 140) == slice(0, 128)
    assert mix_groups(slice(94, 140), 140) == slice(MIX_GROUP, 140)
