"""A disk that is full: a small file system of its own, and what fills it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int = 12) -> Iterator[Path | None]:
    """A file system of its own, None where this user may not mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave so little room that the folder of a checkpoint can be made and its weights cannot be written."""
    file = disk / "filling"
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))
    os.truncate(file, max(0, file.stat().st_size - 200_000))
    return file
