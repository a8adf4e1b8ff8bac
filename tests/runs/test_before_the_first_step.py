"""What ends a run, or changes how it is made, before its first step: batches that torch refuses, hardware and compilers that are
not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import groundup
from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.models.regularization import BlockDropout
from groundup.recipe import load_recipe
from groundup.runs import prepare
from groundup.runs.check.checking import check
from groundup.runs.cost.bench import bench
from groundup.runs.lr_find import lr_find
from groundup.training import Engine, LiveSchedule, LiveValues, World, train_step

LONE = r"^GU20[45] .*sees one value per channel"


class Small(nn.Module):
    """A network of one's own for the digits, quick to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3)))


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.batch_size=1"],
        ["train.batch_size=33", "train.micro_batch=32"],
        ["train.batch_size=149", "train.drop_last=false"],
        ["train.batch_size=1", "check.ignore=[GU204]"],
    ],
)
def test_one_image_per_pass_is_refused_with_overrides_that_train(
    overrides: list[str], tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=LONE) as caught:
        groundup.train("digits", [*tiny, *overrides], run=tmp_path / "run")
    assert caught.value.hint is not None
    assert "check.ignore" not in caught.value.hint
    assert not (tmp_path / "run").exists()
    mended = [*tiny, *overrides, *caught.value.hint.split(), "train.epochs=0.7"]
    assert groundup.train("digits", mended, run=tmp_path / "run", pictures=False).summary["steps"] >= 1


@pytest.mark.parametrize("command", [check, bench, lr_find])
def test_one_image_per_pass_is_refused_where_nothing_is_trained_too(command: object, tiny: list[str]) -> None:
    assert callable(command)
    with pytest.raises(UsageError, match=LONE):
        command(load_recipe("digits", [*tiny, "train.batch_size=1"]))


MISSING = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both


@pytest.mark.parametrize(
    "overrides",
    [[f"train.device={MISSING}"], ["train.precision=fp16", "train.device=cpu"], ["train.device=gpu"]],
    ids=["device", "precision", "no device"],
)
def test_hardware_that_is_not_there_is_refused_before_the_data_is_opened(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{overrides[0].partition('=')[0]}="):
        groundup.train("digits", [*overrides, "data.source=folder:nowhere"], run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_compiler_a_run_is_eager_and_says_why_unless_compiling_was_asked_for(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing that was compiled before
    chosen = load_recipe("digits", tiny)
    splits = prepare.open_data(chosen, StopRequest())
    recipe = prepare.with_measured_constants(chosen, splits)
    always = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": "always"})})
    engine = Engine("cpu", 1, "fp32", True, True, "compiled")
    with inductor.patch({"cpp.cxx": (None, "/nonexistent/g++")}):
        plan = prepare.make_plan(recipe, splits)
        network = prepare.build_network(plan, engine, Small())
        job, _ = prepare.build_job(plan, engine, network, lambda: None)
        assert not job.engine.compiled
        assert job.forward is network
        assert job.engine.why.startswith("eager: train.compile: at 8 px the network could not be compiled: ")
        assert "No working C++ compiler" in job.engine.why
        assert "\n" not in job.engine.why
        with pytest.raises(GroundupError, match="could not be compiled") as caught:
            prepare.build_job(prepare.make_plan(always, splits), engine, network, lambda: None)
    assert caught.value.hint is not None
    assert "train.compile=never" in caught.value.hint


def compiled_or_not(tiny: list[str], network: nn.Module, stop: StopRequest) -> Engine:
    """The engine after an attempt to compile `network`, which `stop` may end."""
    engine = Engine("cpu", 1, "fp32", True, True, "compiled")
    images = [torch.zeros(2, 3, 8, 8)]
    recipe = load_recipe("digits", tiny)
    live = LiveSchedule(LiveValues(8, (), 0.0), ())
    return prepare._compiled_if_it_agrees(recipe, network, engine, images, stop.check, stop.at_once, live)[0]


def test_a_fault_of_the_network_itself_is_not_laid_at_the_compilers_door(tiny: list[str]) -> None:
    class Broken(Small):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("a fault of its own")

    with pytest.raises(ValueError, match="a fault of its own"):
        compiled_or_not(tiny, Broken(), StopRequest())


def test_a_request_to_stop_during_compiling_is_no_failure_of_it(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()

    def asked_meanwhile(images: Tensor) -> Tensor:
        stop.request("asked to")
        raise RuntimeError("what a compiler makes of it")

    monkeypatch.setattr(prepare, "compile_network", lambda model: asked_meanwhile)
    with pytest.raises(Interrupted, match="asked to"):
        compiled_or_not(tiny, Small(), stop)


class Second(World):
    """The second of three processes."""

    rank, size = 1, 3  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("train", "world", "counts"),
    [
        ({}, World(), [50]),
        ({"drop_last": False, "batch_size": 40}, World(), [40, 30]),
        ({"micro_batch": 20}, World(), [20, 10]),
        ({}, Second(), [17]),
        ({"drop_last": False, "batch_size": 40, "micro_batch": 8}, Second(), [8, 5, 2]),
    ],
)
def test_the_shapes_that_are_compiled_beforehand_are_those_of_this_process(
    train: dict[str, Any], world: World, counts: list[int], tiny: list[str]
) -> None:
    recipe = load_recipe("digits", [*tiny, *(f"train.{key}={value}" for key, value in train.items())])
    splits = prepare.open_data(recipe, StopRequest())
    plan = prepare.make_plan(prepare.with_measured_constants(recipe, splits), splits)
    assert prepare.forward_counts(plan, world) == counts


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_network_gets_images_in_the_order_that_the_recipe_names(channels_last: bool, tiny: list[str]) -> None:
    recipe = load_recipe("digits", [*tiny, f"train.channels_last={channels_last}"])
    splits = prepare.open_data(recipe, StopRequest())
    plan = prepare.make_plan(prepare.with_measured_constants(recipe, splits), splits)
    job, state = prepare.first_job(plan, lambda: None)
    seen: list[tuple[bool, bool]] = []
    convolution = next(module for module in state.model.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_pre_hook(
        lambda layer, inputs: seen.append(
            (inputs[0].is_contiguous(), layer.weight.is_contiguous(memory_format=torch.channels_last))
        )
    )
    train_step(job, state)
    assert job.evaluate is not None
    job.evaluate(state.model)
    assert set(seen) == {(not channels_last, channels_last)}


class Shared(World):
    """One of two processes of which the first has the larger half."""

    size, is_shared = 2, True  # type: ignore[assignment]

    def __init__(self, rank: int) -> None:
        self.rank = rank  # type: ignore[misc]


def test_synchronised_norms_have_as_many_shapes_looked_at_in_every_process(tiny: list[str]) -> None:
    """The norms of each wait for the others: a shape that one leaves out because it had it already would leave them waiting."""
    train = ["train.batch_size=14", "train.micro_batch=6", "train.drop_last=false", "train.sync_batch_norm=true"]
    recipe = load_recipe("digits", [*tiny, "data.limit=71", *train])
    splits = prepare.open_data(recipe, StopRequest())
    plan = prepare.make_plan(prepare.with_measured_constants(recipe, splits), splits)
    assert len(splits.train) % 14 == 11
    assert [prepare.forward_counts(plan, Shared(rank)) for rank in (0, 1)] == [[6, 1, 6], [6, 1, 5]]


class Dropping(nn.Module):
    """Batch norm, dropout that phases change, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BlockDropout(0.1), nn.ReLU())
        self.head = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


@torch._dynamo.config.patch(
    automatic_dynamic_shapes=False
)  # pytest's own patching would hide the key from those who come later
def test_nothing_is_compiled_once_a_run_trains(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = 0

    def counting(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
        found: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, backend=counting)
        return found

    monkeypatch.setattr(prepare, "compile_network", compiled)
    phases = "phases=[{from: 0.3dur, set: {model.dropout: 0.3}}, {from: 0.6dur, set: {model.dropout: 0.2}}]"
    recipe = load_recipe(
        "digits", [*tiny, "train.batch_size=40", "train.drop_last=false", phases, "optimizer.sam={rho: 0.05}"]
    )
    splits = prepare.open_data(recipe, StopRequest())
    plan = prepare.make_plan(prepare.with_measured_constants(recipe, splits), splits)
    engine = Engine("cpu", 1, "fp32", True, True, "compiled")
    network = Dropping()
    job, state = prepare.build_job(plan, engine, network, lambda: None)
    assert [module.p for module in network.modules() if isinstance(module, BlockDropout)] == [0.1]
    assert graphs == 2 * 3  # 40 and 30 images; dropout 0, 0.3 and 0.2
    for _ in range(plan.clock.total_steps):
        train_step(job, state)
    assert state.step == plan.clock.total_steps == 8
    assert graphs == 2 * 3
