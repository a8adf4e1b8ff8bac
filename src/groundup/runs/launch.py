"""A batch script for SLURM that trains a recipe and puts itself back into the queue when its time is up.

SLURM tells the script before the limit (`--signal`), the script tells the processes (SIGTERM), they write a checkpoint, and the job
is requeued under its own id, which names the run folder: the next start finds the folder and goes on. On preemption SLURM requeues
by itself. With more than one GPU or node torchrun starts the processes; without one, the job has one process.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from groundup.basis.errors import UsageError
from groundup.recipe import load_recipe

# Seconds before the limit at which the script is told: torchrun gives its processes 30 s, the rest is for waiting in a step.
NOTICE = 120
_TIME = r"(?:\d+-)?\d{1,2}:\d{2}:\d{2}|\d+-\d{1,2}|\d+"
_SHORT = {"m": 1, "h": 60, "d": 24 * 60}


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
            minutes = int(short[1]) * _SHORT[short[2]]
        elif re.fullmatch(_TIME, self.time):
            minutes = 0 if re.fullmatch(r"[0:-]+", self.time) else 1
        else:
            raise UsageError(f"--time {self.time}: write 90m, 4h, 2d, or as SLURM does: 04:00:00, 1-12:00:00")
        if minutes == 0:
            raise UsageError(f"--time {self.time}: the job would have no time")
        if not short:
            return self.time
        days, minutes = divmod(minutes, 24 * 60)
        return f"{days}-{minutes // 60:02}:{minutes % 60:02}:00"


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

requeue=no
stop() {{ kill -TERM "$child" 2>/dev/null; }}
trap 'requeue=yes; stop' USR1      # the time limit is near
trap 'stop' TERM                   # preempted or cancelled: SLURM decides what comes next

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
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""
