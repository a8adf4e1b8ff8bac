"""The command `groundup data pack`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from groundup.basis.interruption import StopRequest

data_app = typer.Typer(help="Prepare large data.", no_args_is_help=True)


@data_app.callback()
def _data() -> None:
    """Prepare large data."""


@data_app.command()
def pack(
    source: Annotated[
        str, typer.Argument(help="Any source of a recipe, e.g. folder:imagenet, hub:OWNER/NAME.", show_default=False)
    ],
    dest: Annotated[Path, typer.Argument(help="Folder for the shards: new, or to go on with.", show_default=False)],
    format: Annotated[str, typer.Option(help="tar (read by webdataset:) or parquet (read by parquet:).")] = "tar",
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in MB.")] = 256.0,
    seed: Annotated[int, typer.Option(help="Of the order in which the images are packed.")] = 0,
    shuffle: Annotated[bool, typer.Option(help="Shuffle the images, or keep them in the order of the source.")] = True,
    resolution: Annotated[
        int | None,
        typer.Option(
            help="Bring larger images to this shorter side, in pixels, as JPEG; by default they stay as they are.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality where images are encoded again.")] = 90,
    image: Annotated[str | None, typer.Option(help="Image column of the source.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Label column of the source.", show_default=False)] = None,
    shuffle_window: Annotated[
        int, typer.Option(help="Shards of a source that is a stream whose images are shuffled together.")
    ] = 16,
    shard_cache_gb: Annotated[
        float, typer.Option(help="Disk space in GB for the shards of a source that is a stream: two windows of them.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Pack images into shuffled shards with checksums. Repeat the call to go on after an interruption.

    Example: groundup data pack folder:imagenet shards/imagenet --resolution 400
    """
    with StopRequest().listening() as stop:
        from groundup.data.pack import PackSettings, decoded_per_second, source_settings
        from groundup.data.pack import pack as pack_source

        settings = PackSettings(format, shard_mb, seed, shuffle, resolution, quality)  # type: ignore[arg-type]
        told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > 5:
                told = time.monotonic()
                typer.echo(f"packed {done:,} of {total:,} images", err=True)

        chosen = source_settings(
            source, image=image, label=label, shuffle_window=shuffle_window, shard_cache_gb=shard_cache_gb
        )
        index = pack_source(chosen, dest, settings, check=stop.check, progress=progress)
        speed = decoded_per_second(index, dest)
    splits = {
        split: {
            "images": sum(len(entry.labels) for entry in entries),
            "shards": len(entries),
            "bytes": sum(entry.size for entry in entries),
        }
        for split, entries in index.splits.items()
    }
    if as_json:
        found = {"dest": str(dest), "format": index.kind, "classes": len(index.classes), "splits": splits}
        print(json.dumps({**found, "decoded_per_second": speed}))
        return
    for split, counts in splits.items():
        print(f"{split}: {counts['images']:,} images in {counts['shards']:,} shards, {counts['bytes'] / 1e6:,.1f} MB")
    if speed is not None:
        print(f"one thread decodes {speed:,.0f} of them per second, whole images")
    print(
        f"{'webdataset' if index.kind == 'tar' else 'parquet'}:{dest}"
        + ("?streaming" if index.kind == "parquet" else "")
    )
