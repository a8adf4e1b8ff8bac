"""What is written while training: JSON lines, TensorBoard, Weights & Biases, the terminal."""

from groundup.tracking.base import Picture, Record, Tracker, Trackers
from groundup.tracking.jsonl import MetricsFile, read
from groundup.tracking.settings import TrackSettings
from groundup.tracking.tensorboard import TensorBoardTracker
from groundup.tracking.terminal import TerminalTracker
from groundup.tracking.weights_and_biases import WandbTracker

__all__ = [
    "MetricsFile",
    "Picture",
    "Record",
    "TensorBoardTracker",
    "TerminalTracker",
    "TrackSettings",
    "Tracker",
    "Trackers",
    "WandbTracker",
    "read",
]
