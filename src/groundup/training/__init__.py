"""Training: the loop, its state and checkpoints, live settings, the engine. Takes settings objects, never a recipe."""

from groundup.training.average import AVERAGES, Average, AverageSettings, EMASettings, NoAverage, SWASettings
from groundup.training.checkpoint import AVERAGE, MODEL, CheckpointStore, load_checkpoint, load_weights, read_state
from groundup.training.compiling import check_agreement, compile_network, first_passes, warm_up
from groundup.training.distributed import LostProcess, World, job_id, share_of, together
from groundup.training.engine import Engine, choose_engine, hardware_for
from groundup.training.gradients import check_equal_parts, gradients_of
from groundup.training.live import LiveSchedule, LiveValues
from groundup.training.loop import Job, train, train_step
from groundup.training.order import SampleOrder
from groundup.training.rates import Rates
from groundup.training.settings import (
    CheckpointSettings,
    EvaluateSettings,
    LivePatch,
    Phase,
    StopSettings,
    TrainSettings,
    mirror_problem,
)
from groundup.training.state import Sums, TrainingState
from groundup.training.watch import NonFiniteLoss

__all__ = [
    "AVERAGE",
    "AVERAGES",
    "MODEL",
    "Average",
    "AverageSettings",
    "CheckpointSettings",
    "CheckpointStore",
    "EMASettings",
    "Engine",
    "EvaluateSettings",
    "Job",
    "LivePatch",
    "LiveSchedule",
    "LiveValues",
    "LostProcess",
    "NoAverage",
    "NonFiniteLoss",
    "Phase",
    "Rates",
    "SWASettings",
    "SampleOrder",
    "StopSettings",
    "Sums",
    "TrainSettings",
    "TrainingState",
    "World",
    "check_agreement",
    "check_equal_parts",
    "choose_engine",
    "compile_network",
    "first_passes",
    "gradients_of",
    "hardware_for",
    "job_id",
    "load_checkpoint",
    "load_weights",
    "mirror_problem",
    "read_state",
    "share_of",
    "together",
    "train",
    "train_step",
    "warm_up",
]
