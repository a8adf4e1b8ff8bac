"""The batch script for SLURM: what it asks for, and that it goes on with its run until the run is finished."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.runs.launch import NOTICE, Slurm, slurm_script

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# What a cluster has: srun starts the command as a step and kills it when it is signalled itself, scancel signals the step, scontrol
# notes what it is asked, groundup works until it is told to stop.
SRUN = """#!/bin/bash
echo "srun $*" >> "$LOG"
"$@" & step=$!
echo "$step" > step
trap 'kill -KILL "$step"' TERM HUP QUIT
while true; do wait "$step"; status=$?; kill -0 "$step" 2>/dev/null || exit "$status"; done
"""
SCANCEL = '#!/bin/bash\necho "scancel $*" >> "$LOG"\nkill -TERM "$(cat step)"\n'
SCONTROL = '#!/bin/bash\n[ "$1" = show ] && { printf "node7\\nnode8\\n"; exit; }\necho "scontrol $*" >> "$LOG"\n'
WORK = """#!/bin/bash
while [ "$1" != groundup ]; do shift; done
echo "groundup ${*:2}" >> "$LOG"
run="${*: -1}"
mkdir -p "$run"; echo recipe > "$run/recipe.yaml"
[ "$2" = resume ] && { echo done > "$run/summary.json"; exit 0; }
save() { mkdir -p "$run/checkpoints"; ln -sfn "step-$RANDOM" "$run/checkpoints/last"; echo checkpoint >> "$LOG"; }
trap 'sleep 0.3; [ -e decoding ] || save; exit 143' TERM
for i in $(seq 200); do sleep 0.05; done
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    for name, text in {
        "srun": SRUN,
        "scancel": SCANCEL,
        "scontrol": SCONTROL,
        "python": WORK,
        "torchrun": WORK,
    }.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "log").touch()
    return tmp_path


def start(cluster: Path, script: str) -> "subprocess.Popen[str]":
    path = f"{cluster / 'bin'}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}
    environment = {**os.environ, "PATH": path, "LOG": str(cluster / "log"), **slurm}
    (cluster / "script").write_text(script)
    command = ["bash", "-c", "exec bash script 2> said"]
    return subprocess.Popen(command, cwd=cluster, env=environment, text=True)


def log(cluster: Path) -> list[str]:
    return (cluster / "log").read_text().splitlines()


def wait_for(cluster: Path, what: str) -> None:
    end = time.monotonic() + 20
    while not any(what in line for line in log(cluster)) or not list(cluster.glob("runs/*/recipe.yaml")):
        assert time.monotonic() < end, log(cluster)
        time.sleep(0.02)


def test_the_script_is_bash_and_asks_for_what_was_wanted() -> None:
    wanted = Slurm(nodes=2, gpus_per_node=8, time="90m", cpus=4, extra=["--partition=gpu"])
    script = slurm_script("digits", ["train.epochs=3", "augment.policy=[{name: flip}]"], wanted)
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=32",
        "#SBATCH --time=0-01:30:00",
        f"#SBATCH --signal=B:USR1@{NOTICE}",
        "#SBATCH --requeue",
        "#SBATCH --partition=gpu",
    ):
        assert line in script.splitlines()
    assert "--nproc-per-node=8" in script
    assert "command=(train digits train.epochs=3 'augment.policy=[{name: flip}]' --run" in script


def test_one_gpu_needs_no_torchrun_and_no_gpu_asks_for_none() -> None:
    assert "start=(python -m groundup)" in slurm_script("digits", [], Slurm())
    script = slurm_script("digits", [], Slurm(gpus_per_node=0))
    assert "gpus" not in script
    assert "start=(torchrun" in slurm_script("digits", [], Slurm(nodes=2, gpus_per_node=0))


@pytest.mark.parametrize("gpus", [1, 4])
def test_at_the_time_limit_the_run_saves_the_job_is_requeued_and_the_next_turn_resumes(
    cluster: Path, gpus: int
) -> None:
    script = slurm_script("digits", ["train.epochs=3"], Slurm(gpus_per_node=gpus))
    turn = start(cluster, script)
    wait_for(cluster, "groundup train")
    turn.send_signal(signal.SIGUSR1)
    assert turn.wait(20) == 143
    assert log(cluster)[-3:] == ["scancel --signal=TERM 4711", "checkpoint", "scontrol requeue 4711"]
    assert "groundup train digits train.epochs=3 --run-folder runs/digits-4711" in log(cluster)
    assert start(cluster, script).wait(20) == 0
    assert log(cluster)[-1] == "groundup resume runs/digits-4711"
    assert (f"--nproc-per-node={gpus}" in log(cluster)[0]) == (gpus > 1)
    assert ("--rdzv-endpoint=node7:24711" in log(cluster)[0]) == (gpus > 1)


def test_a_job_that_is_taken_away_saves_and_leaves_the_queue_to_slurm(cluster: Path) -> None:
    turn = start(cluster, slurm_script("digits", [], Slurm()))
    wait_for(cluster, "groundup train")
    turn.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # the script has only to wait: SLURM tells the steps
    os.kill(int((cluster / "step").read_text()), signal.SIGTERM)
    assert turn.wait(20) == 143
    assert log(cluster)[-1] == "checkpoint"
    assert not any("requeue" in line or "scancel" in line for line in log(cluster))


def test_a_turn_that_reached_no_checkpoint_is_not_requeued(cluster: Path) -> None:
    (cluster / "decoding").touch()
    script = slurm_script("digits", [], Slurm())
    turn = start(cluster, script)
    wait_for(cluster, "groundup train")
    turn.send_signal(signal.SIGUSR1)
    assert turn.wait(20) == 143
    assert (cluster / "said").read_text() == (
        "runs/digits-4711: no new checkpoint in this turn, so the job is not requeued; it needs a longer --time\n"
    )
    assert log(cluster)[-1] == "scancel --signal=TERM 4711"


@pytest.mark.parametrize("bad", ["", "soon", "4h30"])
def test_a_time_limit_that_slurm_would_misread_is_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        Slurm(time=bad)


@pytest.mark.parametrize("short", ["0m", "1m", "3m", "3", "00:00:00", "00:03:00", "0-0"])
def test_a_time_limit_that_leaves_no_time_to_train_is_refused(short: str) -> None:
    with pytest.raises(UsageError, match="has no time to train: it is told to end up to 180 s before its limit"):
        Slurm(time=short)


def test_times_and_options_are_written_as_slurm_reads_them() -> None:
    written = ("2d", "25h", "4m", "1-12:00:00", "90", "1-0", "00:03:01", "4")
    assert [Slurm(time=text).limit() for text in written] == ["2-00:00:00", "1-01:00:00", "0-00:04:00", *written[3:]]
    with pytest.raises(UsageError, match="--sbatch"):
        Slurm(extra=["-p gpu\nrm -rf x"])


def test_a_recipe_that_does_not_hold_is_found_before_the_queue() -> None:
    with pytest.raises(UsageError, match="epochz"):
        slurm_script("digits", ["train.epochz=3"], Slurm())
