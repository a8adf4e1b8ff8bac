"""A batch script for SLURM that trains a recipe and puts itself back into the queue when its time is up.

SLURM tells the script before the limit (`--signal`), the script tells the processes (SIGTERM), they write a checkpoint, and the job
is requeued under its own id, which names the run folder: the next start finds the folder and goes on. The processes are told by
scancel, which signals the steps: srun answers a SIGTERM of its own with SIGKILL for its tasks. A turn without a new checkpoint is
the last, because the next would end as it did. On preemption SLURM requeues by itself. With more than one GPU or node torchrun
starts the processes; without one, the job has one process.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from groundup.basis.errors import UsageError
from groundup.recipe import load_recipe

# Seconds before the limit at which the script is told: torchrun gives its processes 30 s, the rest is for waiting in a step.
NOTICE = 120
# SLURM may send the signal so many seconds earlier still.
EARLIER = 60
_TIME = r"(?:\d+-)?\d{1,2}:\d{2}:\d{2}|\d+-\d{1,2}|\d+"
_SHORT = {"m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


@dataclass(frozen=True)
class Slurm:
    """What is asked of SLURM. `time`: as SLURM writes it (04:00:00, 1-12:00:00, or minutes) or 90m, 4h, 2d; `cpus`: cores per
    process, None: what the cluster gives; `extra`: further #SBATCH options, such as `--partition=gpu`."""

    nodes: int = 1
    gpus_per_node: int = 1
    time: str = "04:00:00"
    cpus: int | None = None
    extra: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 0 or (self.cpus is not None and self.cpus < 1):
            raise UsageError("--nodes and --cpus-per-task are at least 1, --gpus-per-node at least 0")
        self.limit()
        for option in self.extra:
            if not re.fullmatch(r"--[a-z][a-z-]*(=\S+)?", option):
                raise UsageError(
                    f"--sbatch {option!r}: write one option with its value, such as --sbatch=--partition=gpu"
                )

    def limit(self) -> str:
        """The time limit as SLURM reads it."""
        if short := re.fullmatch(r"(\d+)([mhd])", self.time):
            seconds = int(short[1]) * _SHORT[short[2]]
        elif re.fullmatch(_TIME, self.time):
            seconds = _seconds(self.time)
        else:
            raise UsageError(f"--time {self.time}: write 90m, 4h, 2d, or as SLURM does: 04:00:00, 1-12:00:00")
        if seconds <= NOTICE + EARLIER:
            raise UsageError(
                f"--time {self.time}: a turn of {seconds} s has no time to train: "
                f"it is told to end up to {NOTICE + EARLIER} s before its limit"
            )
        if not short:
            return self.time
        days, minutes = divmod(seconds // 60, 24 * 60)
        return f"{days}-{minutes // 60:02}:{minutes % 60:02}:00"


def _seconds(time: str) -> int:
    """Of a time as SLURM writes it: minutes, hours:minutes:seconds, days-hours, days-hours:minutes:seconds."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    if not dash and len(numbers) == 1:
        return numbers[0] * 60
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def slurm_script(recipe: str, overrides: Sequence[str], slurm: Slurm) -> str:
    """The batch script. UsageError for a recipe that does not hold: a mistake is found before the queue is waited for."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", load_recipe(recipe, overrides).name)
    processes = max(1, slurm.gpus_per_node)
    options = [
        f"--job-name={name}",
        f"--nodes={slurm.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []),
        *([f"--cpus-per-task={slurm.cpus * processes}"] if slurm.cpus else []),
        f"--time={slurm.limit()}",
        f"--signal=B:USR1@{NOTICE}",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.out",
        *slurm.extra,
    ]
    chosen = " ".join(map(shlex.quote, (recipe, *overrides)))
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in options),
        name=name,
        start=_TORCHRUN.format(processes=processes) if slurm.nodes * processes > 1 else _ONE,
        recipe=chosen,
    )


_ONE = "start=(python -m groundup)\n"
_TORCHRUN = """head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
start=(torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={processes}
       --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 20000))"
       -m groundup)
"""
_SCRIPT = """#!/bin/bash
{options}

# Written by `groundup launch`. Submit it with sbatch; `groundup` has to be in the Python that the nodes use.
set -u
run="runs/{name}-$SLURM_JOB_ID"    # the same after a requeue
{start}
if [ -f "$run/recipe.yaml" ]; then
    command=(resume "$run")
else
    command=(train {recipe} --run-folder "$run")
fi

newest() {{ readlink "$run/checkpoints/last"; }}
before=$(newest)
requeue=no
# The time limit is near. The signal goes to the job's steps and not to srun, which would kill them.
trap 'requeue=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
# Preempted or cancelled: SLURM has told the steps, and decides what comes next.
trap : TERM

srun "${{start[@]}}" "${{command[@]}}" &
child=$!
# A trap ends `wait`; the processes still have to write their checkpoint.
status=0
while true; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
done
if [ "$requeue" = yes ] && [ ! -f "$run/summary.json" ]; then
    if [ "$(newest)" = "$before" ]; then
        echo "$run: no new checkpoint in this turn, so the job is not requeued; it needs a longer --time" >&2
    else
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
"""
