"""`train.batch_size: auto`: what it finds, that the run keeps it, and that the search leaves no trace in the run."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import groundup
from groundup.basis.errors import OutOfMemory, UsageError
from groundup.basis.interruption import StopRequest
from groundup.data import Splits
from groundup.recipe import Recipe, load_recipe, to_yaml
from groundup.runs.check.checking import check
from groundup.runs.cost import estimate
from groundup.runs.cost.batch_size import CEILING, _Search, candidates, with_batch_size, with_number
from groundup.runs.prepare import make_plan, open_data, with_measured_constants
from groundup.tracking import Tracker

AUTO = ["train.batch_size=auto", "data.limit=1000", "data.validation=0.2"]


class Heard(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def opened(recipe: Recipe) -> tuple[Recipe, Splits]:
    splits = open_data(recipe, StopRequest())
    return with_measured_constants(recipe, splits), splits


@pytest.fixture(scope="module")
def auto(tiny: list[str]) -> tuple[Recipe, Splits]:
    """A recipe that leaves the batch to the machine: 800 images for training."""
    return opened(load_recipe("digits", [*tiny, *AUTO]))


def test_sizes_are_powers_of_two_or_multiples_of_64_up_to_a_tenth_of_the_split() -> None:
    assert candidates(9) == [1]
    assert candidates(159) == [1, 2, 4, 8]
    assert candidates(1400) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert candidates(3000)[-3:] == [128, 192, 256]
    assert candidates(10**6)[-1] == CEILING


def test_a_run_keeps_the_number_that_was_found_and_is_the_run_of_that_number(tiny: list[str], tmp_path: Path) -> None:
    heard = Heard()
    found = groundup.train("digits", [*tiny, *AUTO], run=tmp_path / "auto", terminal=heard)
    (said,) = [line for line in heard.lines if line.startswith("train.batch_size=auto: ")]
    assert said.startswith("train.batch_size=auto: 64 images (at most a tenth of the 800 training images); measured: ")
    kept = load_recipe(str(found.folder / "recipe.yaml"))
    assert kept.train.batch_size == 64
    told = groundup.train("digits", [*tiny, *AUTO, "train.batch_size=64"], run=tmp_path / "told")
    weights = [(run.folder / "checkpoints/last/model.safetensors").read_bytes() for run in (found, told)]
    assert weights[0] == weights[1]
    assert found.summary["steps"] == told.summary["steps"] == 2 * (800 // 64)
    # Durations follow from the number: the schedule has its peak at the same step.
    assert (tmp_path / "auto/recipe.yaml").read_text() == (tmp_path / "told/recipe.yaml").read_text()


@pytest.mark.parametrize("room", [3, 20, 40])
def test_no_more_is_taken_than_fits(room: int, auto: tuple[Recipe, Splits], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, splits = auto
    seen: list[estimate.Memory] = []
    original = estimate.extrapolated_memory

    def with_room(*arguments: object) -> estimate.Memory:
        """As much memory as `room` images need beside what is always there."""
        memory = original(*arguments)  # type: ignore[arg-type]
        free = round((sum(memory.fixed.values()) + (room + 0.5) * memory.per_image) / 0.5)
        seen.append(estimate.Memory(memory.fixed, memory.per_image, memory.images, free, free))
        return seen[-1]

    monkeypatch.setattr("groundup.runs.cost.batch_size.extrapolated_memory", with_room)
    found = with_batch_size(recipe, splits, lambda line: None).train.batch_size
    assert found == max(size for size in candidates(len(splits.train)) if size <= room)
    (memory,) = seen
    assert sum(memory.fixed.values()) + found * memory.per_image < memory.free / 2
    smaller = recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_batch": 2})})
    assert (
        with_batch_size(smaller, splits, lambda line: None).train.batch_size == 64
    )  # of which two are in a forward pass


def test_a_network_of_which_not_one_image_fits_is_told(
    auto: tuple[Recipe, Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundup.runs.cost.estimate.device_memory", lambda device: (1_000_000, 1_000_000))
    with pytest.raises(OutOfMemory, match="not one image fits: a step needs"):
        with_batch_size(*auto, lambda line: None)


def test_an_own_network_is_not_touched_by_the_search(auto: tuple[Recipe, Splits]) -> None:
    recipe, splits = auto
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    before = copy.deepcopy(own.state_dict())
    assert with_batch_size(recipe, splits, lambda line: None, own=own).train.batch_size == 64
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    assert all(parameter.grad is None for parameter in own.parameters())


def test_a_check_finds_the_batch_and_says_so(auto: tuple[Recipe, Splits]) -> None:
    heard = Heard()
    report = check(auto[0], tracker=heard, data=auto[1])
    assert any(line.startswith("train.batch_size=auto: 64 images") for line in heard.lines)
    assert "steps of 64 images" in report.facts()["length"]


def test_a_recipe_with_auto_is_written_and_read_again(auto: tuple[Recipe, Splits], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(to_yaml(auto[0]))
    assert "batch_size: auto" in (tmp_path / "x.yaml").read_text()
    assert load_recipe(str(tmp_path / "x.yaml")) == auto[0]


@pytest.mark.parametrize("micro", ["128", "1000"])
def test_a_micro_batch_above_the_batch_that_is_found_is_refused(micro: str, tiny: list[str]) -> None:
    recipe, splits = opened(load_recipe("digits", [*tiny, *AUTO, f"train.micro_batch={micro}"]))
    with pytest.raises(UsageError, match=rf"train\.micro_batch={micro}: larger than the batch of 64"):
        with_batch_size(recipe, splits, lambda line: None)


def test_where_nothing_is_measured_auto_is_refused(auto: tuple[Recipe, Splits]) -> None:
    with pytest.raises(UsageError, match=r"train\.batch_size=auto: is found where a run begins"):
        make_plan(*auto)


def test_a_number_stays_as_it_is(auto: tuple[Recipe, Splits]) -> None:
    recipe = with_number(auto[0], 24)
    assert with_batch_size(recipe, auto[1], lambda line: pytest.fail(line)) is recipe


class TriedOut(_Search):
    """A device on which steps of up to `most` images fit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []
        self._check = lambda: None

    def _passes(self, size: int) -> bool:
        self.tried.append(size)
        return size <= self.most


@pytest.mark.parametrize("most", [1, 63, 64, 200, 960, 1023, 1024])
def test_trying_out_ends_at_the_largest_size_that_fits(most: int) -> None:
    sizes = candidates(100_000)
    search = TriedOut(most)
    found, how = search.by_trying(sizes)
    assert found == max(size for size in sizes if size <= most)
    assert len(search.tried) <= 6
    assert ("do not fit" in how) is (most < CEILING)
    assert f"{found}" in str(search.tried)


def test_trying_out_without_room_for_one_image_is_told() -> None:
    with pytest.raises(OutOfMemory, match="not one image fits on the device"):
        TriedOut(0).by_trying(candidates(100_000))


@pytest.mark.gpu
def test_on_a_gpu_the_largest_batch_is_found_that_runs_without_running_out_of_memory() -> None:
    settings = ["model={name: resnet18, stem: small, width: 64}", "train.device=cuda", "train.batch_size=auto"]
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12_000, 64, 64, 3), generator=random, dtype=torch.uint8).numpy()
    from groundup.data import ImageSet

    labels = (torch.arange(12_000) % 10).numpy()
    whole, names = ImageSet.whole(images, labels), [str(number) for number in range(10)]
    splits = Splits(whole, None, ImageSet.whole(images[:100], labels[:100]), names, 64, fingerprint="noise")
    recipe = with_measured_constants(load_recipe("digits", settings), splits)
    total = torch.cuda.get_device_properties(0).total_memory
    found = []
    try:
        for gigabytes in (2, 4, 100):
            torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 2**30 / total))
            said: list[str] = []
            found.append(with_batch_size(recipe, splits, said.append).train.batch_size)
            assert len(said) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert all(one < other for one, other in itertools.pairwise(found)), found
    assert found[-1] == CEILING
