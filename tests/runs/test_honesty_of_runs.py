"""What a run says of itself is what happened, also after damage, beside another process, and with parts of one's own."""

import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import groundup
from groundup.basis.errors import CheckpointError, GroundupError, OutOfMemory, UsageError
from groundup.basis.files import sha256
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import ImageSet, Splits
from groundup.recipe import load_recipe
from groundup.runs import prepare
from groundup.runs.evaluate import Wanted, evaluate, evaluate_runs, json_of, text_of
from groundup.runs.folder import open_run_folder
from groundup.runs.summary import result_line
from groundup.runs.train import Run
from groundup.tracking import MetricsFile, Tracker, Trackers, read
from groundup.training import Engine


class Small(nn.Module):
    """A network of one's own for the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3)))


class Messages(Tracker):
    """What a person would have been told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_the_best_weights_are_kept_though_checkpoints_are_rarer_than_evaluations(
    tiny: list[str], tmp_path: Path
) -> None:
    overrides = [*tiny, "train.epochs=4", "evaluate={every: 1step, model: best}", "checkpoint.every=5step"]
    run = groundup.train("digits", overrides, run=tmp_path / "run")
    lines = read(run.folder / "metrics.jsonl")
    best = max(lines, key=lambda line: (line["validation_top1"], -line["step"]))
    assert run.summary["selected_on"] == f"validation: step {best['step']}"
    assert (run.folder / "checkpoints" / "best").resolve().name == f"step-{best['step']:07d}"
    assert evaluate(run.folder, split="validation").top1 == pytest.approx(best["validation_top1"])


def test_two_processes_do_not_train_one_run(finished: Run) -> None:
    folder = open_run_folder(finished.folder)
    with folder.locked(), pytest.raises(UsageError, match="another process is training it"), folder.locked():
        pass
    with folder.locked():
        pass
    assert not list(finished.folder.parent.glob(".*.lock"))


def test_a_checkpoint_from_before_a_recipe_key_existed_goes_on(copied: Path) -> None:
    (copied / "summary.json").unlink()
    state = copied / "checkpoints" / "last" / "state.pt"
    saved = torch.load(state, weights_only=True)
    del saved["recipe"]["train"]["deterministic"]
    torch.save(saved, state)
    sums = state.parent / "checksums.json"
    sums.write_text(json.dumps({**json.loads(sums.read_text()), "state.pt": sha256(state)}))
    assert groundup.resume(copied).summary["steps"] == 6


def test_damaged_final_weights_are_made_again_by_a_resume(copied: Path, finished: Run) -> None:
    weights = copied / "checkpoints" / "last" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match="resume"):
        groundup.load(copied)
    assert groundup.resume(copied).summary["top1"] == finished.summary["top1"]
    assert weights.read_bytes() == whole


def test_the_test_split_of_an_unfinished_run_is_not_read(copied: Path) -> None:
    (copied / "summary.json").unlink()
    with pytest.raises(UsageError, match="not finished"):
        evaluate(copied)
    assert evaluate(copied, split="validation").images == 50


def test_a_network_of_ones_own_is_named_in_summary_environment_and_card(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, "train.epochs=1"], run=tmp_path / "run", model=Small())
    assert run.summary["own"] == {"model": "Small"}
    assert json.loads((run.folder / "environment.json").read_text())["own"] == {"model": "Small"}
    card = (run.folder / "README.md").read_text()
    assert "| network | Small," in card
    assert "handed in from Python" in card


def test_a_machine_that_the_run_went_on_with_is_added_and_the_first_one_stays(copied: Path) -> None:
    (copied / "summary.json").unlink()
    path = copied / "environment.json"
    first = {**json.loads(path.read_text()), "cpu": "Another CPU"}
    path.write_text(json.dumps(first))
    summary = groundup.resume(copied).summary
    written = json.loads(path.read_text())
    assert written["cpu"] == "Another CPU"
    assert len(written["resumed_on"]) == 1
    assert summary["hardware"].startswith("Another CPU, then ")


def test_a_line_that_cannot_be_written_ends_the_run_before_it_is_forgotten(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "folder" / "metrics.jsonl")
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(OSError):
        Trackers([], essential=[metrics]).evaluation({"step": 1})


def test_a_compiled_network_that_disagrees_is_not_used_unless_it_was_asked_for(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = load_recipe("digits", tiny)
    splits = prepare.open_data(chosen, StopRequest())
    recipe = prepare.with_measured_constants(chosen, splits)
    plan = prepare.make_plan(recipe, splits)
    engine = Engine("cpu", 1, "fp32", True, True, "compiled")
    network = prepare.build_network(plan, engine)
    monkeypatch.setattr(prepare, "compile_network", lambda model: lambda images: 2 * model(images))
    job, _ = prepare.build_job(plan, engine, network, lambda: None)
    assert not job.engine.compiled
    assert "differs from the eager one" in job.engine.why
    assert job.forward is network
    always = recipe.train.model_copy(update={"compile": "always"})
    asked = prepare.make_plan(recipe.model_copy(update={"train": always}), splits)
    with pytest.raises(GroundupError, match="differs from the eager one"):
        prepare.build_job(asked, engine, network, lambda: None)


def test_a_compiled_run_that_diverges_goes_on_without_compiling_and_without_the_old_network_in_memory(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first: list[weakref.ref[nn.Module]] = []
    still_there: list[bool] = []
    build = prepare.build_network

    def compile_network(model: nn.Module) -> Callable[[Tensor], Tensor]:
        first.append(weakref.ref(model))
        passes = iter(range(10))
        return lambda images: model(images) * (1.0 if next(passes) < 5 else math.nan)

    def build_network(*arguments: Any) -> nn.Module:
        still_there.extend(network() is not None for network in first)
        return build(*arguments)

    monkeypatch.setattr(prepare, "compile_network", compile_network)
    monkeypatch.setattr("groundup.runs.train.build_network", build_network)
    run = groundup.train("digits", [*tiny, "train.compile=always"], run=tmp_path / "run")
    assert still_there == [False]
    assert not run.summary["compiled"]
    assert "going back to the last checkpoint and on without compiling" in capfd.readouterr().err
    plain = groundup.train("digits", tiny, run=tmp_path / "plain").summary
    assert (run.summary["top1"], run.summary["nll"]) == (plain["top1"], plain["nll"])


def test_a_network_of_ones_own_that_diverges_compiled_begins_again_as_it_was_given(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_network(model: nn.Module) -> Callable[[Tensor], Tensor]:
        passes = iter(range(10))
        return lambda images: model(images) * (1.0 if next(passes) < 3 else math.nan)

    def own() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    monkeypatch.setattr(prepare, "compile_network", compile_network)
    run = groundup.train("digits", [*tiny, "train.compile=always"], model=own(), run=tmp_path / "run")
    plain = groundup.train("digits", tiny, model=own(), run=tmp_path / "plain").summary
    assert (run.summary["top1"], run.summary["nll"]) == (plain["top1"], plain["nll"])
    assert plain["top1"] < 1


def test_an_operation_that_changes_nothing_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grey = ImageSet.whole(np.full((100, 12, 12, 3), 100, np.uint8), np.arange(100) % 2)
    splits = Splits(grey, None, grey, ["a", "b"], 12, fingerprint="own")
    overrides = ["model.width=8", "train={epochs: 1, batch_size: 50, threads: 1}", "augment.policy=[{name: flip}]"]
    groundup.train("digits", overrides, run=tmp_path / "run", data=splits)
    assert "flip changed none of the first images" in capfd.readouterr().err


AVERAGED = ["average={name: ema, horizon: 2step}"]


def test_a_run_with_an_average_reports_it_and_loads_it(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, *AVERAGED], run=tmp_path / "run")
    assert run.summary["weights"] == "average"
    last = run.folder / "checkpoints" / "last"
    assert evaluate(run.folder).top1 == run.summary["top1"]
    assert evaluate(run.folder, split="validation").top1 == pytest.approx(
        read(run.folder / "metrics.jsonl")[-1]["average_validation_top1"]
    )
    loaded = groundup.load(run.folder).model.state_dict()
    average, trained = (load_file(last / name) for name in ("average.safetensors", "model.safetensors"))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in average.items())
    assert not torch.equal(average["fc.weight"], trained["fc.weight"])
    assert not torch.equal(average["bn1.running_var"], trained["bn1.running_var"])


def test_the_average_may_be_left_out_of_the_report(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, *AVERAGED, "evaluate.weights=model"], run=tmp_path / "run")
    plain = groundup.train("digits", tiny, run=tmp_path / "plain")
    assert (run.summary["weights"], run.summary["top1"]) == ("model", plain.summary["top1"]), (
        "averaging changes nothing"
    )


def test_a_damaged_average_is_made_again_by_a_resume(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, *AVERAGED], run=tmp_path / "run")
    weights = run.folder / "checkpoints" / "last" / "average.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match=r"average\.safetensors: damaged"):
        groundup.load(run.folder)
    assert groundup.resume(run.folder).summary["top1"] == run.summary["top1"]
    assert weights.read_bytes() == whole


def test_a_run_that_chose_on_test_says_so_everywhere(tiny: list[str], tmp_path: Path) -> None:
    optimistic = [*tiny, "data.validation=0", "evaluate={model: best, optimistic: true}"]
    run = groundup.train("digits", optimistic, run=tmp_path / "run")
    lines = read(run.folder / "metrics.jsonl")
    assert all(line["validation_is_test"] for line in lines)
    assert run.summary["optimistic"] is True
    assert run.summary["top1"] == pytest.approx(max(line["validation_top1"] for line in lines))
    assert run.summary["selected_on"].startswith("test (optimistic): step ")
    assert "OPTIMISTIC" in result_line(run.summary)
    assert "The accuracy is optimistic" in (run.folder / "README.md").read_text()
    honest = groundup.train("digits", [*tiny, "data.validation=0"], run=tmp_path / "honest")
    reports = evaluate_runs([run.folder, honest.folder], Wanted(), StopRequest())
    said = "\n".join(text_of(reports))
    assert "OPTIMISTIC: the run was chosen on the test split" in said
    assert "run (chosen on test)" in said
    assert [one["optimistic"] for one in json_of(reports)["runs"]] == [True, False]


def test_looking_at_test_without_choosing_by_it_is_not_optimistic(tiny: list[str], tmp_path: Path) -> None:
    run = groundup.train("digits", [*tiny, "data.validation=0", "evaluate.optimistic=true"], run=tmp_path / "run")
    assert (run.summary["optimistic"], run.summary["selected_on"]) == (False, "nothing: the last step")


def test_a_run_that_stopped_early_says_when_and_why(tiny: list[str], tmp_path: Path) -> None:
    target, seen = "stop={target: {metric: train_loss, value: 50}}", Messages()
    run = groundup.train("digits", [*tiny, target], run=tmp_path / "run", terminal=seen)
    assert (run.summary["steps"], run.summary["epochs"]) == (3, 1)
    assert run.summary["ended"].startswith("target: train_loss")
    assert f"ended at step 3 of 6: {run.summary['ended']}" in seen.said
    assert f"; ended at step 3 ({run.summary['ended']}); " in result_line(run.summary)
    assert groundup.resume(run.folder).summary == run.summary
    stopped = groundup.train("digits", [*tiny, "stop={early: {patience: 1ep, min_gain: 0.99}}"], run=tmp_path / "early")
    assert stopped.summary["selected_on"] == "nothing: the last step; the end followed validation"


def test_a_run_that_ended_before_its_average_began_says_so_in_its_result(tiny: list[str], tmp_path: Path) -> None:
    early = [
        "train.epochs=10",
        "average={name: swa, start: 8ep}",
        "stop={early: {metric: train_loss, patience: 1ep, min_gain: 50}}",
    ]
    run = groundup.train("digits", [*tiny, *early], run=tmp_path / "run")
    assert run.summary["steps"] == 6
    line = result_line(run.summary)
    assert "ended at step 6 (early: train_loss has not got better than" in line
    assert "before its average had a sample: the trained weights are reported; " in line


def test_a_run_of_its_full_length_says_nothing_of_an_end(finished: Run) -> None:
    line = result_line(finished.summary)
    assert "ended" not in line
    assert "average" not in line


def test_the_result_on_test_stands_beside_the_curves(finished: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished.folder / "tensorboard")).Reload()
    (event,) = board.Scalars("test/top1")
    assert (event.step, event.value) == (finished.summary["steps"], pytest.approx(finished.summary["top1"]))
    (event,) = board.Scalars("test/loss")
    assert event.value == pytest.approx(finished.summary["nll"])


def test_a_run_goes_on_with_its_pixels_kept_elsewhere(copied: Path, finished: Run) -> None:
    (copied / "summary.json").unlink()
    recipe = copied / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("cache: device", "cache: disk"))
    assert "cache: disk" in recipe.read_text()
    assert groundup.resume(copied).summary["top1"] == finished.summary["top1"]


def test_out_of_memory_ends_with_what_to_change(tiny: list[str], tmp_path: Path) -> None:
    class Greedy(Small):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                torch.empty(2**60)  # more than any machine has
            return super().forward(images)

    with pytest.raises(OutOfMemory) as caught:
        groundup.train("digits", tiny, run=tmp_path / "run", model=Greedy())
    assert "train.micro_batch" in str(caught.value.hint)


def test_damaged_best_weights_are_made_again_by_a_resume(tiny: list[str], tmp_path: Path) -> None:
    best = [*tiny, "train.epochs=4", "evaluate.model=best", "evaluate.every=1step"]
    run = groundup.train("digits", best, run=tmp_path / "run")
    weights = run.folder / "checkpoints" / "best" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"damaged!")
    with pytest.raises(CheckpointError, match="resume"):
        groundup.load(run.folder)
    again = groundup.resume(run.folder).summary
    assert (again["top1"], again["selected_on"]) == (run.summary["top1"], run.summary["selected_on"])
    assert (run.folder / "checkpoints" / "best" / "model.safetensors").read_bytes() == whole


def test_a_run_goes_on_with_other_trackers_and_another_description(copied: Path, finished: Run) -> None:
    (copied / "summary.json").unlink()
    recipe = copied / "recipe.yaml"
    changed = recipe.read_text().replace("tensorboard: true", "tensorboard: false").replace("about: ", "about: New. ")
    assert changed != recipe.read_text()
    recipe.write_text(changed)
    assert groundup.resume(copied).summary["top1"] == finished.summary["top1"]


def test_a_run_that_ended_before_its_average_began_says_whose_weights_it_reports(
    tiny: list[str], tmp_path: Path
) -> None:
    late = ["average={name: swa, start: 4step, every: 1step}", "stop={target: {metric: train_loss, value: 50}}"]
    run = groundup.train("digits", [*tiny, *late], run=tmp_path / "run")
    assert run.summary["weights"] == "model"
    assert "before its average had a sample: the trained weights are reported" in run.summary["notes"][-1]


def test_a_run_with_phases_goes_on(tiny: list[str], tmp_path: Path) -> None:
    phases = ["phases=[{from: 2step, set: {loss.label_smoothing: 0.1}}, {from: 1ep, set: {mix: {methods: []}}}]"]
    whole = groundup.train("digits", [*tiny, *phases], run=tmp_path / "whole")
    with pytest.raises(Interrupted):
        groundup.train("digits", [*tiny, *phases], run=tmp_path / "stopped", max_seconds=1e-9)
    assert groundup.resume(tmp_path / "stopped").summary["top1"] == whole.summary["top1"]
    state = whole.folder / "checkpoints" / "last" / "state.pt"
    assert torch.load(state, weights_only=True)["recipe"]["phases"][0] == {
        "from": "2step",
        "set": {"loss.label_smoothing": 0.1},
    }


def test_a_checkpoint_that_wrote_null_for_what_a_phase_leaves_alone_goes_on(tiny: list[str], tmp_path: Path) -> None:
    phases = ["phases=[{from: 2step, set: {loss.label_smoothing: 0.1}}]"]
    run = groundup.train("digits", [*tiny, *phases], run=tmp_path / "run")
    (run.folder / "summary.json").unlink()
    state = run.folder / "checkpoints" / "last" / "state.pt"
    saved = torch.load(state, weights_only=True)
    saved["recipe"]["phases"][0]["set"]["train.resolution"] = None
    torch.save(saved, state)
    sums = state.parent / "checksums.json"
    sums.write_text(json.dumps({**json.loads(sums.read_text()), "state.pt": sha256(state)}))
    assert groundup.resume(run.folder).summary["top1"] == run.summary["top1"]


def test_evaluating_a_split_or_a_section_that_does_not_exist_is_refused(finished: Run) -> None:
    for split in ("fingerprint", "classes", "tset"):
        with pytest.raises(UsageError, match=f"--split {split}: this run has no such split"):
            evaluate(finished.folder, split=split)
    with pytest.raises(UsageError, match="calibraton"):
        evaluate(finished.folder, sections=("calibraton",))
