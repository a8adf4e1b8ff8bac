"""Averages of the weights along a run: EMA forgets exponentially, SWA is the plain mean. The training never sees them.

A sample is taken after finished update number s (counted from 1) when s >= F and (s - F) is a multiple of `every`, F being
`start` (SWA: the end of its anneal). The first sample is a copy; after n samples, the next one, w, joins the average a as

    EMA   a <- d * a + (1 - d) * w,  d = exp(-every / horizon), with warm-up at most (1 + n) / (10 + n)
    SWA   a <- (n * a + w) / (n + 1)

Batch-norm statistics are not weights: those of the average are measured with its own weights (`Average.refresh_norms`).

EMA
    Source   Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992); Morales-Brotons, Vogels,
             Hendrikx, "Exponential Moving Average of Weights in Deep Learning" (TMLR 2024, arXiv 2411.18704).
    Changed  The memory is a length of training, not a decay per update, so that it survives another batch size, another
             `every` and a shorter run: decay 0.999 at every step is horizon 1000step; a half-life is 0.69 of the horizon.
    Values   Decays of 0.998 to 0.999875 a step (horizon 500 to 8000 steps) with this warm-up in the paper; 2 to 5 epochs are
             typical; a half-life of about 16 of 600 epochs, sampled every 32 steps, for ResNet-50 on ImageNet.
    Hurts    A horizon that is long against the run: a decay of 0.9999 without warm-up keeps 90% of where it began after
             1000 updates, 37% after 10000. While the accuracy still climbs the average lags behind the model, and at the
             end of a schedule that falls to zero the two are close: expect a few tenths of a percent there.
SWA
    Source   Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018, arXiv 1803.05407).
    Changed  No sample is taken while the rate is annealed: the mean never forgets.
    Values   A constant rate of 0.05 from epoch 161 of 200 to 300 on CIFAR, one sample an epoch; a start at 0.7dur.
    Hurts    Samples taken where the rate is close to zero are nearly the same weights: nothing to average. An `lr` above the
             schedule's rate at `start` anneals up, and the model itself gets worse: that is not divergence.

Cost     One more copy of the weights, one read of all weights a sample, and one forward pass over some training batches before
         each evaluation.
Mistake  The one that taught us: averaging `parameters()` of a copy made at the start and nothing else. Its batch norms then hold
         the statistics of initialisation (mean 0, variance 1), and the average sits at chance level whatever the decay; the
         augmentation was blamed. Its cousin is to average every buffer: integers (`num_batches_tracked`) have no mean.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from groundup.basis.duration import Clock, Duration
from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.settings import Settings
from groundup.evaluation import evaluation_mode
from groundup.training.settings import Interval


class NoAverage(Settings):
    """The weights of the last step are the result."""

    name: Literal["none"] = Field("none", description="No average.")

    def check(self, clock: Clock) -> None:
        """Fits every run."""


class EMASettings(Settings):
    """Exponential moving average of the weights."""

    name: Literal["ema"] = Field("ema", description="Exponential moving average of the weights.")
    horizon: Duration = Field(
        description="Time in which the share of a weight in the average falls to 1/e; above 0, at most the run."
    )
    warmup: bool = Field(
        True,
        description="Whether the decay is at most (1 + n) / (10 + n) after n samples, so that the start is forgotten.",
    )
    every: Interval = Field(
        Duration(1, "step"), description="Time between samples, at most the run; the decay allows for it."
    )
    start: Duration = Field(Duration(0, "step"), description="When the average begins; before the end of the run.")

    def check(self, clock: Clock) -> None:
        """Raise UsageError if this average does not fit into a run of this length."""
        if not 0 < (steps := clock.steps(self.horizon)) <= clock.total_steps:
            raise UsageError(
                f"average.horizon={self.horizon}: {steps} steps in a run of {clock.total_steps} steps; "
                "allowed: from 1 step to the run",
                hint="write it as a share of the run, e.g. average.horizon=0.1dur",
            )
        _check_sampling(self, clock, "average.every=1step")

    def first_sample(self, clock: Clock) -> int:
        """The number of finished updates from which on samples are taken."""
        return clock.steps(self.start)

    def share(self, samples: int, clock: Clock) -> float:
        """The share of a new sample in the average of `samples` earlier ones, 1 or more, and itself."""
        decay = math.exp(-_interval(self, clock) / clock.steps(self.horizon))
        return 1.0 - (min(decay, (1 + samples) / (10 + samples)) if self.warmup else decay)


class SWASettings(Settings):
    """Stochastic weight averaging: the plain mean of the weights from `start` on."""

    name: Literal["swa"] = Field("swa", description="Stochastic weight averaging: plain mean of the weights.")
    start: Duration = Field(description="When the average, and `lr`, begin; before the end of the run.")
    every: Interval = Field(Duration(1, "ep"), description="Time between samples, at most the run.")
    lr: float | None = Field(
        None, gt=0, description="Constant learning rate from `start` on, above 0; null keeps the schedule."
    )
    anneal: Duration = Field(
        Duration(0, "step"),
        description="Time in which the rate goes, along half a cosine, from the schedule's at `start` to `lr`; sampled after it.",
    )

    @model_validator(mode="after")
    def _anneal_needs_lr(self) -> "SWASettings":
        if self.anneal.value and self.lr is None:
            raise ValueError(f"anneal={self.anneal} does nothing without lr; set lr as well")
        return self

    def check(self, clock: Clock) -> None:
        """Raise UsageError if this average does not fit into a run of this length."""
        _check_sampling(self, clock, "average.every=0.05dur")

    def first_sample(self, clock: Clock) -> int:
        """The number of finished updates from which on samples are taken."""
        return clock.steps(self.start) + clock.steps(self.anneal)

    def share(self, samples: int, clock: Clock) -> float:
        """The share of a new sample in the average of `samples` earlier ones, 1 or more, and itself."""
        return 1.0 / (samples + 1)


AVERAGES: dict[str, type[NoAverage] | type[EMASettings] | type[SWASettings]] = {
    "none": NoAverage,
    "ema": EMASettings,
    "swa": SWASettings,
}

AverageSettings = Annotated[NoAverage | EMASettings | SWASettings, Field(discriminator="name")]


def _interval(settings: EMASettings | SWASettings, clock: Clock) -> int:
    """Steps between samples, at least 1."""
    return max(1, clock.steps(settings.every))


def _check_sampling(settings: EMASettings | SWASettings, clock: Clock, denser: str) -> None:
    total, every, first = clock.total_steps, _interval(settings, clock), settings.first_sample(clock)
    start = clock.steps(settings.start)
    if start >= total:
        raise UsageError(
            f"average.start={settings.start}: step {start} of a run of {total} steps; allowed: before the end",
            hint="write it as a share of the run, e.g. average.start=0.7dur",
        )
    if every > total:
        raise UsageError(
            f"average.every={settings.every}: {every} steps in a run of {total} steps; allowed: at most the run",
            hint=f"set {denser}",
        )
    # Nothing is sampled at step 0, where no update has been made.
    samples = max(0, (total - first) // every + (first > 0))
    if samples < 2:
        raise UsageError(
            f"average: {samples} sample(s) from step {first} to the end, step {total}, one in {every} steps; allowed: 2 or more",
            hint=f"begin earlier or sample more often, e.g. average.start=0.7dur {denser}",
        )


def swa_lr(settings: SWASettings, step: int, clock: Clock, scheduled: Callable[[int], float]) -> float:
    """The learning rate of update number `step` (0-based); `scheduled(step)`: that of the schedule.

    A pure function of the step: nothing has to be restored on resume. It is the schedule's before `start`, then goes from the
    schedule's value at `start` to `lr` along half a cosine of length `anneal`, and stays.
    """
    start, anneal = clock.steps(settings.start), clock.steps(settings.anneal)
    if settings.lr is None or step < start:
        return scheduled(step)
    if step >= start + anneal:
        return settings.lr
    fall = (1 + math.cos(math.pi * (step - start) / anneal)) / 2
    return settings.lr + (scheduled(start) - settings.lr) * fall


class Average:
    """The averaged network of a run. It begins as a copy of `model`, in evaluation mode, on its device and in its memory layout.

    `network`: averaged floating-point parameters, in their own precision; batch-norm statistics of its own, which mean nothing
    before `refresh_norms`; every other buffer and integer parameter as the model had it at the last sample.
    `updates`: samples taken. The state is `to_dict()` and `network.state_dict()`.
    """

    def __init__(self, settings: EMASettings | SWASettings, model: nn.Module, clock: Clock) -> None:
        self.updates = 0
        self._measured_at: int | None = None  # samples taken when the batch-norm statistics were measured
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self._settings, self._clock = settings, clock
        self._first, self._every = settings.first_sample(clock), _interval(settings, clock)
        self._connect(model)

    def _connect(self, model: nn.Module) -> None:
        """Pair what is averaged and what is copied with its source, once: a sample then costs no walk through the modules."""
        self._model = model
        pairs = list(zip(self.network.parameters(), model.parameters(), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._own: list[Tensor] = [own for own, _ in averaged]
        self._sources: list[Tensor] = [source for _, source in averaged]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        modules = zip(self.network.modules(), model.modules(), strict=True)
        self._with_buffers = [
            (own, source)
            for own, source in modules
            if not _keeps_statistics(own) and next(own.buffers(recurse=False), None) is not None
        ]

    @property
    def ready(self) -> bool:
        """Whether there is an average: at least one sample."""
        return self.updates > 0

    @property
    def fresh(self) -> bool:
        """Whether the batch-norm statistics have been measured with the weights as they are."""
        return self._measured_at == self.updates

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take a sample of `model` (not compiled: the network itself) if one is due after `step` finished updates."""
        if step < max(1, self._first) or (step - self._first) % self._every:
            return
        if model is not self._model:
            self._connect(model)
        if self.updates == 0:
            torch._foreach_copy_(self._own, self._sources)
        else:
            torch._foreach_lerp_(self._own, self._sources, self._settings.share(self.updates, self._clock))
        for own_parameter, parameter in self._copied:
            own_parameter.copy_(parameter)
        for own_module, module in self._with_buffers:
            # Looked up each time: a module may put a new tensor in a buffer's place.
            for own_buffer, buffer in zip(own_module.buffers(False), module.buffers(False), strict=True):
                own_buffer.copy_(buffer)
        self.updates += 1

    def refresh_norms(
        self,
        batches: Iterable[Tensor],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure the batch-norm statistics of the averaged weights; does nothing for a network without batch norm.

        batches: training images as evaluation would see them, normalised, float (B, 3, S, S) on the network's device: not
        mixed, not augmented. Every batch counts the same, whatever its size.
        autocast: makes the precision context of one forward pass. check: called before every batch; raises to stop, and then
        the statistics are what they were.
        """
        refresh_norms(self.network, batches, autocast, check)
        self._measured_at = self.updates

    def to_dict(self) -> dict[str, Any]:
        """The counters; the weights and statistics are in `network.state_dict()`."""
        return {"updates": self.updates, "measured_at": self._measured_at}

    def load_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `to_dict` gave."""
        self.updates = int(saved["updates"])
        self._measured_at = saved.get("measured_at")  # checkpoints from before it was kept are measured again


def refresh_norms(
    network: nn.Module,
    batches: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Measure the batch-norm statistics of `network` anew, as `Average.refresh_norms` says. Whether it has any."""
    norms = [module for module in network.modules() if _keeps_statistics(module)]
    if not norms:
        return False
    count = 0
    with evaluation_mode(network), _measuring(norms), torch.no_grad():
        for images in batches:
            check()
            with autocast():
                network(images)
            count += 1
        if count == 0:
            raise GroundupError(
                "the batch-norm statistics cannot be measured: 0 batches",
                hint="give at least one batch of training images",
            )
    return True


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextmanager
def _measuring(norms: list[nn.Module]) -> Iterator[None]:
    """Inside, `norms` alone are in training mode and take the plain mean over all batches. After an exception their statistics
    are what they were before; the mode is left to the caller."""
    before = [(norm.momentum, [buffer.clone() for buffer in norm.buffers(False)]) for norm in norms]
    for norm in norms:
        assert isinstance(norm, _BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    except BaseException:
        for norm, (_, statistics) in zip(norms, before, strict=True):
            for buffer, old in zip(norm.buffers(False), statistics, strict=True):
                buffer.copy_(old)
        raise
    finally:
        for norm, (momentum, _) in zip(norms, before, strict=True):
            norm.momentum = momentum
