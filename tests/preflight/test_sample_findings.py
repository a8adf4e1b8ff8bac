"""Every code of the samples: a recipe that has it, what it says, that the proposed override mends it, and one that has it not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup import augment
from groundup.basis.interruption import StopRequest
from groundup.data import load_splits
from groundup.preflight.findings import Finding, Level, overrides_of
from groundup.preflight.samples import SAMPLE_CODES, check_samples, sample_facts, see_samples
from groundup.preflight.subject import Subject, subject_of
from groundup.recipe import load_recipe
from groundup.runs.prepare import build_job, build_network, make_plan, open_data, with_measured_constants
from groundup.training.engine import choose_engine
from groundup.training.loop import batch_of, draw

PAD = "{name: pad_crop, pad: 1}"
MIXUP = "mix={methods: [{name: mixup, alpha: 1.0}]}"
ALL_AT_ONCE = [MIXUP, "model.dropout=0.3", "loss.label_smoothing=0.1"]


def policy(*operations: str) -> str:
    return f"augment.policy=[{', '.join(operations)}]"


# code, level, a part of what it says, the overrides that bring it about
CASES: list[tuple[str, Level, str, list[str]]] = [
    ("GU301", "warning", "of the images lose more than half", [policy(PAD, "{name: cutout, size: 8}")]),
    ("GU301", "warning", "from step 0 on", [policy("{name: random_erasing, p: 1, scale: [0.4, 0.8]}")]),
    (
        "GU301",
        "warning",
        "from step 0 on",
        [policy("{name: coarse_dropout, p: 1, holes: [8, 20], side: [2, 4], unit: px}")],
    ),
    (
        "GU301",
        "warning",
        "from step 0 on",
        [policy("{name: one_of, p: 1, operations: [{name: cutout, size: 8}, {name: random_erasing, p: 1}]}")],
    ),
    (
        "GU301",
        "warning",
        "from step 440 on",
        ["phases=[{from: 10ep, set: {augment.policy: [{name: cutout, size: 8}]}}]"],
    ),
    ("GU302", "note", "0% of 100 batches", [MIXUP]),
    ("GU302", "note", "0% of 100 batches", [MIXUP, "mix.per=sample"]),
    (
        "GU303",
        "warning",
        "mean (-0.755",
        ["augment.normalize={mean: [0.5071, 0.4865, 0.4409], std: [0.2673, 0.2564, 0.2762]}"],
    ),
    ("GU303", "warning", "std (2.", ["augment.normalize={mean: [0.305, 0.305, 0.305], std: [0.16, 0.16, 0.16]}"]),
    ("GU304", "warning", "random_grayscale changed none", [policy(PAD, "{name: random_grayscale, p: 0.5}")]),
    (
        "GU304",
        "warning",
        "random_grayscale changed none",
        ["phases=[{from: 5ep, set: {augment.policy: [{name: random_grayscale, p: 1}]}}]"],
    ),
    ("GU305", "note", "100% of the batches mixed, label smoothing 0.1, dropout 0.3", ALL_AT_ONCE),
    ("GU306", "warning", "flip on data.source=digits", [policy(PAD, "{name: flip}")]),
    ("GU306", "warning", "vertical_flip on", [policy("{name: vertical_flip}")]),
    (
        "GU306",
        "warning",
        "flip on",
        [policy("{name: one_of, operations: [{name: flip}, {name: gaussian_noise, p: 1}]}")],
    ),
    ("GU307", "note", "cutout in a run of 5 epochs", ["train.epochs=5", policy(PAD, "{name: cutout, size: 2}")]),
]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    # The digits are decoded once for the whole module.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        load_splits(load_recipe("digits").data)


def subject(*overrides: str, name: str = "digits") -> Subject:
    recipe = load_recipe(name, overrides)
    splits = load_splits(recipe.data)
    found = subject_of(
        recipe, train_images=len(splits.train), classes=len(splits.classes), image_size=splits.image_size
    )
    labels = torch.from_numpy(splits.train.labels)
    return replace(found, splits=splits, labels=labels, train_images=len(labels))


def findings(*overrides: str) -> list[Finding]:
    seen = subject(*overrides)
    return check_samples(seen, see_samples(seen))


def told(code: str, found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.code == code]


@pytest.mark.parametrize(("code", "level", "part", "overrides"), CASES, ids=lambda value: str(value)[:40])
def test_it_is_found_and_its_mend_mends_it(code: str, level: Level, part: str, overrides: list[str]) -> None:
    found = told(code, findings(*overrides))
    assert [finding.level for finding in found] == [level]
    assert part in found[0].saw
    mend = overrides_of(found[0].mend)
    if mend:
        assert not told(code, findings(*overrides, *mend))
    else:
        assert found[0].mend == SAMPLE_CODES[code].mend


def test_a_plain_recipe_has_none_of_them() -> None:
    assert findings() == []


def test_every_code_has_a_case_here() -> None:
    assert {case[0] for case in CASES} == set(SAMPLE_CODES)
    assert all(number == code.number and number.startswith("GU3") for number, code in SAMPLE_CODES.items())


HARMLESS = [
    ("GU301", [policy("{name: cutout, size: 2}")]),
    ("GU302", [MIXUP, "mix.clean=0.1"]),
    ("GU302", [MIXUP, "phases=[{from: 15ep, set: {mix: {methods: []}}}]"]),
    ("GU303", ["augment.normalize={mean: [0.3, 0.3, 0.3], std: [0.4, 0.4, 0.4]}"]),
    ("GU304", [policy("{name: gaussian_noise, p: 0.02}")]),
    ("GU304", [policy("{name: random_grayscale, p: 0.001}")]),  # one image would be expected to change
    ("GU305", [*ALL_AT_ONCE, "mix.clean=0.6"]),
    ("GU305", [*ALL_AT_ONCE, "loss.label_smoothing=0.05"]),
    ("GU305", [*ALL_AT_ONCE, "model.dropout=0.1"]),
    ("GU307", ["train.epochs=10", policy("{name: cutout, size: 2}")]),
]


@pytest.mark.parametrize(("code", "overrides"), HARMLESS, ids=lambda value: str(value)[:50])
def test_what_is_within_reason_is_not_told(code: str, overrides: list[str]) -> None:
    assert not told(code, findings(*overrides))


@pytest.mark.parametrize(
    ("source", "lettered"),
    [("mnist", True), ("SVHN", True), ("emnist-letters", True), ("fashion_mnist", False), ("minions", False)],
)
def test_digits_and_letters_are_told_by_the_name_of_the_source(source: str, lettered: bool) -> None:
    plain = subject(policy("{name: flip}"))
    data = plain.recipe.data.model_copy(update={"source": f"folder:/data/{source}"})
    named = replace(plain, recipe=plain.recipe.model_copy(update={"data": data}))
    assert bool(told("GU306", check_samples(named, see_samples(named)))) is lettered


def test_a_flip_is_no_news_to_other_pictures(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(200) % 2, x_test=images, y_test=np.arange(200) % 2)
    assert not told("GU306", findings(f"data.source=arrays:{tmp_path / 'a.npz'}", policy("{name: flip}")))


EVERYTHING = [
    policy(PAD, "{name: cutout, size: 3}"),
    "mix={clean: 0.2, per: sample, methods: [{name: mixup}, {name: cutmix}]}",
    "train.batch_size=100",
    "train.resolution=10",
]


@pytest.mark.parametrize("overrides", [[], EVERYTHING, ["train.batch_size=10", MIXUP]])
def test_the_samples_are_those_of_the_first_step_of_the_run(overrides: list[str]) -> None:
    """The images that the loop draws, bit for bit, from the job that a run would have."""
    stop = StopRequest()
    recipe = load_recipe("digits", ["train.device=cpu", "train.compile=never", *overrides])
    splits = open_data(recipe, stop)
    recipe = with_measured_constants(recipe, splits)
    plan = make_plan(recipe, splits)
    engine = choose_engine(recipe.train, plan.clock.total_steps)
    job, _ = build_job(plan, engine, build_network(plan, engine), stop.check)
    indices, _ = batch_of(job, 0)
    live, drawn = job.live.at(0), draw(job, 0, job.live.at(0))
    images = job.data.take(indices)[0]
    expected = augment.normalize(
        augment.apply(live.policy, images, drawn.policy, slice(None)), job.mean, job.std, live.resolution
    )
    if drawn.mixed is not None:
        expected = augment.apply_mix(expected, drawn.mixed, slice(0, len(indices)))
    seen = see_samples(replace(subject(*overrides), recipe=recipe), count=70)
    assert len(seen.seen) == len(seen.originals) == len(seen.titles) == len(seen.pictures) == min(70, len(indices))
    assert torch.equal(seen.originals, images[:70])
    assert torch.equal(seen.seen, expected[:70])


def test_pictures_are_what_the_network_sees_as_pixels() -> None:
    seen = see_samples(subject("augment.policy=[]"), count=8)
    assert seen.pictures.dtype == torch.uint8
    assert torch.equal(seen.pictures, seen.originals)


def test_titles_say_what_is_in_a_mixed_image() -> None:
    titles = see_samples(subject(MIXUP)).titles
    assert any(", " in title and "%" in title for title in titles)
    assert all("%" not in title for title in see_samples(subject()).titles)


def test_shares_are_those_of_the_settings() -> None:
    samples = see_samples(subject(MIXUP, "mix.clean=0.3", policy("{name: cutout, size: 4}")), steps=1000)
    assert samples.clean == pytest.approx(0.3, abs=0.05)
    assert samples.nearly_clean == pytest.approx(0.3 + 0.7 * 0.1, abs=0.05)  # lambda is uniform at alpha 1
    # A square of 4 px around a pixel of 8: 2, 3, 4, 4, 4, 4, 4, 3 of its columns are inside.
    assert samples.erased[0].mean == pytest.approx((28 / 64) ** 2, abs=0.02)
    assert samples.erased[0].heavily == 0


def test_facts_are_told_in_words() -> None:
    facts = sample_facts(see_samples(subject(MIXUP, policy("{name: cutout, size: 2}"))))
    assert facts["normalisation"].startswith("mean (0.305, 0.305, 0.305), std (0.376, 0.376, 0.376); one function")
    assert facts["after it"] == "1438 training images have mean (0, 0, 0), std (1, 1, 1)"
    assert set(facts) == {"normalisation", "after it", "range", "saturation", "erased pixels", "clean batches"}


def test_range_and_saturation_are_those_of_what_the_network_gets() -> None:
    plain = see_samples(subject("augment.policy=[]"), count=64)
    pixels = plain.originals.float() / 255
    assert plain.saturated == plain.saturated_before
    assert plain.saturated[0] == pytest.approx(float((pixels == 0).float().mean()))
    assert plain.saturated[1] == pytest.approx(float((pixels == 1).float().mean()))
    assert plain.span == (float(plain.seen.min()), float(plain.seen.max()))
    bright = see_samples(
        subject(policy("{name: brightness_contrast, p: 1, brightness_limit: [0.9, 0.9], contrast_limit: 0}")), count=64
    )
    assert bright.saturated_before == plain.saturated_before
    assert bright.saturated[1] > 0.4 > plain.saturated[1]
    assert f"and {bright.saturated[1]:.1%} white; {plain.saturated[0]:.1%}" in sample_facts(bright)["saturation"]
    assert "-0.81 to 1.85 after normalisation, of the 32 images" in sample_facts(plain)["range"]


def test_a_subject_without_images_has_no_samples() -> None:
    with pytest.raises(ValueError, match="no splits"):
        see_samples(subject_of(load_recipe("digits")))
