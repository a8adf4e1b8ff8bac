"""The command `groundup launch`."""

from typing import Annotated

import typer

from groundup.basis.errors import UsageError
from groundup.cli.options import Overrides


def launch(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="A batch script for SLURM that requeues itself.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpus_per_node: Annotated[
        int, typer.Option(min=0, help="GPUs, and processes, on each; 0: one process on CPUs.")
    ] = 1,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="Cores per process.", show_default=False)] = None,
    time: Annotated[str, typer.Option(help="Time limit of one turn: 90m, 4h, 2d or 04:00:00.")] = "4h",
    sbatch: Annotated[
        list[str] | None,
        typer.Option(help="A further #SBATCH option, e.g. --sbatch=--partition=gpu.", show_default=False),
    ] = None,
) -> None:
    """Print a batch script that trains a recipe on a cluster, over as many turns as it takes.

    Example: groundup launch imagenet-resnet50-16ep --slurm --gpus-per-node 8 > train.sbatch
    """
    if not slurm:
        raise UsageError("launch: say for which scheduler", hint="--slurm; for others see docs/interruptible.md")
    from groundup.runs.launch import Slurm, slurm_script

    print(slurm_script(recipe, overrides or [], Slurm(nodes, gpus_per_node, time, cpus_per_task, sbatch or [])), end="")
