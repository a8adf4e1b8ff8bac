"""The page on interruptible machines: its manifest is YAML, its script is one that a shell runs as the page says."""

import configparser
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).parents[2] / "docs" / "interruptible.md"

# Resuming from the mirror ends with the status in $MIRROR_STATUS; training works until it is told to stop.
GROUNDUP = """#!/bin/sh
echo "$*" >> "$LOG"
case "$2" in s3:*) [ "$MIRROR_STATUS" = 0 ] || exit "$MIRROR_STATUS";; esac
trap 'echo checkpoint >> "$LOG"; exit 143' TERM
for i in $(seq 100); do sleep 0.05; done
"""


@pytest.fixture
def script() -> str:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    job = yaml.safe_load(text)
    assert job["kind"] == "Job"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return str(container["args"][0])


@pytest.mark.parametrize(
    ("status", "ends_with", "asked"),
    [
        (1, 1, ["resume s3://bucket/runs/first"]),
        (2, 143, ["resume s3://bucket/runs/first", "train imagenet-resnet50-16ep"]),
        (0, 143, ["resume s3://bucket/runs/first"]),
    ],
)
def test_the_script_trains_only_where_the_mirror_has_no_run_and_hands_signals_on(
    script: str, tmp_path: Path, status: int, ends_with: int, asked: list[str]
) -> None:
    (tmp_path / "groundup").write_text(GROUNDUP)
    (tmp_path / "groundup").chmod(0o755)
    log = tmp_path / "log"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["sh", "-c", script], env={**os.environ, "PATH": path, "LOG": str(log), "MIRROR_STATUS": str(status)}
    )
    end = time.monotonic() + 20
    while not (log.exists() and len(log.read_text().splitlines()) == len(asked)):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)
    if ends_with == 143:
        shell.send_signal(signal.SIGTERM)
    assert shell.wait(20) == ends_with
    lines = log.read_text().splitlines()
    assert all(line.startswith(start) for line, start in zip(lines, asked, strict=False))
    assert lines[len(asked) :] == (["checkpoint"] if ends_with == 143 else [])


def test_the_service_of_a_cloud_machine_says_where_it_works_and_where_groundup_is_found() -> None:
    (unit,) = re.findall(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL)
    service = configparser.ConfigParser(interpolation=None)
    service.optionxform = str  # type: ignore[assignment, method-assign]
    service.read_string(unit)
    assert service["Service"]["WorkingDirectory"] == "/scratch"
    assert service["Service"]["Environment"].startswith("PATH=/opt/venv/bin:")
