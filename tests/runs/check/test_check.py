"""The check before a run: what it measures against what runs really did, the networks that it has to find fault with, and
the part of it that opens every run."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import groundup
from groundup.basis.errors import UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.models import build_model
from groundup.recipe import load_recipe
from groundup.runs.check.checking import Report, check
from groundup.runs.check.pictures import setting_curves
from groundup.runs.cost.measure import differing, without_waiting
from groundup.runs.prepare import make_plan, open_data, with_measured_constants
from groundup.runs.train import Run
from groundup.training import Job, TrainingState, train_step


def codes(found: Report) -> set[str]:
    return {finding.code for finding in found.findings}


def test_the_pflop_are_those_that_the_run_then_counts(report: Report, finished: Run) -> None:
    assert report.cost.train_flops / 1e15 == pytest.approx(finished.summary["pflop"], rel=1e-12)
    assert report.parameters == finished.summary["parameters"]


def test_the_disk_is_that_which_the_run_then_takes(report: Report, finished: Run) -> None:
    folders = list((finished.folder / "checkpoints").glob("step-*"))
    taken = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
    assert report.cost.disk.checkpoint == pytest.approx(max(taken), rel=0.25)  # names and counters come on top
    assert report.cost.disk.kept >= len(folders)


def test_what_is_evaluated_is_counted(report: Report, finished: Run) -> None:
    # 2 evaluations of 50 images, and the test split at the end.
    one = finished.summary["evaluation_pflop"] / finished.summary["images"]
    assert report.cost.evaluation_flops / 1e15 == pytest.approx(one * (2 * 50 + finished.summary["images"]), rel=1e-9)


def test_the_time_of_a_step_is_a_step_of_the_clock(report: Report) -> None:
    (seconds,) = report.cost.step_seconds.values()
    assert 0 < seconds < 60
    assert report.cost.seconds == pytest.approx(6 * seconds)
    assert report.cost.how.startswith(("median of 3 steps of 50 images", "extrapolated from a pass of"))


def test_a_network_that_can_learn_begins_as_it_should(report: Report) -> None:
    assert report.start.reference == pytest.approx(math.log(10), abs=1e-4)  # also under label smoothing 0.1
    assert report.start.loss == pytest.approx(math.log(10), rel=0.4)
    assert (report.start.unreached, report.start.differing) == ((), ())
    assert report.start.overfit[-1] < report.start.overfit[0] / 4
    assert not {code for code in codes(report) if code.startswith("GU7")}


def test_the_memory_grows_with_the_batch_and_holds_the_weights(report: Report, tiny: list[str]) -> None:
    memory = report.cost.memory
    assert memory.fixed["weights"] >= 4 * report.parameters
    assert memory.fixed["images"] == (150 + 50 + 359) * 8 * 8 * 3
    assert memory.images == 50
    # The first convolution alone keeps an output of 8 x 8 x 8 floats an image.
    assert memory.per_image > 8 * 8 * 8 * 4
    parts = check(load_recipe("digits", [*tiny, "train.micro_batch=10"])).cost.memory
    assert parts.images == 10
    assert parts.per_image == memory.per_image


def test_every_input_size_of_the_run_is_measured_and_sam_costs_twice(tiny: list[str], report: Report) -> None:
    phase = "phases=[{from: 1ep, set: {train.resolution: 16}}]"
    averaged = [
        "optimizer.sam={from: 1ep}",
        "average={name: swa, start: 1ep, every: 1step}",
        "schedule.cycle_momentum=true",
    ]
    found = check(load_recipe("digits", [*tiny, phase, *averaged]))
    assert set(found.cost.step_seconds) == {8, 16}
    small, large = found.job.flops[8], found.job.flops[16]
    assert found.cost.train_flops == 3 * 50 * (3 * small + 2 * 3 * large)
    assert found.cost.seconds == pytest.approx(3 * found.cost.step_seconds[8] + 6 * found.cost.step_seconds[16])
    assert {"average", "copy for SAM"} <= found.cost.memory.fixed.keys()
    assert found.cost.disk.checkpoint > 1.4 * report.cost.disk.checkpoint
    assert found.cost.memory.per_image > 3 * report.cost.memory.per_image
    assert set(setting_curves(found.plan)) == {"learning rate", "momentum", "input size (px)"}


def test_nothing_is_changed_and_no_run_folder_is_made(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(load_recipe("digits", tiny))
    assert list(tmp_path.iterdir()) == []


def test_a_curve_shows_how_strong_mixing_and_operations_are_where_phases_change_it(tiny: list[str]) -> None:
    recipe = load_recipe(
        "digits",
        [
            *tiny,
            "mix.methods=[{name: mixup, alpha: 0.2}]",
            "augment.policy=[{name: pad_crop, pad: 1}, {name: coarse_dropout, p: 0.5}, {name: random_rotation, p: 0.4}]",
            "phases=[{from: 1ep, set: {mix: {methods: [{name: mixup, alpha: 0.1}]}, "
            "augment.policy: [{name: coarse_dropout, p: 0.3}, {name: random_rotation, p: 0.4}]}}]",
        ],
    )
    splits = open_data(recipe, StopRequest())
    curves = setting_curves(make_plan(with_measured_constants(recipe, splits), splits))
    assert set(curves) == {"learning rate", "operations of the policy", "p of coarse_dropout", "alpha of mixup"}
    assert [curves[name][1] for name in ("p of coarse_dropout", "alpha of mixup")] == [
        [0.5, 0.5, 0.5, 0.3, 0.3, 0.3],
        [0.2, 0.2, 0.2, 0.1, 0.1, 0.1],
    ]


def test_steps_are_measured_with_the_dropout_of_the_run(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = "model={name: resnet18, stem: small, width: 8, dropout: 0.3, head_dropout: 0.2, stochastic_depth: 0.1}"
    recipe = load_recipe("digits", [*tiny, model])
    expected = shares(build_model(recipe.model, num_classes=10, seed=0))
    assert {0.3, 0.2, 0.1} <= set(expected)
    seen = []

    def watched(job: Job, state: TrainingState) -> Tensor:
        seen.append(shares(state.model))
        return train_step(job, state)

    monkeypatch.setattr("groundup.runs.cost.measure.train_step", watched)
    monkeypatch.setattr("groundup.runs.cost.measure._PATIENCE", math.inf)
    assert check(recipe).start.unreached == ()
    assert seen
    assert all(now == expected for now in seen)


def shares(network: nn.Module) -> list[float]:
    return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]


def test_it_can_be_interrupted(tiny: list[str]) -> None:
    with pytest.raises(Interrupted):
        check(load_recipe("digits", tiny), stop=StopRequest(max_seconds=0))


@pytest.mark.parametrize(
    ("override", "reference"),
    [
        ("loss={name: binary_cross_entropy}", 10 * math.log(2)),
        ("loss={name: cross_entropy, label_smoothing: 0.4, class_weights: balanced}", math.log(10)),
        ("mix={methods: [{name: mixup, alpha: 1.0}]}", math.log(10)),
    ],
)
def test_the_first_loss_is_measured_against_the_right_reference(
    override: str, reference: float, tiny: list[str]
) -> None:
    found = check(load_recipe("digits", [*tiny, override]))
    assert found.start.reference == pytest.approx(reference, rel=0.02)
    assert "GU701" not in codes(found)


def test_blocks_that_begin_at_zero_are_not_taken_for_unreached(tiny: list[str]) -> None:
    found = check(load_recipe("digits", [*tiny, "model.zero_init_residual=true"]))
    assert found.start.unreached == ()


def test_a_branch_that_chance_left_out_is_not_taken_for_unreached(tiny: list[str]) -> None:
    # Every branch of 8 images is left out with a chance of 0.95^8 at the last block.
    found = check(load_recipe("digits", [*tiny, "model.stochastic_depth=0.95"]))
    assert found.start.unreached == ()


class Net(nn.Module):
    """A small network of one's own; the tests spoil it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


class Detached(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).detach())


class Loud(Net):
    def forward(self, images: Tensor) -> Tensor:
        return 100 * super().forward(images)


class Infinite(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).abs().neg().log()


class Blind(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.ones_like(images) * images.mean())


@pytest.mark.parametrize(
    ("network", "code", "named"),
    [
        (Unused, "GU703", ["spare.weight", "spare.bias"]),
        (Detached, "GU703", ["body.0.weight", "body.0.bias"]),
        (Loud, "GU701", ["a network that knows nothing about 10 classes pays 2.303"]),
        (Infinite, "GU702", ["nan"]),
        (Blind, "GU704", ["less than a factor of 4"]),
    ],
)
def test_a_network_of_ones_own_that_cannot_learn(
    network: Callable[[], nn.Module], code: str, named: list[str], tiny: list[str]
) -> None:
    torch.manual_seed(0)
    found = check(load_recipe("digits", tiny), model=network(), learn_by_heart=code == "GU704")
    (finding,) = [finding for finding in found.findings if finding.code.startswith("GU7")]
    assert finding.code == code
    for part in named:
        assert part in finding.saw
    assert "frozen" not in finding.saw


def test_a_good_network_of_ones_own_has_no_finding_about_its_start(tiny: list[str]) -> None:
    torch.manual_seed(0)
    found = check(load_recipe("digits", tiny), model=Net())
    assert not {code for code in codes(found) if code.startswith("GU7")}


def test_networks_with_other_weights_differ_by_name() -> None:
    torch.manual_seed(0)
    first, second = Net(), Net()
    assert differing(first, first) == ()
    second.load_state_dict(first.state_dict())
    second.head.bias.data += 1
    assert differing(first, second) == ("head.bias",)


def test_a_network_that_does_not_fit_the_data_is_refused(tiny: list[str]) -> None:
    network = Net()
    network.head = nn.Linear(32, 9)
    with pytest.raises(UsageError, match="GU203"):
        check(load_recipe("digits", tiny), model=network)


def test_the_waiting_for_a_core_is_taken_off() -> None:
    assert without_waiting(8.0, (100, 50), (150, 200)) == 8.0 * 50 / 200
    assert without_waiting(8.0, (100, 50), (150, 50)) == 8.0
    assert without_waiting(8.0, (0, 0), (0, 0)) == 8.0  # nobody tells


# The findings: left out, told, and what opens a run

OPTIMISTIC = ["data.validation=0", "evaluate={optimistic: true, model: best}"]


def nine_outputs(tiny: list[str]) -> nn.Module:
    """A network of one's own with an output less than digits has classes: an error of the static checks."""
    return build_model(load_recipe("digits", tiny).model, num_classes=9, seed=0)


def test_a_code_that_is_meant_is_left_out_and_told_to_be(tiny: list[str]) -> None:
    loud = check(load_recipe("digits", [*tiny, *OPTIMISTIC]))
    assert "GU501" in codes(loud)
    assert loud.count("error") == 1
    quiet = check(load_recipe("digits", [*tiny, *OPTIMISTIC, "check.ignore=[GU501]"]))
    assert "GU501" not in codes(quiet)
    assert [finding.code for finding in quiet.ignored] == ["GU501"]
    assert quiet.lines()[-1].startswith("no errors")
    assert quiet.lines()[-1].endswith("1 left out by check.ignore")


def test_a_code_that_does_not_exist_is_refused_with_the_nearest(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"check\.ignore\.1=.GU05.") as caught:
        check(load_recipe("digits", [*tiny, "check.ignore=[GU501, GU05]"]))
    assert caught.value.hint is not None
    assert "did you mean 'GU" in caught.value.hint
    with pytest.raises(UsageError, match=r"check\.ignore\.0=.GU999."):
        groundup.train("digits", [*tiny, "check.ignore=[GU999]"], run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_lines_for_the_terminal_name_code_value_and_mend(tiny: list[str]) -> None:
    lines = check(load_recipe("digits", [*tiny, *OPTIMISTIC, "cost.per_hour=3.5"])).lines()
    assert lines[0].startswith("digits: 200 training images of 8 px, 10 classes")
    at = next(place for place, line in enumerate(lines) if line.startswith("error   GU501"))
    assert "evaluate.optimistic=true" in lines[at]
    assert lines[at + 1] == "        mend: evaluate.optimistic=false data.validation=0.1"
    assert any("at 3.5 an hour" in line for line in lines)
    assert len(lines) < 40


def test_everything_is_there_as_plain_values(report: Report) -> None:
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["recipe"] == "digits"
    assert plain["cost"]["pflop"] == report.cost.train_flops / 1e15
    assert plain["errors"] == 0
    assert all(finding.keys() == {"code", "level", "saw", "mend", "title", "why"} for finding in plain["findings"])
    assert len(plain["findings"]) == plain["warnings"] + plain["notes"]


def test_an_error_ends_a_run_before_it_begins_and_names_code_and_fix(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        groundup.train("digits", tiny, model=nine_outputs(tiny), run=tmp_path / "run")
    assert "GU203" in str(caught.value)
    assert "check.ignore=[GU203]" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_the_recipe_asks_for_by_name_is_told_and_done(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        groundup.train("digits", [*tiny, *OPTIMISTIC], run=tmp_path / "run", max_seconds=0)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("GU501 error: ")]
    assert "mend: evaluate.optimistic=false data.validation=0.1" in line
    assert line.endswith("`groundup check` explains")
    # GU202, a note, is not worth a line.
    assert "GU202" not in capsys.readouterr().err
    assert "GU501" in codes(check(load_recipe("digits", [*tiny, *OPTIMISTIC])))
    groundup.resume(tmp_path / "run")
    assert "GU501" not in capsys.readouterr().err


def test_a_run_that_has_begun_is_never_refused(tiny: list[str], tmp_path: Path) -> None:
    ignored, model = [*tiny, "check.ignore=[GU203]"], nine_outputs(tiny)
    with pytest.raises(Interrupted):
        groundup.train("digits", ignored, model=model, run=tmp_path / "run", max_seconds=0)
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("- GU203", "- GU201"))
    with pytest.raises(Interrupted):
        # Neither the finding nor the changed list stands in the way; time does.
        groundup.resume(tmp_path / "run", model=model, max_seconds=0)
