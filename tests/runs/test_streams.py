"""Training from shards: the curve of the same images from elsewhere, and a resume in the middle of a window."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import groundup
from groundup.basis.errors import DataError, UsageError
from groundup.basis.interruption import Interrupted, StopRequest
from groundup.data import DataSettings, load_splits
from groundup.data.pack import PackSettings, pack
from groundup.data.shards.stream import StreamImages
from groundup.recipe import load_recipe
from groundup.runs import prepare
from groundup.runs.identity import refused_changes
from groundup.tracking import Tracker

CONSTANTS = ["augment.normalize.mean=[0.3,0.3,0.3]", "augment.normalize.std=[0.4,0.4,0.4]"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """digits in about 6 shards of each kind, in the order of the source."""
    folder = tmp_path_factory.mktemp("packed")
    for kind, megabytes in (("tar", 0.3), ("parquet", 0.05)):
        settings = PackSettings(format=kind, shard_mb=megabytes, shuffle=False)  # type: ignore[arg-type]
        pack(DataSettings(source="digits"), folder / kind, settings)
        assert len(list((folder / kind).glob("train-*"))) >= 5
    return {kind: folder / kind for kind in ("tar", "parquet")}


def weights(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints" / "last" / "model.safetensors").read_bytes()).hexdigest()


def lines(run: Path) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in read]


def test_a_stream_in_the_order_of_its_source_gives_the_same_run_bit_for_bit(
    packed: dict[str, Path], tiny: list[str], tmp_path: Path
) -> None:
    sources = {
        "whole": ["data.cache=none"],
        "tar": [f"data.source=webdataset:{packed['tar']}"],
        "parquet": [f"data.source=parquet:{packed['parquet']}?streaming"],
    }
    for name, own in sources.items():
        groundup.train("digits", [*tiny, *CONSTANTS, *own], run=tmp_path / name, pictures=False)
    whole = tmp_path / "whole"
    for name in ("tar", "parquet"):
        assert weights(tmp_path / name) == weights(whole)
        assert lines(tmp_path / name) == lines(whole)
        summaries = [json.loads((tmp_path / run / "summary.json").read_text()) for run in (name, "whole")]
        assert summaries[0]["top1"] == summaries[1]["top1"]


def test_every_seed_of_a_stream_has_the_same_measured_constants(packed: dict[str, Path]) -> None:
    source = f"data.source=webdataset:{packed['tar']}"
    measured = []
    for seed in (0, 1):
        recipe = load_recipe("digits", [source, f"seed={seed}"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare, "_MEASURED", 200)  # fewer images than there are
            measured.append(prepare.with_measured_constants(recipe, load_splits(recipe.data)).augment.normalize)
    assert measured[0].mean is not None
    assert measured[0] == measured[1]


class StopAt(Tracker):
    """Asks the run to stop after a step."""

    def __init__(self, stop: StopRequest, step: int) -> None:
        self._stop, self._step = stop, step

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] >= self._step:
            self._stop.request("the test says so")


def test_a_run_over_windows_that_is_stopped_goes_on_as_if_it_had_not_been(
    packed: dict[str, Path], tiny: list[str], tmp_path: Path
) -> None:
    own = [f"data.source=webdataset:{packed['tar']}", "data.shuffle_window=2", "track.step_every=1"]
    groundup.train("digits", [*tiny, *own], run=tmp_path / "whole", pictures=False)
    stop = StopRequest()
    with pytest.raises(Interrupted):
        groundup.train(
            "digits", [*tiny, *own], run=tmp_path / "cut", pictures=False, stop=stop, terminal=StopAt(stop, 2)
        )
    assert not (tmp_path / "cut" / "summary.json").exists()
    groundup.resume(tmp_path / "cut", pictures=False)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_the_data_may_have_moved_before_a_resume_but_not_have_changed(
    packed: dict[str, Path], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(packed["tar"], tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    stop = StopRequest()
    overrides = [*tiny, "data.source=webdataset:shards", "track.step_every=1"]
    with pytest.raises(Interrupted):
        groundup.train("digits", overrides, run="cut", pictures=False, stop=stop, terminal=StopAt(stop, 2))
    shutil.rmtree(own)
    pack(DataSettings(source="digits"), own, PackSettings(shard_mb=0.3, seed=3))
    with pytest.raises(UsageError, match="the data has changed"):
        groundup.resume("cut", pictures=False)
    shutil.rmtree(own)
    shutil.copytree(packed["tar"], own)
    groundup.resume("cut", pictures=False)


def test_a_damaged_image_that_ended_a_run_is_skipped_by_a_resume(
    packed: dict[str, Path], tiny: list[str], tmp_path: Path
) -> None:
    shards = shutil.copytree(packed["tar"], tmp_path / "shards")
    (shards / "index.json").unlink()  # whose checksums would tell before any image is decoded
    source = f"data.source=webdataset:{shards}"
    splits = load_splits(load_recipe("digits", [*tiny, source]).data)
    assert splits.test is not None
    assert isinstance(splits.test.images, StreamImages)
    name, _, place = splits.test.images.name(int(splits.test.indices[0])).rpartition(" image ")
    shard = shards / Path(name).name
    with tarfile.open(shard) as tar:
        image = [member for member in tar if member.name.endswith("png")][int(place)]
    content = bytearray(shard.read_bytes())
    content[image.offset_data : image.offset_data + 40] = bytes(40)
    shard.write_bytes(content)
    run = tmp_path / "run"
    with pytest.raises(DataError, match=f"{shard.name} image {place}: "):
        groundup.train("digits", [*tiny, source], run=run, pictures=False)
    recipe = (run / "recipe.yaml").read_text()
    assert "on_bad_image: fail" in recipe
    (run / "recipe.yaml").write_text(recipe.replace("on_bad_image: fail", "on_bad_image: skip"))
    summary = groundup.resume(run, pictures=False).summary
    assert summary["bad_images"] == 1
    # The other way about, images that stood in for others would be denied.
    skips, fails = (load_recipe("digits", [*tiny, source, f"data.on_bad_image={way}"]) for way in ("skip", "fail"))
    assert refused_changes(fails, skips) == []
    assert refused_changes(skips, fails) == [("data.on_bad_image", "skip", "fail")]
