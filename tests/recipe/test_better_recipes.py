"""Our own recipes for CIFAR-100 and ImageNet hold the figures of their sources, worked out here by hand."""

import math

import pytest
import torch

from groundup.augment import Cutout, PadCrop, RandomResizedCrop, TrivialAugmentWide
from groundup.basis.duration import Clock
from groundup.recipe import Recipe, load_recipe, source_text
from groundup.runs.from_disk import cuts_at_load
from groundup.training import EMASettings, Rates, SWASettings
from groundup.training.average import Average

# What each should reach, top-1 in percent, as the source that its header names has it.
CLAIMED = {
    "cifar100-resnet18": 77.6,
    "cifar100-resnet18-ema": 78.55,
    "cifar100-resnet18-swa": 78.69,
    "cifar100-wrn28-10": 81.15,
    "cifar100-wrn28-10-trivial": 84.33,
    "cifar100-wrn28-10-sam": 86.4,
    "cifar100-resnet50": 79.34,
    "imagenet-resnet50-16ep": 73.8,
    "imagenet-resnet50-40ep": 77.2,
    "imagenet-resnet50-88ep": 78.4,
    "imagenet-resnet50-a3": 78.05,
    "imagenette-resnet50": None,
}
FFCV = {16: (11, 13), 40: (29, 34), 88: (65, 76)}  # epochs: where its resolution begins and ends to grow
IMAGENET = ["004", "004-as-run", "004-swa", "004-swa-as-run", "imagenet-resnet50-a3"]
IMAGENET += [f"imagenet-resnet50-{epochs}ep" for epochs in FFCV]


def clock_of(recipe: Recipe, images: int) -> Clock:
    """The clock on a data set with so many training images before validation is held back; short batches are dropped."""
    assert recipe.train.drop_last
    assert isinstance(recipe.train.batch_size, int)
    return recipe.clock(round(images * (1 - recipe.data.validation)) // recipe.train.batch_size)


def rates_of(recipe: Recipe, clock: Clock) -> Rates:
    swa = recipe.average if isinstance(recipe.average, SWASettings) else None
    return Rates.of(recipe.schedule, recipe.phases, clock, swa)


@pytest.mark.parametrize("name", CLAIMED)
def test_the_claim_is_the_source_s_and_nobody_s_measurement_here(name: str) -> None:
    claim, figure = load_recipe(name).claim, CLAIMED[name]
    if figure is None:
        assert claim is None
        return
    assert claim is not None
    assert (claim.top1, claim.seeds) == (pytest.approx(figure / 100), 0)
    assert "not measured here yet" in claim.source


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cifar100-resnet18", "The rate of 0.4 is our choice"),
        ("cifar100-resnet50", "rests on that README alone"),
        ("cifar100-wrn28-10-trivial", "TrivialAugment first"),
    ],
)
def test_the_header_says_what_no_source_has_and_what_is_easily_got_wrong(name: str, told: str) -> None:
    assert told in " ".join(source_text(name).replace("#", " ").split())


@pytest.mark.parametrize("optimizer_of", ["cifar100-resnet18", "cifar100-resnet18-ema", "cifar100-resnet18-swa"])
def test_the_three_rows_of_the_table_are_one_run_with_three_readings(optimizer_of: str) -> None:
    recipe = load_recipe(optimizer_of)
    assert (recipe.train.epochs, recipe.train.batch_size) == (200, 128)
    assert (recipe.optimizer.name, recipe.optimizer.weight_decay) == ("sgd", 1e-4)
    plain = rates_of(load_recipe("cifar100-resnet18"), clock_of(load_recipe("cifar100-resnet18"), 50_000))
    clock = clock_of(recipe, 50_000)
    rates, steps = rates_of(recipe, clock), clock.steps_per_epoch
    for epoch in (5, 50, 100, 159):
        assert rates.at(epoch * steps).lr == pytest.approx(plain.at(epoch * 390).lr, rel=1e-6)
    assert rates.at(5 * steps).lr == 0.4
    assert rates.at(5 * steps - 1).lr < 0.4


def test_the_horizon_of_the_ema_is_the_decay_of_its_source() -> None:
    """Decay 0.998 for one sample in 16 steps, warm-up as (t + 1) / (t + 10), stopped where validation is best."""
    recipe = load_recipe("cifar100-resnet18-ema")
    clock, average = clock_of(recipe, 50_000), recipe.average
    assert isinstance(average, EMASettings)
    assert clock.steps(average.every) == 16
    assert clock.steps(average.horizon) == round(-16 / math.log(0.998))
    assert [1 - average.share(samples, clock) for samples in (1, 100, 10**6)] == pytest.approx(
        [2 / 11, 101 / 110, 0.998], abs=1e-6
    )
    assert (recipe.data.validation, recipe.evaluate.model, recipe.evaluate.optimistic) == (0.1, "best", False)


@pytest.mark.parametrize(
    ("name", "images", "first", "samples"),
    [("cifar100-resnet18-swa", 50_000, 165, 36), ("004-swa", 1_281_167, 90, 11)],
)
def test_swa_takes_one_sample_an_epoch_from_the_epoch_in_its_header_on(
    name: str, images: int, first: int, samples: int
) -> None:
    recipe = load_recipe(name)
    clock = clock_of(recipe, images)
    assert isinstance(recipe.average, SWASettings)
    average, taken = Average(recipe.average, torch.nn.Linear(1, 1), clock), []
    for epoch in range(1, int(recipe.train.epochs) + 1):
        for step in (epoch * clock.steps_per_epoch - 1, epoch * clock.steps_per_epoch):
            before = average.updates
            average.update(torch.nn.Linear(1, 1), step)
            taken += [step / clock.steps_per_epoch] if average.updates > before else []
    assert taken == list(range(first, int(recipe.train.epochs) + 1))
    assert len(taken) == samples


def test_the_rate_of_swa_goes_from_the_cosine_to_a_constant_in_five_epochs() -> None:
    recipe = load_recipe("cifar100-resnet18-swa")
    rates = rates_of(recipe, clock_of(recipe, 50_000))
    assert rates.at(160 * 390).lr == pytest.approx(0.0401, abs=1e-4)
    assert 0.0401 < rates.at(162 * 390).lr < 0.05
    assert {rates.at(step).lr for step in (165 * 390, 180 * 390, 200 * 390 - 1)} == {0.05}


def test_sam_acts_in_the_last_fifth_of_the_steps_and_nowhere_else() -> None:
    recipe = load_recipe("cifar100-wrn28-10-sam")
    clock, sam = clock_of(recipe, 50_000), recipe.optimizer.sam
    assert sam is not None
    due = [step for step in range(clock.total_steps) if sam.is_due(step, clock)]
    assert due == list(range(160 * 195, 200 * 195))
    assert len(due) / clock.total_steps == 0.2
    assert (sam.rho, recipe.train.clip_norm, recipe.train.batch_size) == (0.1, 5.0, 256)
    everywhere = load_recipe("cifar100-wrn28-10-sam", ["optimizer.sam.from=0step"]).optimizer.sam
    assert everywhere is not None
    assert all(everywhere.is_due(step, clock) for step in range(0, clock.total_steps, 97))


def test_the_84_3_of_trivial_augment_has_the_order_and_the_settings_of_its_source() -> None:
    recipe = load_recipe("cifar100-wrn28-10-trivial")
    trivial, crop, flip, cutout = recipe.augment.policy
    assert isinstance(trivial, TrivialAugmentWide)
    assert isinstance(crop, PadCrop)
    assert isinstance(cutout, Cutout)
    assert (trivial.num_magnitude_bins, crop.pad, crop.mode, flip.name, cutout.size) == (31, 4, "zero", "flip", 16)
    assert (recipe.model.name, recipe.model.dropout) == ("wide_resnet", 0.0)
    sgd = recipe.optimizer.model_dump()
    kept = ("name", "momentum", "nesterov", "weight_decay", "decay_norm_and_bias")
    assert [sgd[key] for key in kept] == ["sgd", 0.9, True, 5e-4, True]
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.clip_norm) == (200, 128, 5.0)
    assert (recipe.loss.label_smoothing, recipe.mix.active) == (0.0, False)
    rates = rates_of(recipe, clock_of(recipe, 50_000))
    assert rates.at(0).lr == 0.1
    assert rates.at(100 * 390).lr == pytest.approx(0.05)
    assert rates.at(200 * 390 - 1).lr < 1e-8


@pytest.mark.parametrize("epochs", FFCV)
def test_the_rate_of_the_short_imagenet_recipes_is_their_source_s(epochs: int) -> None:
    """From 1e-4 of 1.7 in a line to 1.7 at epoch 2, and in a line to 0 at the end: exact at every step."""
    recipe = load_recipe(f"imagenet-resnet50-{epochs}ep")
    clock = clock_of(recipe, 1_281_167)
    assert (clock.steps_per_epoch, clock.total_steps, recipe.train.batch_size) == (312, 312 * epochs, 8 * 512)
    rates = rates_of(recipe, clock)
    assert [rates.at(epoch * 312).lr for epoch in (0, 1, 2)] == pytest.approx([1.7e-4, 0.850085, 1.7], rel=1e-6)
    for epoch in range(2, epochs):
        assert rates.at(epoch * 312).lr == pytest.approx(1.7 * (epochs - epoch) / (epochs - 2))
    assert rates.at(312 * epochs - 1).lr == pytest.approx(1.7 / (epochs - 2) / 312)


@pytest.mark.parametrize("epochs", FFCV)
def test_the_resolution_of_the_short_imagenet_recipes_is_their_source_s_in_every_epoch(epochs: int) -> None:
    """In a line from 160 to 192 px, rounded to whole multiples of 32: 192 from epoch 12, 32 and 71 on."""
    recipe, (start, end) = load_recipe(f"imagenet-resnet50-{epochs}ep"), FFCV[epochs]
    clock = clock_of(recipe, 1_281_167)
    ours = []
    for epoch in range(epochs):
        now = recipe.train.resolution
        for phase in recipe.phases:
            if epoch * 312 >= clock.steps(phase.start):
                now = phase.set.resolution
        ours.append(now)
    grown = [160 + 32 * min(1.0, max(0.0, (epoch - start) / (end - start))) for epoch in range(epochs)]
    assert ours == [32 * round(side / 32) for side in grown]
    assert ours.index(192) == {16: 12, 40: 32, 88: 71}[epochs]


@pytest.mark.parametrize("name", IMAGENET)
def test_crops_of_imagenet_come_out_of_the_whole_photograph_as_in_their_sources(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.cache == "none"
    assert cuts_at_load(recipe)
    first = recipe.augment.policy[0]
    assert isinstance(first, RandomResizedCrop)
    assert first.scale == (0.08, 1.0)
