"""Tokens, owners, and a Hub that cannot be reached: what is said, and that the token goes to the Hub alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import groundup
from groundup.basis.errors import GroundupError, UsageError
from groundup.runs.train import Run

# Of the client's own HTTP library, when the client sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tiny_run: Run) -> Run:
    return tiny_run


def test_without_a_token_it_says_how_to_log_in(hub: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match=r"needs a token\nhint: `hf auth login`, or HF_TOKEN"):
        groundup.publish(run.folder, to="hf:acme/digits")
    assert hub.requests == []


def test_a_refused_token_is_said_and_not_repeated(hub: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")
    hub.fail = lambda method, path: (401, "Invalid credentials in Authorization header") if method == "GET" else None
    with pytest.raises(GroundupError, match="does not accept the token") as caught:
        groundup.publish(run.folder, to="hf:acme/digits")
    assert "hf_wrong_one" not in str(caught.value)
    hub.fail = lambda method, path: (403, "hf_wrong_one may not write")
    with pytest.raises(GroundupError, match=r"the token does not allow this: (?s:.*)\*\*\* may not write") as caught:
        groundup.publish(run.folder, to="hf:acme/digits")
    assert "hf_wrong_one" not in str(caught.value)


def test_another_owner_is_refused_by_the_hub_in_words(hub: Any, run: Run) -> None:
    with pytest.raises(
        GroundupError, match=r"publishing to hf:others/digits: the token does not allow this: You don't"
    ):
        groundup.publish(run.folder, to="hf:others/digits")
    hub.make("others/digits", {})
    with pytest.raises(GroundupError, match="the token does not allow this"):
        groundup.publish(run.folder, to="hf:others/digits")
    assert {*hub.files("others/digits")} == {".gitattributes"}


def test_no_network_is_said_with_what_to_do(run: Run, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for attempt in (
        lambda: groundup.publish(run.folder, to="hf:acme/digits"),
        lambda: groundup.load("hf:acme/digits"),
    ):
        with pytest.raises(GroundupError, match="the Hub could not be reached"):
            attempt()


def test_a_line_that_goes_dead_in_an_upload_is_said(hub: Any, run: Run) -> None:
    hub.fail = lambda method, path: (0, "") if "/commit/" in path else None
    with pytest.raises(GroundupError, match="the Hub could not be reached"):
        groundup.publish(run.folder, to="hf:acme/digits")
    assert {*hub.files("acme/digits")} == {".gitattributes"}


def test_a_repository_that_is_not_ours_to_load_is_named(hub: Any) -> None:
    hub.make("acme/other", {"pytorch_model.bin": b"weights"})
    with pytest.raises(
        UsageError, match=r"hf:acme/other: not a model that groundup published: it lacks model\.safetens"
    ):
        groundup.load("hf:acme/other")
    with pytest.raises(GroundupError, match="there is no such repository, or you may not see it"):
        groundup.load("hf:acme/missing")


def test_the_token_is_sent_to_the_hub_and_is_nowhere_else(hub: Any, run: Run, tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_DEBUG": "0", "HF_HUB_VERBOSITY": "debug"}
    command = [sys.executable, "-m", "groundup", "publish", str(run.folder), "--to", "hf:acme/digits"]
    result = subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    groundup.publish(run.folder, to=tmp_path / "published")
    assert "groundup.load('hf:acme/digits')" in output
    assert any(request.token == hub.token for request in hub.requests if "/commit/" in request.path)
    assert hub.token not in output
    folders = (run.folder, tmp_path / "published", tmp_path / "hub", tmp_path / "home")
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 30
    assert [file for file in files if hub.token.encode() in file.read_bytes()] == []
