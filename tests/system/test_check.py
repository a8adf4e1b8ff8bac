"""`groundup check` as a user starts it: exit status, page, and what it leaves behind."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

SMALL = ["model.width=8", "data.limit=200", "train.batch_size=50", "train.threads=1"]


def test_a_recipe_is_checked_in_seconds_and_nothing_but_the_page_is_left(groundup: Any, tmp_path: Path) -> None:
    out = groundup.run("check", "digits", *SMALL, "--overfit")
    lines = out.splitlines()
    assert lines[0].startswith("digits: 200 training images")
    assert lines[-1] == "check.html"
    assert "no errors" in lines[-2]
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "stderr") == ["check.html"]
    text = (tmp_path / "check.html").read_text()
    assert not re.search(r"https?://", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) > 60
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).load()


def test_errors_give_status_1_and_mistakes_status_2(groundup: Any, tmp_path: Path) -> None:
    chosen_on_test = ["evaluate.optimistic=true", "evaluate.model=best"]
    result = json.loads(groundup.run("check", "digits", *SMALL, *chosen_on_test, "--json", status=1))
    assert result["errors"] == 1
    assert result["findings"][0]["code"] == "GU501"
    assert (tmp_path / result["page"]).is_file()
    assert groundup.run("check", "digits", "train.epoch=3", status=2) == ""
    assert "did you mean train.epochs?" in groundup.said()
    groundup.run("check", "digits", "--out", "nowhere/check.html", status=2)
    assert "there is no folder nowhere" in groundup.said()
