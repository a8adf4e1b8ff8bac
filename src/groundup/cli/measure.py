"""The commands that measure before a run: `groundup bench`, `lr-find`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from groundup.basis.interruption import StopRequest
from groundup.cli.options import AsJson, Overrides, say


def bench(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps per input size.")] = 5,
    profile: Annotated[
        Path | None, typer.Option(help="Write a trace of two steps, which ui.perfetto.dev opens.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a recipe trains here: images/s, share of the machine's limit, where the time goes, what to change.

    Example: groundup bench digits
    """
    with StopRequest().listening() as stop:
        from groundup.recipe import load_recipe
        from groundup.runs.cost.bench import bench
        from groundup.runs.cost.parts import shares

        result = bench(load_recipe(recipe, overrides or []), steps, stop, profile=profile, tell=say)
    if as_json:
        print(json.dumps(result))
        return
    engine = result["engine"]
    print(f"{engine['device']}, {engine['threads']} threads, {engine['why']}")
    print(f"a {engine['precision']} matrix product runs at {result['matrix_tflops']:.3g} TFLOP/s here")
    for size in result["sizes"]:
        seconds = size["seconds"]
        print(
            f"{size['resolution']:>4} px  {size['images_per_second']:>9,.0f} images/s  {size['tflops']:.3g} TFLOP/s  "
            f"{size['mfu']:.0%} of it  step {seconds['step'] * 1e3:,.1f} ms"
        )
        print("      " + ", ".join(f"{name} {share:.1%}" for name, share in shares(seconds).items() if share >= 0.0005))
    print(f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    for line in result["advice"]:
        print(f"- {line}")
    if profile is not None:
        print(profile)


def lr_find(
    recipe: Annotated[str, typer.Argument(help="Library name or path of a recipe.", show_default=False)],
    overrides: Overrides = None,
    start: Annotated[float, typer.Option("--from", help="Learning rate of the first step.")] = 1e-6,
    end: Annotated[float, typer.Option("--to", help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Training steps, at least 20; a divergence ends them early.")] = 100,
    out: Annotated[Path, typer.Option(help="The plot, PNG; a number is added if the file exists.")] = Path(
        "lr-find.png"
    ),
    as_json: AsJson = False,
) -> None:
    """Find a learning rate to start from: train some steps while it rises, and look where the loss falls.

    Example: groundup lr-find digits
    """
    with StopRequest().listening() as stop:
        from groundup.recipe import load_recipe
        from groundup.runs import lr_find as range_test
        from groundup.tracking import TerminalTracker

        chosen = load_recipe(recipe, overrides or [])
        range_test.check_picture(out)
        terminal = TerminalTracker()
        try:
            found = range_test.lr_find(chosen, start=start, end=end, steps=steps, stop=stop, tracker=terminal)
        finally:
            terminal.close()
        result = range_test.report(chosen, found)
        picture = range_test.draw(found, out, f"{chosen.name}: learning-rate range test", stop.check)
    if as_json:
        print(json.dumps({**result, "picture": str(picture)}))
        return
    for name, key in (
        ("steepest fall of the loss", "steepest"),
        ("one-tenth of divergence", "one_tenth_of_divergence"),
    ):
        rate = "none" if result[key] is None else f"{result[key]:.2g}"
        print(f"{name:<26} {rate:<8} {result['overrides'][key] or ''}".rstrip())
    print(f"{'lowest loss':<26} {result['lowest_at']:.2g}")
    for remark in result["remarks"]:
        print(f"note: {remark}")
    print("A starting point, not a tuned value: compare rates around it on a validation split.")
    print(picture)
