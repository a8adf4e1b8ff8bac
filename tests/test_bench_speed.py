"""The measurements of speed in bench/ with their smallest settings: they run, write their result, and compare like with like."""

import argparse
import importlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from groundup.basis.errors import UsageError
from groundup.basis.interruption import StopRequest
from groundup.data import ImageSet
from groundup.models import ModelSettings, ResNetSettings, SpeedNetSettings, WideResNetSettings, build_model
from groundup.models.convolution import Convolution
from groundup.models.regularization import BlockDropout
from groundup.recipe import load_recipe
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants
from groundup.tracking import Trackers
from groundup.training import Job, TrainingState

BENCH = Path(__file__).parents[1] / "bench"
NAMES = ("decode", "generated", "growth", "kept", "loop_cost", "notebook", "start")
TINY = ["model.width=8", "train.threads=1", "track.tensorboard=false"]
Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], ModuleType]]:
    """bench(name): a measurement as a module."""
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The measurements choose how many threads torch uses, for all that comes after them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def measure(bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """measure(name, *arguments): what `python bench/NAME.py ARGUMENTS --out FILE` writes."""

    def run(name: str, *arguments: str) -> dict[str, Any]:
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--out", str(out)])
        bench(name).main()
        written: dict[str, Any] = json.loads(out.read_text())
        assert written["packages"]["torch"] == torch.__version__
        return written

    return run


def prepared(overrides: list[str]) -> tuple[Job, TrainingState]:
    recipe = load_recipe("digits", [*TINY, *overrides])
    splits = open_data(recipe, StopRequest())
    return first_job(make_plan(with_measured_constants(recipe, splits), splits), lambda: None)


def test_the_notebook_is_compared_on_generated_images(measure: Measure) -> None:
    few = ["--rounds", "1", "--images", "32", "--workers", "0", "--generated", "64"]
    written = measure("notebook", "digits", *TINY, *few)
    assert written["over_notebook"]["median"] > 0
    assert written["over_plain"]["median"] > 0
    assert (written["steps_per_round"], written["resolution"]) == (1, 32)


@pytest.mark.parametrize(
    "settings",
    [
        SpeedNetSettings(name="speed_net", widths=(8, 12, 16), middles=(8, 8, 12)),
        WideResNetSettings(name="wide_resnet", depth=10, width=1, dropout=0.3),
        ResNetSettings(name="resnet18", stem="small", width=16, blur_pool=True),
    ],
    ids=lambda settings: settings.name,
)
def test_the_network_of_the_other_loops_is_the_same_function_in_modules_of_torch(
    bench: Callable[[str], ModuleType], settings: ModelSettings
) -> None:
    ours = build_model(settings, num_classes=5, seed=0)
    theirs = bench("notebook").in_torch(build_model(settings, num_classes=5, seed=0))
    assert not any(isinstance(module, Convolution | BlockDropout) for module in theirs.modules())
    trained = [sum(p.requires_grad for p in network.parameters()) for network in (ours, theirs)]
    assert trained[0] == trained[1]
    images = torch.randn(4, 3, 23, 23)
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the masks are drawn in other ways
    torch.testing.assert_close(theirs.train()(images), ours.train()(images))


def test_every_contestant_is_first_in_every_third_round(bench: Callable[[str], ModuleType]) -> None:
    turns: list[str] = []
    contestants = {name: lambda steps, name=name: turns.append(f"{name}{steps}") for name in "abc"}
    seconds = bench("notebook").in_turn(contestants, rounds=3, steps=2)
    assert turns == ["a2", "b2", "c2", "a2", "b2", "c2", "b2", "c2", "a2", "c2", "a2", "b2"]
    assert [len(taken) for taken in seconds.values()] == [3, 3, 3]


def test_a_contestant_that_cannot_begin_is_named(bench: Callable[[str], ModuleType], capfd: Any) -> None:
    chosen = argparse.Namespace(recipe="no-such-recipe", overrides=[], generated=None, workers=0)
    with pytest.raises(SystemExit, match="plain: its process ended"):
        bench("notebook").Apart("plain", chosen)
    assert "no-such-recipe" in capfd.readouterr().err


class Counted:
    """Images that count, over all processes, how many were read."""

    def __init__(self) -> None:
        self.shape = (64, 8, 8, 3)
        self.read = multiprocessing.Value("i", 0)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        with self.read.get_lock():
            self.read.value += len(positions)
        return np.zeros((len(positions), 8, 8, 3), dtype=np.uint8)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_workers_of_the_notebook_are_idle_when_it_is_not_its_turn(bench: Callable[[str], ModuleType]) -> None:
    job, _ = prepared(["train.batch_size=4"])
    images = Counted()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    split = ImageSet(images, np.arange(64) % 10, np.arange(64))
    notebook = bench("notebook").Notebook(job, split, network, optimizer, side=8, workers=2)
    for turn in (1, 2):
        notebook.train(3)
        time.sleep(0.2)
        assert images.read.value == turn * 3 * 4


EVERYTHING = [
    *("data.validation=0.5", "mix.methods=[{name: mixup}]", "average={name: ema, horizon: 1step}", "train.clip_norm=1"),
    *(
        "optimizer.sam={rho: 0.05}",
        "loss={name: binary_cross_entropy}",
        "phases=[{from: 0.5dur, set: {mix: {methods: [{name: cutmix}]}}}]",
    ),
]


def test_the_bare_loop_is_compared_on_the_same_work(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    job, state = prepared(EVERYTHING)
    evaluated: list[object] = []
    job = replace(job, evaluate=lambda network: evaluated.append(network) or {})  # type: ignore[func-returns-value]
    loop_cost = bench("loop_cost")
    alike = loop_cost.comparable(job, state)
    assert state.average is None
    assert (alike.sam, alike.train.clip_norm, alike.live.mixes) == (None, None, False)
    assert (job.live.mixes, job.train.clip_norm, job.sam is not None) == (True, 1, True)
    state.step = state.evaluated_at = alike.clock.total_steps - 1
    passes: list[int] = []
    state.model.register_forward_hook(lambda *_: passes.append(1))
    loop_cost.our_loop(alike, state, Trackers([]))
    ours = len(passes)
    loop_cost.bare_loop(alike, state, alike.clock.total_steps - 1, 1)
    assert (ours, len(passes) - ours, evaluated) == (1, 1, [])


def test_loop_cost_takes_turns_and_refuses_what_a_bare_loop_does_not_do(measure: Measure) -> None:
    written = measure("loop_cost", "digits", *TINY, "--rounds", "1", "--steps", "1")
    assert written["ratio_median"] > 0
    with pytest.raises(UsageError, match="decodes nothing ahead"):
        measure("loop_cost", "digits", "data.cache=none")


def test_growth_has_a_row_for_everything_that_grows_and_a_picture(
    measure: Measure, bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = bench("growth")
    rows = {"images": [{"images": 16}, {"images": 32}], "classes": [{"classes": 2}], "batch": [{"batch": 4}]}
    monkeypatch.setattr(growth, "ROWS", rows)
    monkeypatch.setattr(growth, "IMAGES_OF_A_TURN", 8)
    monkeypatch.setattr(growth.turns, "__defaults__", (16, 2, 8))
    processes: list[int] = []

    def started(folder: Path, processes_: int) -> Callable[[int], float]:
        assert (folder / "noise.npz").exists()
        return lambda round_: processes.append(processes_) or 1.0 / processes_  # type: ignore[func-returns-value]

    monkeypatch.setattr(growth, "runs", lambda folder, processes: started(folder, processes))
    picture = tmp_path / "growth.png"
    written = measure("growth", "--rounds", "2", "--epochs", "1", "--picture", str(picture))
    assert [[len(written[name]) for name in rows], processes] == [[2, 1, 1], [1, 2, 2, 1, 1, 2]]
    assert [point["relative_time_per_image"] for point in written["processes"]] == [1.0, 0.5]
    assert len(written["memory_bytes_after_epochs"]) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_turn_of_growth_begins_a_new_epoch(
    bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = bench("growth")
    monkeypatch.setattr(growth, "IMAGES_OF_A_TURN", 8)
    seen: list[float] = []
    monkeypatch.setattr(growth, "train_step", lambda job, state: seen.append(job.order.at(state.step)[0]))
    turn = growth.turns(images=16, classes=2, batch=8)
    assert all(turn(epoch) > 0 for epoch in range(3))
    assert seen == [0, 1, 2]


@pytest.mark.slow
def test_growth_trains_real_runs_under_torchrun(
    bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = bench("growth")
    monkeypatch.setattr(growth, "IMAGES_OF_A_TURN", 512)
    one, two = growth.processes_row(2, rounds=1)
    assert (one["processes"], two["processes"], one["relative_time_per_image"]) == (1, 2, 1.0)
    assert two["milliseconds_per_image"] > 0


def test_decode_needs_no_data_and_has_the_packed_images_beside_the_others(
    measure: Measure, bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench("decode"), "workers_compared", lambda *_, **__: {})
    written = measure("decode", "--rounds", "2", "--images", "2")
    assert written["generated"]
    assert written["kilobytes_packed"]["mosaic"] < 0.8 * written["kilobytes"]["mosaic"]
    for size in written["sizes"]["enlarged"].values():
        assert size["packed"]["ratio"] > 0


def test_packed_photographs_have_the_side_that_is_told(bench: Callable[[str], ModuleType]) -> None:
    decode = bench("decode")
    (packed,) = decode.as_packed(decode.photographs(None, 1)["mosaic"])
    opened = decode.open_image(packed)
    assert (opened.height, opened.width) == (256, 341)


def test_workers_are_compared_as_threads_and_as_processes(bench: Callable[[str], ModuleType]) -> None:
    decode = bench("decode")
    decode.by_threads(decode.photographs(None, 2)["mosaic"], 32, 1, 2)
    assert decode.kilobytes([b"x" * 500, b"x" * 1500]) == 1.0


def test_the_first_step_of_digits_is_the_first(bench: Callable[[str], ModuleType]) -> None:
    seconds, line = bench("start").told_of_first_step()
    assert "step 1/880" in line
    assert seconds > 0
