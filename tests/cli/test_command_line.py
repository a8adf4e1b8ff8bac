"""The commands: their help, their exit status, and what they print. They run in this process; tests/system starts real ones."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import groundup
from groundup.cli.main import _rank, main

COMMANDS = [
    "recipes",
    "check",
    "train",
    "resume",
    "evaluate",
    "predict",
    "bench",
    "lr-find",
    "report",
    "export",
    "launch",
]
TINY = ["model.width=8", "train.epochs=1", "train.batch_size=50", "train.threads=1", "data.limit=200"]

Groundup = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Groundup:
    """command("train", "digits"): exit status, standard output, standard error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["groundup", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Path:
    """A finished run of one epoch."""
    return groundup.train("digits", TINY, run=tmp_path_factory.mktemp("runs") / "tiny").folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A grey PNG of 8 px."""
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_help_lists_every_command(command: Groundup) -> None:
    status, out, _ = command("--help")
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, command: Groundup) -> None:
    status, out, _ = command(name, "--help")
    assert status == 0
    assert f"Example: groundup {name}" in out


def test_neither_the_package_nor_its_help_imports_torch() -> None:
    code = (
        "import sys; import groundup; import groundup.cli.main; assert 'torch' not in sys.modules\n"
        "sys.argv = ['groundup', '--help']\n"
        "try: groundup.cli.main.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'pydantic', 'PIL', 'pyarrow', 'datasets'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_grow_only_by_decision() -> None:
    assert groundup.__all__ == ["__version__", "evaluate", "load", "publish", "resume", "train"]
    assert all(getattr(groundup, name) for name in groundup.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        groundup.fit  # noqa: B018


def test_recipes_lists_the_library_with_the_claims(command: Groundup) -> None:
    status, out, _ = command("recipes")
    assert status == 0
    for name in ("digits", "cifar100-speed", "cifar100-wrn28-10"):
        assert any(line.startswith(f"{name} ") for line in out.splitlines())
    listed = json.loads(command("recipes", "--json")[1])
    assert listed["cifar100-wrn28-10"]["claim"]["top1"] == 0.8115


def test_recipes_says_whose_a_figure_is_and_where_it_was_chosen_on_test(command: Groundup) -> None:
    lines = command("recipes")[1].splitlines()
    assert lines[0].split() == ["recipe", "test", "top-1", "figure", "about"]
    said = {line.split()[0]: line for line in lines[1:]}
    assert "  81.15%  of the source  " in said["cifar100-wrn28-10"]
    assert "  81.36%  of the source, chosen on test  " in said["001-as-run"]
    assert "  78.40%  of the source, mirror images averaged in  " in said["imagenet-resnet50-88ep"]
    assert "  78.05%  of the source, trained with LAMB  " in said["imagenet-resnet50-a3"]
    assert "  98.79%  measured here, chosen on test  " in said["digits"]
    assert said["001"].split()[1:3] == ["-", "-"]
    assert json.loads(command("recipes", "--json")[1])["001"]["figure"] is None


def test_recipes_prints_one_recipe(command: Groundup) -> None:
    status, out, _ = command("recipes", "digits")
    assert status == 0
    assert "source: digits" in out
    assert json.loads(command("recipes", "digits", "--json")[1])["data"]["source"] == "digits"


def test_train_prints_the_result_with_its_interval_and_where_it_lies(
    command: Groundup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = command("train", "digits", *TINY)
    assert status == 0
    result, folder = out.splitlines()
    assert result.startswith("test top-1 ")
    assert "95% interval" in result
    assert "359 images" in result
    assert folder == "runs/digits-001"
    assert "step 4/4" in err


def test_train_gives_its_summary_as_json(command: Groundup, tmp_path: Path) -> None:
    status, out, _ = command("train", "digits", *TINY, "--run", tmp_path / "run", "--json")
    assert status == 0
    summary = json.loads(out)
    assert summary.pop("run") == str(tmp_path / "run")
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_resume_of_a_finished_run_gives_its_result_again(command: Groundup, run: Path) -> None:
    status, out, _ = command("resume", run)
    assert status == 0
    assert out.startswith("test top-1 ")
    assert json.loads(command("resume", run, "--json")[1])["steps"] == 4


def test_time_that_is_up_is_no_error_and_the_message_says_how_to_go_on(command: Groundup, tmp_path: Path) -> None:
    status, out, err = command("train", "digits", *TINY, "--run", tmp_path / "run", "--max-time", "0.001s")
    assert (status, out) == (0, "")
    assert f"stopped: --max-time is up; `groundup resume {tmp_path / 'run'}` goes on with the run" in err
    assert command("resume", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("options", [[], ["--tta", "flip"], ["--split", "train"]])
def test_evaluate_prints_the_report(options: list[str], command: Groundup, run: Path) -> None:
    status, out, _ = command("evaluate", run, *options)
    assert status == 0
    assert "top-1" in out
    assert "hardest classes" in out
    assert json.loads(command("evaluate", run, *options, "--json")[1])["images"] in (359, 200)


def test_predict_prints_names_and_probabilities(command: Groundup, run: Path, picture: Path) -> None:
    status, out, _ = command("predict", run, picture)
    assert status == 0
    first, *answers = out.splitlines()
    assert first == str(picture)
    assert len(answers) == 5
    assert all("%" in answer for answer in answers)
    found = json.loads(command("predict", run, picture, "--json")[1])
    assert found["answers"][str(picture)][0].keys() == {"class", "probability"}
    assert (found["temperature"], found["bad"]) == (None, {})


def test_predict_answers_the_pictures_that_can_be_read_and_names_the_others(
    command: Groundup, run: Path, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    status, out, err = command("predict", run, picture, tmp_path / "bad.png", "--json")
    found = json.loads(out)
    assert status == 1
    assert found["answers"].keys() == {str(picture)}
    assert found["bad"] == {str(tmp_path / "bad.png"): "not an image in a format that Pillow reads"}
    assert f"{tmp_path / 'bad.png'}: not an image in a format that Pillow reads\nhint: save it anew as PNG" in err
    assert "on_bad_image" not in err
    status, out, _ = command("predict", run, tmp_path / "bad.png", picture)
    assert (status, out.splitlines()[0], "%" in out) == (1, str(picture), True)


def test_bench_prints_speed_and_where_the_time_goes(command: Groundup, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    status, out, _ = command("bench", "digits", *TINY, "--steps", "1", "--profile", trace)
    assert status == 0
    assert "8 px" in out
    assert "images/s" in out
    assert "optimizer" in out
    assert "of a matrix product here" in out
    assert any(event.get("name", "").startswith("aten::") for event in json.loads(trace.read_text())["traceEvents"])
    result = json.loads(command("bench", "digits", *TINY, "--steps", "1", "--json")[1])
    (size,) = result["sizes"]
    assert size["images_per_second"] > 0
    assert 0 < size["mfu"] < 1
    assert size["seconds"].keys() == {
        *("step", "data", "augment", "forward", "backward", "sam", "optimizer", "average", "other")
    }
    assert 1e8 < result["peak_memory_bytes"] < 1e11


def test_pack_prints_size_and_speed(command: Groundup, tmp_path: Path) -> None:
    status, out, _ = command("data", "pack", "digits", tmp_path / "out")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("train: 1,797 images in 1 shards, ")
    assert re.fullmatch(r"one thread decodes [\d,]+ of them per second, whole images", lines[1])
    assert lines[2] == f"webdataset:{tmp_path / 'out'}"
    assert json.loads(command("data", "pack", "digits", tmp_path / "out", "--json")[1])["decoded_per_second"] > 1


def test_a_trace_overwrites_nothing(command: Groundup, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    status, _, err = command("bench", "digits", *TINY, "--profile", tmp_path / "mine.json")
    assert status == 2
    assert "is not overwritten" in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "digts"], ["recipe='digts'", "did you mean 'digits'?"]),
        (["train", "digits", "train.epoch=3"], ["train.epoch=3", "did you mean train.epochs?"]),
        (["train", "digits", "--max-time", "90"], ["--max-time 90", "90s, 9m or 2h"]),
        (["resume", "nowhere/run"], ["nowhere/run", "not a run folder"]),
        (["evaluate", "nowhere/run"], ["not a run folder"]),
        (["bench", "digits", "--steps", "0"], ["--steps"]),
        (["lr-find", "digits", "--from", "1", "--to", "0.1"], ["--from 1 --to 0.1", "0 < from < to"]),
        (["lr-find", "digits", "--steps", "5"], ["--steps 5", "20 or more"]),
        (["lr-find", "digits", "--out", "lr.jpg"], ["--out lr.jpg", ".png"]),
        (["lr-find", "digits", "--out", "nowhere/lr.png"], ["--out nowhere/lr.png", "there is no folder nowhere"]),
        (["trian", "digits"], ["No such command", "trian"]),
        (["train"], ["Missing argument"]),
    ],
)
def test_a_mistake_of_the_caller_gives_status_2_and_leaves_nothing_behind(
    arguments: list[str], parts: list[str], command: Groundup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_picture_is_a_mistake_and_an_unreadable_one_an_error(
    command: Groundup, run: Path, tmp_path: Path
) -> None:
    status, _, err = command("predict", run, tmp_path / "none.png")
    assert (status, "none.png: there is no such file" in err) == (2, True)
    (tmp_path / "bad.png").write_text("no picture")
    status, _, err = command("predict", run, tmp_path / "bad.png")
    assert (status, "bad.png: not an image" in err) == (1, True)


def test_an_error_of_the_run_gives_status_1(command: Groundup, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    status, _, err = command("train", "digits", f"data.source=folder:{tmp_path / 'photos'}", "--run", tmp_path / "run")
    assert status == 1
    assert err.startswith(f"error: folder {tmp_path / 'photos'} is empty\nhint: ")
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_where_the_caller_said_gives_status_2(command: Groundup, tmp_path: Path) -> None:
    status, _, err = command("train", "digits", "data.source=folder:nowhere", "--run", tmp_path / "run")
    assert status == 2
    assert err.startswith("error: data.source='folder:nowhere': there is no folder nowhere\nhint: ")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_gives_an_error_without_a_traceback(command: Groundup, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    status, _, err = command("train", "digits", *TINY, "--run", tmp_path / "file" / "run")
    assert status == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_process_that_torchrun_did_not_start_speaks_whatever_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")  # some clusters set it for every program
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert _rank() == "0"
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    assert _rank() == "3"
