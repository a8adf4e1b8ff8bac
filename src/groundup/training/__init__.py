"""Training: the loop, its state and checkpoints, live settings, the engine. Takes settings objects, never a recipe."""

from groundup.training.checkpoint import CheckpointStore, load_checkpoint, load_weights, read_state
from groundup.training.compiling import check_agreement, compile_network
from groundup.training.engine import Engine, choose_engine
from groundup.training.live import LiveSchedule, LiveValues
from groundup.training.loop import Job, NonFiniteLoss, train, train_step
from groundup.training.order import SampleOrder
from groundup.training.settings import CheckpointSettings, EvaluateSettings, LivePatch, Phase, TrainSettings
from groundup.training.state import Sums, TrainingState

__all__ = [
    "CheckpointSettings",
    "CheckpointStore",
    "Engine",
    "EvaluateSettings",
    "Job",
    "LivePatch",
    "LiveSchedule",
    "LiveValues",
    "NonFiniteLoss",
    "Phase",
    "SampleOrder",
    "Sums",
    "TrainSettings",
    "TrainingState",
    "check_agreement",
    "choose_engine",
    "compile_network",
    "load_checkpoint",
    "load_weights",
    "read_state",
    "train",
    "train_step",
]
