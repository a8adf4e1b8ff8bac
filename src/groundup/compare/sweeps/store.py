"""The one place that decides which runs a sweep has, who works on one, and what is done.

The sweep is an Optuna study, a configuration one of its trials; each seed of it is a run, an attribute of the trial:

    seed:S      {"state": waiting | running | done | failed | pruned, "owner", "deadline", "begun", "deaths", "reason", "value",
                "pflop", "seconds"}
    reports:S   {step: value of the metric}
    number      the number of the configuration, where it is not the trial's

Everything that changes is done inside `locked`: a file lock beside the journal, or a transaction that holds an advisory lock of
PostgreSQL. Both are let go when their holder is killed. A run belongs to an owner until a deadline (seconds since 1970, by the
clock of the database where there is one), which is moved on while it trains; after that anybody may take it over.

Optuna lets nobody change a trial that has ended. Where a failed run is tried again, or an ended configuration gets more seeds, a
copy of its trial takes its place, under its number.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from groundup.basis.duration import Clock
from groundup.basis.errors import GroundupError, UsageError
from groundup.basis.files import write_json
from groundup.basis.seeding import seed_from
from groundup.compare.sweeps.plan import overrides_of, planned_points, run_name
from groundup.compare.sweeps.pruning import Progress, should_prune
from groundup.compare.sweeps.space import Point
from groundup.compare.sweeps.storages import Storage
from groundup.compare.sweeps.sweep_file import Sweep, base_differences, validate_sweep
from groundup.compare.sweeps.trials import number_of, opened_again, planned_trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FORMAT_VERSION = 1
BASE_FILE = "base.yaml"  # the base recipe of a sweep, in its folder
State = Literal["waiting", "running", "done", "failed", "pruned"]
ENDED = ("done", "failed", "pruned")
_MOST_DEATHS = 3  # of workers of one run, without a new evaluation between
_MOST_FAILURES = 10  # configurations of a search, one after another


@dataclass(frozen=True)
class RunRecord:
    """One run as the store knows it. `value`: of the sweep's metric; `pflop`, `seconds`: of training so far told; `deaths`: workers
    that have let their lease run out since its last evaluation."""

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
    deaths: int = 0
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
        self._file: dict[str, Any] = attributes["sweep"]
        self.sweep: Sweep = validate_sweep(self._file)
        self.base: str = attributes["base"]
        self.threads: int | None = attributes["threads"]
        self.created: float = attributes["created"]

    @classmethod
    def create(cls, folder: Path, storage: Storage, sweep: Sweep, base: str, threads: int | None) -> "Store":
        """A new sweep, or the one that is there if it is the same but for what may change (`Sweep.differs_from`). `base`: the base
        recipe, written out."""
        wanted = {"format": FORMAT_VERSION, "sweep": sweep.model_dump(mode="json", by_alias=True), "base": base}
        with storage.locked() as now:
            study = storage.create(sweep.name, maximize=sweep.maximize)
            known = study.user_attrs
            if "ready" not in known:
                for key, value in {**wanted, "threads": threads, "created": now}.items():
                    study.set_user_attr(key, value)
                for point in planned_points(sweep)[len(study.trials) :]:
                    study.add_trial(planned_trial(sweep, point))
                study.set_user_attr("ready", True)
            elif known["format"] == FORMAT_VERSION:
                different = sweep.differs_from(validate_sweep(known["sweep"]))
                different += base_differences(base, known["base"])
                if different:
                    raise UsageError(
                        f"sweep {sweep.name!r} exists already in {storage.where}; what differs: {', '.join(different)}",
                        hint="name=ANOTHER begins a new sweep; the same file and overrides go on with this one, also with "
                        "another budget, lease or number of workers, a grid or random sweep with more seeds",
                    )
                study.set_user_attr("sweep", wanted["sweep"])
        store = cls(folder, storage, sweep.name)
        store.open_again(failed=False)
        return store

    def open_again(self, *, failed: bool) -> int:
        """Let seeds wait that ended configurations have got since, and with `failed` every failed run. How many that are."""
        count = 0
        with self.storage.locked():
            for trial in self._trials():
                over = trial.state.is_finished()
                seeds = [
                    record.seed
                    for record in self._records(trial)
                    if (failed and record.state == "failed") or (over and record.state == "waiting")
                ]
                count += len(seeds)
                cleared: dict[str, Any] = {f"{what}:{seed}": {} for seed in seeds for what in ("seed", "reports")}
                if over and seeds:
                    self._study.add_trial(opened_again(trial, cleared))
                else:
                    for key, value in cleared.items():
                        self._study._storage.set_trial_user_attr(trial._trial_id, key, value)
            self.write_file()
        return count

    def take(self, owner: str) -> tuple[Lease | None, bool]:
        """A run to work on, which is now `owner`'s; None if there is none at the moment. And whether there never will be one.

        GroundupError for a search of which one configuration after another has failed.
        """
        with self.storage.locked() as now:
            self._read_sweep()
            trials = self._trials()
            if self._end_what_kills(trials, now):
                trials = self._trials()
            rows = [(trial, record) for trial in trials for record in self._records(trial)]
            abandoned = [row for row in rows if row[1].state == "running" and row[1].deadline < now]
            begun = [row for row in rows if row[1].state == "waiting" and row[1].begun and row[1].deadline < now]
            waiting = [row for row in rows if row[1].state == "waiting" and not row[1].begun]
            within = self._within_budget([record for _, record in rows])
            chosen = next(iter([*abandoned, *begun, *(waiting if within else [])]), None)
            if chosen is None and within and self.sweep.search is not None:
                self._refuse_to_go_on_failing(trials)
                trial = self._propose(len(trials))
                chosen = (trial, self._records(trial)[0])
            if chosen is None:
                over = not any(map(_is_open, (record for _, record in rows)))
                if over:
                    self.write_file()  # others may have ended the last runs, in a folder of their own
                return None, over
            trial, record = chosen
            deaths = record.deaths + (record.state == "running")
            begins: dict[str, Any] = {"state": "running", "owner": owner, "begun": True, "deaths": deaths}
            self._write(trial._trial_id, record.seed, **begins, deadline=now + self.sweep.lease)
            self.write_file()
        overrides = overrides_of(self.sweep, record.point, record.seed, self.threads)
        return Lease(trial._trial_id, number_of(trial), record.name, record.point, record.seed, owner, overrides), False

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
            attributes = self._trial(lease.trial_id).user_attrs
            before = attributes.get(f"reports:{lease.seed}", {})
            alive = {} if str(step) in before else {"deaths": 0}
            self._write(lease.trial_id, lease.seed, deadline=now + self.sweep.lease, **alive)
            curve = {**before, str(step): value}
            backend = self._study._storage
            backend.set_trial_user_attr(lease.trial_id, f"reports:{lease.seed}", curve)
            progress = [self._progress(trial) for trial in self._trials()]
            own = next(one for one in progress if one.number == lease.number)
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
            self._read_sweep()
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
        """The run waits again; whoever takes it goes on from its checkpoint. seconds: to wait at least, because the worker that has
        lost its lease is alive and still trains it."""
        with self.storage.locked() as now:
            if self._holds(lease):
                changes: dict[str, Any] = {"state": "waiting", "owner": None, "deadline": now + seconds}
                if seconds:
                    changes["deaths"] = 0
                self._write(lease.trial_id, lease.seed, **changes)
                self.write_file()

    def runs(self) -> list[RunRecord]:
        """Every run, configuration by configuration."""
        return [record for trial in self._trials() for record in self._records(trial)]

    def is_over(self) -> bool:
        """Whether nothing is left to do: no run has begun without an end, and the budget lets no other begin."""
        self._read_sweep()
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
        if trial.number != number:
            trial.set_user_attr("number", number)
        point: Point = {}
        for key, axis in search.space.items():
            if axis.is_active(point):
                point[key] = axis.suggest(trial, key)
        trial.set_user_attr("point", point)
        return self._trial(trial._trial_id)

    def _read_sweep(self) -> None:
        """The same command may have given the sweep more time or seeds since."""
        said = self._study.user_attrs["sweep"]
        if said != self._file:
            self._file, self.sweep = said, validate_sweep(said)

    def _end_what_kills(self, trials: "list[FrozenTrial]", now: float) -> bool:
        """Whether there was one. It has failed: it has cost one worker after another its life, and would be taken over for ever."""
        found = False
        for trial, record in [(one, record) for one in trials for record in self._records(one)]:
            deaths = record.deaths + 1
            if record.state == "running" and record.deadline < now and deaths >= _MOST_DEATHS:
                reason = f"its worker died {deaths} times without a new evaluation between (out of memory?)"
                ended: dict[str, Any] = {"state": "failed", "owner": None, "deaths": deaths, "reason": reason}
                self._write(trial._trial_id, record.seed, **ended)
                self._tell(trial._trial_id)
                found = True
        return found

    def _refuse_to_go_on_failing(self, trials: "list[FrozenTrial]") -> None:
        known = [records for trial in trials if (records := self._records(trial))]
        ended = [records for records in known if all(record.state in ENDED for record in records)]
        last = [record for records in ended[-_MOST_FAILURES:] for record in records]
        if len(ended) >= _MOST_FAILURES and all(record.state == "failed" for record in last):
            raise GroundupError(
                f"the last {_MOST_FAILURES} configurations have all failed; {last[-1].name}: {last[-1].reason}",
                hint="mend the cause, then the same command with --retry-failed; other settings need name=ANOTHER",
            )

    def _trials(self) -> "list[FrozenTrial]":
        """The configurations in their order; of one that was opened again the last trial."""
        return list({number_of(trial): trial for trial in self._study.get_trials(deepcopy=False)}.values())

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
            name, step = run_name(number_of(trial), seed), max(steps, default=None)
            records.append(RunRecord(name, attributes["point"], seed, step=step, **known))
        return records

    def _progress(self, trial: "FrozenTrial") -> Progress:
        curves = {
            seed: {int(step): value for step, value in trial.user_attrs[f"reports:{seed}"].items()}
            for seed in self.sweep.seed_list
            if trial.user_attrs.get(f"reports:{seed}")
        }
        records = self._records(trial)
        return Progress(number_of(trial), bool(records) and all(record.state == "done" for record in records), curves)

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
