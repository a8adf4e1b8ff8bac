"""Training on images that are decoded as they are needed: windows cut at load, resume bit for bit, no thread left behind."""

import io
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import groundup
from groundup.augment import mix_groups
from groundup.augment.random_resized_crop import RandomResizedCrop
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import DecodingLoader, SourceImages, UnreadableImage
from groundup.recipe import validate
from groundup.runs.from_disk import cuts_at_load, training_loader
from groundup.runs.identity import what_decides
from groundup.runs.prepare import make_plan, open_data
from groundup.tracking import Trackers
from groundup.training import World, train, train_step
from groundup.training.loop import parts

CROP = {"name": "random_resized_crop", "scale": [0.2, 1.0], "p": 0.9}
FLIP = {"name": "flip"}
TRAIN = {"epochs": 2.5, "batch_size": 24, "micro_batch": 9, "resolution": 12}


def photograph(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize(tuple(random.integers(20, 70, 2)), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training images of two classes and many sizes, 20 test images."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 50), ("test", 10)):
        for label in range(2):
            (root / split / f"c{label}").mkdir(parents=True)
            for number in range(count):
                (root / split / f"c{label}" / f"{number}.jpg").write_bytes(photograph(100 * label + number))
    return root


def changes(root: Path, *policy: dict[str, Any], cache: str = "none", **others: Any) -> dict[str, Any]:
    return {
        "data": {"source": f"folder:{root}", "resolution": 16, "resize": "crop", "cache": cache, "limit": 96},
        "augment": {"policy": list(policy)},
        "train": TRAIN,
        "phases": [{"from": "0.5dur", "set": {"train.resolution": 16}}],
        **others,
    }


class Threads:
    """The names of groundup's threads that began after this was made: what another test has dropped may still be ending."""

    def __init__(self) -> None:
        self._earlier = set(threading.enumerate())

    def __call__(self) -> list[str]:
        later = (thread for thread in threading.enumerate() if thread not in self._earlier)
        return [thread.name for thread in later if thread.name.startswith("groundup-")]


@pytest.mark.parametrize("sam", [False, True], ids=["plain", "SAM"])
def test_a_resumed_run_equals_an_uninterrupted_one_whatever_the_workers(
    sam: bool, photographs: Path, tmp_path: Path, lab: Any, differences: Callable[[Any, Any], list[str]]
) -> None:
    later = [*changes(photographs)["phases"], {"from": "0.7dur", "set": {"augment.policy": [FLIP]}}]
    recipe = changes(photographs, CROP, FLIP, phases=later)
    if sam:
        recipe["optimizer"] = {"sam": {"rho": 0.05}}
    whole = lab.run(tmp_path / "whole", recipe)
    assert isinstance(whole.job.data, DecodingLoader)
    for workers, stop_after in ((0, 3), (3, 2), (1, None)):
        with_workers = {**recipe, "data": {**recipe["data"], "workers": workers, "prefetch": 2}}
        part = lab.run(tmp_path / "parts", with_workers, stop_after=stop_after)
    assert whole.state.step == 8
    assert not differences(whole.outcome, part.outcome)
    other = lab.run(tmp_path / "other", {**recipe, "seed": 1})
    assert differences(whole.outcome, other.outcome)


@pytest.mark.parametrize("policy", [[], [{"name": "pad_crop", "pad": 2}, FLIP], [FLIP, CROP]], ids=str)
def test_without_a_crop_in_front_the_run_is_that_of_any_other_cache(
    policy: list[dict[str, Any]],
    photographs: Path,
    tmp_path: Path,
    lab: Any,
    differences: Callable[[Any, Any], list[str]],
) -> None:
    mix = {"mix": {"methods": [{"name": "mixup"}]}} if not policy else {}
    # Micro-batches of mixed images are whole groups.
    train = {"train": {**TRAIN, "micro_batch": None}} if mix else {}
    short = {**mix, **train}
    kept = lab.run(tmp_path / "kept", changes(photographs, *policy, cache="device", **short), stop_after=4)
    decoded = lab.run(tmp_path / "decoded", changes(photographs, *policy, **short), stop_after=4)
    assert not differences(kept.outcome, decoded.outcome)


def test_the_loop_asks_for_what_was_decoded_ahead(photographs: Path, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = {"mix": {"methods": [{"name": "cutmix"}], "clean": 0.5}, "train": {**TRAIN, "micro_batch": None}}
    for recipe in (changes(photographs, CROP), changes(photographs, CROP, **mixed)):
        job, state = lab.build(recipe)
        asked: list[tuple[int, int]] = []
        foreseen = job.data._foreseen
        monkeypatch.setattr(job.data, "_foreseen", lambda key, f=foreseen, a=asked: (a.append(key), f(key))[1])
        for _ in range(2):
            train_step(job, state)
        numbers = [0] if recipe["train"]["micro_batch"] is None else [0, 1, 2]
        assert asked == [(step, number) for step in range(2) for number in numbers]


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
def test_each_of_three_processes_decodes_its_share_and_has_the_images_of_one_process(
    mixed: bool, photographs: Path, lab: Any
) -> None:
    train = {"train": {"epochs": 2, "batch_size": 76, "micro_batch": None if mixed else 13, "drop_last": False}}
    recipe = lab.recipe(
        changes(photographs, CROP, **train, **({"mix": {"methods": [{"name": "cutmix"}]}} if mixed else {}))
    )
    splits = lab.splits(recipe)
    plan = make_plan(recipe, splits)

    def loader(world: World) -> Any:
        return training_loader(
            recipe, splits, plan.order, plan.live, plan.clock.total_steps, torch.device("cpu"), world
        )

    whole = loader(World())
    for rank in range(3):
        world = World()
        world.rank, world.size = rank, 3
        own = loader(world)
        for step in range(4):  # batches of 76 and of 1, of which two processes have nothing
            indices = plan.order.at(step)[1]
            foreseen = own._at(step).parts
            share = world.share(len(indices))
            cut = [
                mix_groups(part, len(indices)) if mixed else part
                for part in parts(len(indices), recipe.train.micro_batch, share)
            ]
            assert [list(part) for part in foreseen] == [indices[part].tolist() for part in cut]
            for part in cut:
                assert torch.equal(own.training(indices[part], step), whole.training(indices, step)[part])
        own.close()
    whole.close()


def test_images_come_cut_at_the_size_of_the_step_and_the_device_leaves_the_crop_out(
    photographs: Path, lab: Any
) -> None:
    job, _ = lab.build(changes(photographs, CROP, FLIP))
    last = job.clock.total_steps - 1
    for step, side in ((0, 12), (last, 16)):
        assert [operation.name for operation in job.live.at(step).policy] == ["flip"]
        places = job.order.at(step)[1][:9]
        assert job.data.training(places, step).shape == (9, 3, side, side)
        assert job.data.side(step) == side
    assert job.data.take(places)[0].shape == (9, 3, 16, 16)  # as evaluation sees them
    epoch = job.order.at(0)[0]
    crop = RandomResizedCrop.model_validate(CROP)
    upcoming = job.data._at(0)
    sizes = torch.tensor([[300, 400]]).expand(9, 2)
    assert upcoming.windows is not None
    assert torch.equal(upcoming.windows(sizes, places, epoch), crop.windows(sizes, places, epoch, job.seed))


def test_a_resume_may_change_how_images_are_read_but_not_what_is_cut(photographs: Path, lab: Any) -> None:
    recipes = {
        (crop, cache): validate(
            {**lab.recipe(changes(photographs, *policy, cache=cache)).model_dump(by_alias=True), "name": "x"}
        )
        for cache in ("none", "disk")
        for crop, policy in (("cut", (CROP,)), ("padded", ({"name": "pad_crop"},)))
    }
    assert [cuts_at_load(recipe) for recipe in recipes.values()] == [True, False, False, False]
    assert what_decides(recipes["padded", "none"]) == what_decides(recipes["padded", "disk"])
    assert what_decides(recipes["cut", "none"]) != what_decides(recipes["cut", "disk"])
    more = recipes["cut", "none"].model_copy(
        update={"data": recipes["cut", "none"].data.model_copy(update={"workers": 7, "prefetch": 1})}
    )
    assert what_decides(more) == what_decides(recipes["cut", "none"])


class StopOnceDecoding(StopRequest):
    """Asks to stop at the first check that finds images being decoded ahead."""

    def __init__(self, threads: Threads) -> None:
        super().__init__()
        self.threads, self.seen = threads, False

    @property
    def pending(self) -> Interrupted | None:
        self.seen = self.seen or "groundup-read_0" in self.threads()
        return Interrupted("SIGTERM", 143) if self.seen else None


def test_a_source_that_falls_silent_keeps_no_run_from_stopping_where_it_is(
    photographs: Path, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changes(photographs, CROP, FLIP)
    recipe["data"] |= {"workers": 1, "prefetch": 0}
    whole = lab.run(tmp_path / "whole", recipe)
    job, state = lab.build(recipe)
    answers, asked, stop, encoded = threading.Event(), itertools.count(), StopRequest(), SourceImages.encoded

    def read(source: SourceImages, positions: np.ndarray) -> list[Any]:
        # The first of three parts of the fourth batch; evaluations read in a thread of their own.
        if threading.current_thread().name.startswith("groundup-read") and next(asked) == 9:
            stop.request("the machine goes")
            assert answers.wait(30), "the run waited for the source"
        return encoded(source, positions)

    monkeypatch.setattr(SourceImages, "encoded", read)
    with pytest.raises(Interrupted, match="the machine goes"):
        train(job, state, lab.store(tmp_path / "part"), Trackers([], report=pytest.fail), stop)
    assert (tmp_path / "part" / "checkpoints" / "last").resolve().name == "step-0000003"
    answers.set()
    job.data.close()
    part = lab.run(tmp_path / "part", recipe)
    expected = whole.state.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in part.state.model.state_dict().items())


@pytest.fixture
def recipe_of(photographs: Path, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    short = {"train": {**TRAIN, "epochs": 0.6}, "phases": []}
    return lambda: lab.recipe(changes(photographs, CROP, FLIP, **short))


def test_no_thread_outlives_a_run_that_ends_is_stopped_or_meets_a_damaged_image(
    photographs: Path, tmp_path: Path, recipe_of: Callable[[], Any]
) -> None:
    threads = Threads()
    run = groundup.train(recipe_of(), run=tmp_path / "run")
    assert (run.folder / "samples.png").exists()
    assert threads() == []
    with pytest.raises(Interrupted):
        groundup.train(recipe_of(), run=tmp_path / "stopped", stop=StopOnceDecoding(threads), pictures=False)
    assert threads() == []
    recipe = recipe_of()
    splits = open_data(recipe, StopRequest())
    damaged = photographs / "train" / "c1" / "7.jpg"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:400])
    try:
        with pytest.raises(UnreadableImage, match=r"c1/7\.jpg: "):
            groundup.train(recipe, run=tmp_path / "damaged", data=splits, pictures=False)
    finally:
        damaged.write_bytes(content)
    assert threads() == []
