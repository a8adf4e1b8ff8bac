"""metrics.jsonl: one line of JSON per evaluation, on the disk before the run goes on.

A run that is killed leaves at worst one half-written last line, which reading drops and the next append replaces. NaN
and infinities are written as null, because they are not JSON.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from groundup.basis.errors import GroundupError
from groundup.basis.files import write_text
from groundup.tracking.base import Record, Tracker


class MetricsFile(Tracker):
    """Appends to the file at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._handle: int | None = None

    def append(self, record: Record) -> None:
        """Write `record` as one line: when this returns, it survives a power cut."""
        line = _line(record).encode()
        if self._handle is None:
            self._handle = self._open()
        start = os.fstat(self._handle).st_size
        try:
            written = os.write(self._handle, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written to {self.path}")
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, start)
            raise

    def evaluation(self, record: Record) -> None:
        self.append(record)

    def cut_back(self, step: int) -> None:
        """Drop every line of a step after `step`: a resume continues from its checkpoint, not from later lines."""
        self.close()
        if self.path.exists():
            self._rewrite([record for record in read(self.path) if record["step"] <= step])

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._rewrite(read(self.path))
        binary = getattr(os, "O_BINARY", 0)  # Windows alone has it, and would write \r\n without
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | binary, 0o666)

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        write_text(self.path, "".join(map(_line, records)))


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, in order, without a half-written last line. Damage before it is an error."""
    path = Path(path)
    lines = path.read_bytes().splitlines()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                break
            raise GroundupError(
                f"{path}: line {number} of {len(lines)} is not a JSON object: {error}",
                hint="the file was changed by hand or the disk is failing; remove that line to go on",
            ) from error
        records.append(record)
    return records


def _line(record: Record) -> str:
    return json.dumps(_plain(record), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """`value` as JSON can say it: numbers of torch and numpy become Python's, what is not finite becomes None."""
    if isinstance(value, dict | list | tuple):
        if isinstance(value, dict):
            return {key: _plain(entry) for key, entry in value.items()}
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
