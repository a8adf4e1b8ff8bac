"""The one place that decides which runs a sweep has, who works on one, and what is done.

The sweep is an Optuna study, a configuration one of its trials; each seed of it is a run, an attribute of the trial:

    seed:S      {"state": waiting | running | done | failed | pruned, "owner", "deadline", "reason", "value", "pflop", "seconds"}
    reports:S   {step: value of the metric}

Everything that changes is done inside `locked`: a file lock beside the journal, or a transaction that holds an advisory lock of
PostgreSQL. Both are let go when their holder is killed. A run belongs to an owner until a deadline (seconds since 1970, by the
clock of the database where there is one), which is moved on while it trains; after that anybody may take it over.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from groundup.basis.duration import Clock
from groundup.basis.errors import UsageError
from groundup.basis.files import write_json
from groundup.basis.seeding import seed_from
from groundup.compare.plan import overrides_of, planned_points, run_name
from groundup.compare.pruning import Progress, should_prune
from groundup.compare.space import Point
from groundup.compare.storages import Storage
from groundup.compare.sweep_file import Sweep, validate_sweep

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FORMAT_VERSION = 1
BASE_FILE = "base.yaml"  # the base recipe of a sweep, in its folder
State = Literal["waiting", "running", "done", "failed", "pruned"]
ENDED = ("done", "failed", "pruned")


@dataclass(frozen=True)
class RunRecord:
    """One run as the store knows it. `value`: of the sweep's metric; `pflop`, `seconds`: of training so far told."""

    name: str
    point: Point
    seed: int
    state: State = "waiting"
    owner: str | None = None
    deadline: float = 0.0
    reason: str | None = None
    value: float | None = None
    pflop: float = 0.0
    seconds: float = 0.0
    begun: bool = False
    step: int | None = None


@dataclass(frozen=True)
class Lease:
    """The right to work on a run until the deadline that the store keeps."""

    trial_id: int
    number: int
    name: str
    point: Point
    seed: int
    owner: str
    overrides: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `reason`: why it failed or was pruned."""

    state: State
    reason: str | None = None
    value: float | None = None
    pflop: float = 0.0
    seconds: float = 0.0


class Store:
    """The sweep called `name` in `storage`; `folder`: where its run folders are, and sweep.json, on this machine."""

    def __init__(self, folder: Path, storage: Storage, name: str) -> None:
        self.folder = folder
        self.storage = storage
        with storage.locked():
            self._study = storage.load(name)
        attributes = self._study.user_attrs
        if attributes.get("format") != FORMAT_VERSION:
            raise UsageError(
                f"{storage.where}: sweep {name!r} has format {attributes.get('format')}; this groundup reads {FORMAT_VERSION}"
            )
        self.sweep: Sweep = validate_sweep(attributes["sweep"])
        self.base: str = attributes["base"]
        self.threads: int | None = attributes["threads"]
        self.created: float = attributes["created"]

    @classmethod
    def create(cls, folder: Path, storage: Storage, sweep: Sweep, base: str, threads: int | None) -> "Store":
        """A new sweep, or the one that is there if it is the same. `base`: the base recipe, written out."""
        wanted = {"format": FORMAT_VERSION, "sweep": sweep.model_dump(mode="json", by_alias=True), "base": base}
        with storage.locked() as now:
            study = storage.create(sweep.name, maximize=sweep.maximize)
            known = study.user_attrs
            if "ready" not in known:
                for key, value in {**wanted, "threads": threads, "created": now}.items():
                    study.set_user_attr(key, value)
                for point in planned_points(sweep)[len(study.trials) :]:
                    study.add_trial(_planned(sweep, point))
                study.set_user_attr("ready", True)
            elif different := [key for key in wanted if known.get(key) != wanted[key]]:
                raise UsageError(
                    f"sweep {sweep.name!r} exists already in {storage.where}, with another {' and '.join(different)}",
                    hint="name=ANOTHER begins a new sweep; the same file and overrides go on with this one",
                )
        store = cls(folder, storage, sweep.name)
        store.write_file()
        return store

    def take(self, owner: str) -> tuple[Lease | None, bool]:
        """A run to work on, which is now `owner`'s; None if there is none at the moment. And whether there never will be one."""
        with self.storage.locked() as now:
            trials = self._study.get_trials(deepcopy=False)
            rows = [(trial, record) for trial in trials for record in self._records(trial)]
            abandoned = [row for row in rows if row[1].state == "running" and row[1].deadline < now]
            begun = [row for row in rows if row[1].state == "waiting" and row[1].begun and row[1].deadline < now]
            waiting = [row for row in rows if row[1].state == "waiting" and not row[1].begun]
            within = self._within_budget([record for _, record in rows])
            chosen = next(iter([*abandoned, *begun, *(waiting if within else [])]), None)
            if chosen is None and within and self.sweep.search is not None:
                trial = self._propose(len(trials))
                chosen = (trial, self._records(trial)[0])
            if chosen is None:
                return None, not any(map(_is_open, (record for _, record in rows)))
            trial, record = chosen
            self._write(
                trial._trial_id, record.seed, state="running", owner=owner, deadline=now + self.sweep.lease, begun=True
            )
            self.write_file()
        overrides = overrides_of(self.sweep, record.point, record.seed, self.threads)
        return Lease(trial._trial_id, trial.number, record.name, record.point, record.seed, owner, overrides), False

    def renew(self, lease: Lease) -> bool:
        """Move the deadline on. False if the run is no longer this owner's."""
        with self.storage.locked() as now:
            if not self._holds(lease):
                return False
            self._write(lease.trial_id, lease.seed, deadline=now + self.sweep.lease)
            return True

    def report(self, lease: Lease, step: int, value: float, clock: Clock) -> Literal["go on", "prune", "lost"]:
        """Take down the metric at `step` and say how to go on. `clock`: of this run."""
        with self.storage.locked() as now:
            if not self._holds(lease):
                return "lost"
            self._write(lease.trial_id, lease.seed, deadline=now + self.sweep.lease)
            attributes = self._trial(lease.trial_id).user_attrs
            curve = {**attributes.get(f"reports:{lease.seed}", {}), str(step): value}
            backend = self._study._storage
            backend.set_trial_user_attr(lease.trial_id, f"reports:{lease.seed}", curve)
            progress = [self._progress(trial) for trial in self._study.get_trials(deepcopy=False)]
            own = progress[lease.number]
            seeds = [seed for seed, curve in own.curves.items() if step in curve]
            mean = own.mean_at(step, seeds)
            if self.sweep.search is not None and mean is not None:
                backend.set_trial_intermediate_value(lease.trial_id, step, mean)
            if any(record.state == "pruned" for record in self._records(self._trial(lease.trial_id))):
                return "prune"
            if self.sweep.prune is None:
                return "go on"
            maximize = self.sweep.maximize
            loses = should_prune(self.sweep.prune, progress, lease.number, lease.seed, clock, maximize=maximize)
            return "prune" if loses else "go on"

    def finish(self, lease: Lease, outcome: Outcome) -> bool:
        """Take down how the run ended. False, and nothing is changed, if it is no longer this owner's."""
        with self.storage.locked():
            if not self._holds(lease):
                return False
            self._write(
                lease.trial_id,
                lease.seed,
                owner=None,
                state=outcome.state,
                reason=outcome.reason,
                value=outcome.value,
                pflop=outcome.pflop,
                seconds=outcome.seconds,
            )
            if outcome.state == "pruned":
                for record in self._records(self._trial(lease.trial_id)):
                    if record.state == "waiting":
                        reason = f"seed {lease.seed} of the same configuration was pruned"
                        self._write(lease.trial_id, record.seed, state="pruned", reason=reason)
            self._tell(lease.trial_id)
            self.write_file()
            return True

    def give_back(self, lease: Lease, seconds: float = 0.0) -> None:
        """The run waits again, for `seconds` at least; whoever takes it goes on from its checkpoint."""
        with self.storage.locked() as now:
            if self._holds(lease):
                self._write(lease.trial_id, lease.seed, state="waiting", owner=None, deadline=now + seconds)
                self.write_file()

    def runs(self) -> list[RunRecord]:
        """Every run, configuration by configuration."""
        return [record for trial in self._study.get_trials(deepcopy=False) for record in self._records(trial)]

    def is_over(self) -> bool:
        """Whether nothing is left to do: no run has begun without an end, and the budget lets no other begin."""
        records = self.runs()
        if any(map(_is_open, records)):
            return False
        to_come = self.sweep.search is not None or any(record.state == "waiting" for record in records)
        return not (to_come and self._within_budget(records))

    def write_file(self) -> None:
        """Write sweep.json, what others read of the sweep."""
        shown = ("state", "reason", "value", "pflop", "seconds")
        runs = [
            {"name": run.name, "overrides": run.point, "seed": run.seed, **{key: getattr(run, key) for key in shown}}
            for run in self.runs()
        ]
        content = {
            "format": FORMAT_VERSION,
            "name": self.sweep.name,
            "file": self.sweep.model_dump(mode="json", by_alias=True),
            "metric": self.sweep.metric,
            "mode": "max" if self.sweep.maximize else "min",
            "runs": runs,
        }
        write_json(self.folder / "sweep.json", content)

    def _within_budget(self, records: list[RunRecord]) -> bool:
        budget = self.sweep.budget
        used = (
            (budget.runs, sum(record.begun for record in records)),
            (budget.pflop, sum(record.pflop for record in records)),
            (budget.hours, sum(record.seconds for record in records) / 3600),
        )
        return all(most is None or so_far < most for most, so_far in used)

    def _propose(self, number: int) -> "FrozenTrial":
        search = self.sweep.search
        assert search is not None
        self._study.sampler = self.storage.sampler(search.sampler, search.startup, seed_from(search.draw_seed, number))
        trial = self._study.ask()
        point: Point = {}
        for key, axis in search.space.items():
            if axis.is_active(point):
                point[key] = axis.suggest(trial, key)
        trial.set_user_attr("point", point)
        return self._trial(trial._trial_id)

    def _trial(self, trial_id: int) -> "FrozenTrial":
        return self._study._storage.get_trial(trial_id)

    def _records(self, trial: "FrozenTrial") -> list[RunRecord]:
        attributes = trial.user_attrs
        if "point" not in attributes:
            return []  # its worker was killed while it was being proposed
        records = []
        for seed in self.sweep.seed_list:
            steps = [int(step) for step in attributes.get(f"reports:{seed}", {})]
            known = attributes.get(f"seed:{seed}", {})
            name, step = run_name(trial.number, seed), max(steps, default=None)
            records.append(RunRecord(name, attributes["point"], seed, step=step, **known))
        return records

    def _progress(self, trial: "FrozenTrial") -> Progress:
        curves = {
            seed: {int(step): value for step, value in trial.user_attrs[f"reports:{seed}"].items()}
            for seed in self.sweep.seed_list
            if trial.user_attrs.get(f"reports:{seed}")
        }
        records = self._records(trial)
        return Progress(trial.number, bool(records) and all(record.state == "done" for record in records), curves)

    def _holds(self, lease: Lease) -> bool:
        record = self._trial(lease.trial_id).user_attrs.get(f"seed:{lease.seed}", {})
        return record.get("state") == "running" and record.get("owner") == lease.owner

    def _write(self, trial_id: int, seed: int, **changes: Any) -> None:
        known = self._trial(trial_id).user_attrs.get(f"seed:{seed}", {})
        self._study._storage.set_trial_user_attr(trial_id, f"seed:{seed}", {**known, **changes})

    def _tell(self, trial_id: int) -> None:
        """Tell Optuna of a configuration whose seeds have all come to an end: complete with their mean, or else pruned, which makes
        a sampler keep away from what diverges too."""
        from optuna.trial import TrialState

        records = self._records(self._trial(trial_id))
        if any(record.state not in ENDED for record in records):
            return
        values = [record.value for record in records if record.state == "done" and record.value is not None]
        backend = self._study._storage
        if len(values) == len(records):
            backend.set_trial_state_values(trial_id, TrialState.COMPLETE, [math.fsum(values) / len(values)])
        else:
            backend.set_trial_state_values(trial_id, TrialState.PRUNED)


def _is_open(record: RunRecord) -> bool:
    """Whether the run has begun and has no end: it is carried out whatever the budget says."""
    return record.state == "running" or (record.state == "waiting" and record.begun)


def _planned(sweep: Sweep, point: Point) -> "FrozenTrial":
    """A trial for a configuration that is known beforehand."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    distributions: dict[str, Any] = {}
    for key in point:
        axis = sweep.axes[key]
        if axis.choice is not None:
            distributions[key] = CategoricalDistribution([label for label, _ in axis.options(key)])
        elif axis.whole:
            distributions[key] = IntDistribution(int(axis.low or 0), int(axis.high or 0), log=axis.log)
        else:
            distributions[key] = FloatDistribution(axis.low or 0.0, axis.high or 0.0, log=axis.log)
    return create_trial(
        state=TrialState.RUNNING, params=point, distributions=distributions, user_attrs={"point": point}
    )
