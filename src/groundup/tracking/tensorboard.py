"""TensorBoard event files that hold no host name and that a resume cuts back.

The usual writers put the host and the process id into the file name. Here records go, through tensorboard's own record
writer, into `events.out.tfevents.NNNNNNNNNN.groundup`, NNNNNNNNNN counting the times the run was started: TensorBoard
reads the files of a folder in the order of their names. A thread of its own hands every record to the system at once, so
that a slow or hung disk holds up no step, and a killed process loses only what that disk had not taken yet.

The names of the scalars are those of `scalars.py`.
"""

import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groundup.basis.files import write_bytes
from groundup.tracking.background import BackgroundWriter
from groundup.tracking.base import Picture, Record, Tracker, as_png
from groundup.tracking.scalars import ScalarNames

_PATTERN = "events.out.tfevents.*.groundup"
_CLOSING = 30.0  # seconds that a slow disk has to take what is still waiting


class TensorBoardTracker(Tracker):
    """Writes to event files in `folder`. A resume gives its step as `purge_step`: what is there of later steps goes.

    `closing_seconds`: how long `close` waits for the disk; then GroundupError.
    """

    def __init__(self, folder: Path, purge_step: int | None = None, *, closing_seconds: float = _CLOSING) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if purge_step is not None:
            cut_back(self.folder, purge_step)
        self._last_step = purge_step or 0
        self._names = ScalarNames()
        self._stream = open(self._next_file(), "xb")  # noqa: SIM115 - lives as long as the tracker
        self._records = RecordWriter(self._stream)
        self._closing_seconds = closing_seconds
        self._writer: BackgroundWriter | None = BackgroundWriter("tensorboard", self._store, self._stream.close)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._tell_running_boards(purge_step + 1)

    def start(self, info: Record) -> None:
        self._last_step = int(info.get("step", self._last_step))
        shown = {key: value for key, value in info.items() if not isinstance(value, Mapping)}
        rows = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in shown.items()]
        self._text("run", "\n".join(["| | |", "|---|---|", *rows]))

    def step(self, record: Record) -> None:
        self._last_step = int(record["step"])
        self._scalars(self._names.step(record))

    def evaluation(self, record: Record) -> None:
        self._last_step = int(record["step"])
        self._scalars(self._names.evaluation(record))

    def result(self, record: Record) -> None:
        self.evaluation(record)

    def image(self, name: str, picture: Picture, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        encoded, width, height = as_png(picture)
        content = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=encoded)
        self._write(summary=Summary(value=[Summary.Value(tag=name, image=content)]), step=step)

    def hparams(self, values: Mapping[str, Any], metrics: Mapping[str, float], group: str) -> None:
        """What the HParams page shows: `values` (bool, number or string) of this run, the scalars `metrics`, and which runs are
        repetitions of each other (`group`)."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

        info = SessionStartInfo(group_name=group, start_time_secs=time.time())
        for key, value in values.items():
            kind = (
                "bool_value"
                if isinstance(value, bool)
                else "string_value"
                if isinstance(value, str)
                else "number_value"
            )
            setattr(info.hparams[key], kind, value)
        about = metadata.create_summary_metadata(HParamsPluginData(session_start_info=info))
        told = Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
        self._write(summary=Summary(value=[told]), step=self._last_step)
        self._scalars(dict(metrics))

    def close(self) -> None:
        if self._writer:
            writer, self._writer = self._writer, None
            writer.finish(self._closing_seconds)

    def _next_file(self) -> Path:
        numbers = [int(path.name.split(".")[-2]) for path in self.folder.glob(_PATTERN)]
        return self.folder / _PATTERN.replace("*", f"{max(numbers, default=0) + 1:010d}")

    def _scalars(self, scalars: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars.items()]
        self._write(summary=Summary(value=values), step=self._last_step)

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto())
        value = Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._write(summary=Summary(value=[value]), step=self._last_step)

    def _tell_running_boards(self, step: int) -> None:
        """A TensorBoard that was open during the interruption still shows the dropped steps: make it forget them."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(session_log=SessionLog(status=SessionLog.START), step=step)

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._writer:
            self._writer.put(Event(wall_time=time.time(), **fields).SerializeToString())

    def _store(self, record: bytes) -> None:
        """In the writing thread: hand `record` to the system."""
        self._records.write(record)
        self._stream.flush()


def cut_back(folder: Path, step: int) -> None:
    """Drop from the event files in `folder` what belongs to a step after `step`, and damaged ends of files."""
    for path in sorted(folder.glob(_PATTERN)):
        content = path.read_bytes()
        kept = b"".join(record for record, its_step in _records(content) if its_step <= step)
        if kept != content:
            write_bytes(path, kept)


def _records(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The records of an event file with their steps, up to the first damaged one.

    A record is framed: length (8 bytes), its checksum (4), the event (length), its checksum (4), little-endian.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    position = 0
    while position + 16 <= len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        end = position + 12 + length + 4
        if end > len(content):
            return
        try:
            step = Event.FromString(content[position + 12 : end - 4]).step
        except DecodeError:
            return
        yield content[position:end], step
        position = end
