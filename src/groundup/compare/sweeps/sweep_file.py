"""The sweep file: which recipe, what is varied, how many seeds, what is compared, and when it is enough.

    name: rates
    base: digits                             # a recipe of the library, or a path beside this file
    fixed: {data.validation: 0.2}
    grid: {schedule.max_lr: [0.03, 0.1]}
    seeds: 3

Validated like a recipe: unknown keys are errors, and every problem is told with its key, value and what is allowed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from groundup.basis.duration import Duration
from groundup.basis.errors import UsageError, listed, nearest
from groundup.basis.settings import Settings
from groundup.compare.sweeps.space import Axis, Point, label_of
from groundup.recipe.compose import lay_override, parse_mapping, read_override
from groundup.recipe.problems import explain

# What a sweep may be gone on with in another way: it decides when runs are begun, not what comes out of one.
_MAY_CHANGE = ("about", "budget", "workers", "lease")
# Keys of a recipe that only speak of it: they may be written anew, as by another version of groundup.
SAID = ("about", "claim")

Metric = Literal["validation_top1", "validation_loss", "average_validation_top1", "average_validation_loss"]


class RandomSettings(Settings):
    """Points drawn at random; point i is a pure function of (draw_seed, i)."""

    count: PositiveInt = Field(description="How many configurations are drawn.")
    draw_seed: int = Field(0, ge=0, description="Seed of the draw.")
    space: dict[str, Axis] = Field(min_length=1, description="Axis to range or choice.")


class SearchSettings(Settings):
    """Points that Optuna proposes from what has been reported so far."""

    sampler: Literal["tpe", "cma_es"] = Field(
        "tpe", description="tpe for any space; cma_es for ranges of numbers only."
    )
    startup: int = Field(10, ge=1, description="Configurations drawn at random before the sampler learns from them.")
    draw_seed: int = Field(0, ge=0, description="Seed of the sampler.")
    space: dict[str, Axis] = Field(min_length=1, description="Axis to range or choice.")

    @model_validator(mode="after")
    def _sampler_can(self) -> "SearchSettings":
        if self.sampler == "cma_es":
            for key, axis in self.space.items():
                if axis.choice is not None or axis.when:
                    raise ValueError(f"sampler=cma_es takes ranges of numbers without `when`; {key} is none; use tpe")
        return self


class Rule(Settings):
    """From the values of an axis to further recipe keys, e.g. a learning rate for each pair of network and optimizer."""

    when: dict[str, Any] = Field(min_length=1, description="Labels of axes: one label or a list of them each.")
    set: dict[str, Any] = Field(min_length=1, description="Recipe keys and values where all of `when` holds.")


class Budget(Settings):
    """When no further run is begun. A run that has begun is carried out."""

    runs: PositiveInt | None = Field(None, description="Most runs, every seed counted.")
    pflop: float | None = Field(None, gt=0, description="Training compute of all runs together, PFLOP.")
    hours: float | None = Field(None, gt=0, description="Hours of training, of all runs and workers together.")


class MedianPruning(Settings):
    """Stop what is worse than the median of the finished configurations at the same step."""

    name: Literal["median"]
    start: Duration = Field(Duration(1, "ep"), description="No run is judged before this point.")
    finished: PositiveInt = Field(4, description="Configurations that must have finished before any is judged.")


class HalvingPruning(Settings):
    """Asynchronous successive halving: at start, start x reduction ... only the best 1/reduction go on (Li et al. 2018)."""

    name: Literal["successive_halving"]
    start: Duration = Field(Duration(1, "ep"), description="The first rung.")
    reduction: int = Field(3, ge=2, description="How many times longer each rung is, and how many compete for a place.")


class HyperbandPruning(Settings):
    """Successive halving in brackets: configuration i begins at rung i modulo the number of rungs (Li et al. 2017)."""

    name: Literal["hyperband"]
    start: Duration = Field(Duration(1, "ep"), description="The first rung of the first bracket.")
    reduction: int = Field(3, ge=2, description="How many times longer each rung is, and how many compete for a place.")


PRUNINGS: dict[str, type[Settings]] = {
    "median": MedianPruning,
    "successive_halving": HalvingPruning,
    "hyperband": HyperbandPruning,
}
PruneSettings = Annotated[MedianPruning | HalvingPruning | HyperbandPruning, Field(discriminator="name")]


class Sweep(Settings):
    """Many runs of one recipe."""

    name: str = Field(
        pattern=r"^[\w.-]+$", description="Name of the sweep and of its folder: letters, digits, `.`, `_`, `-`."
    )
    about: str = Field("", description="What is compared and why, in a sentence.")
    base: str = Field(description="The recipe that is varied: a name of the library, or a path beside the sweep file.")
    fixed: dict[str, Any] = Field(default_factory=dict, description="Recipe keys and values for every run.")
    grid: dict[str, Axis] | None = Field(None, min_length=1, description="Every combination of these choices.")
    random: RandomSettings | None = Field(None, description="Configurations drawn at random.")
    search: SearchSettings | None = Field(None, description="Configurations that Optuna proposes.")
    rules: tuple[Rule, ...] = Field((), description="Recipe keys that depend on several axes; later rules win.")
    seeds: Annotated[int, Field(ge=1)] | tuple[int, ...] = Field(
        3, description="How many seeds each configuration gets (0, 1, 2 ...), or the seeds themselves."
    )
    metric: Metric = Field("validation_top1", description="What is compared, of the weights that a run reports.")
    mode: Literal["max", "min"] | None = Field(
        None, description="Whether more is better; null: max for accuracies, min for losses."
    )
    budget: Budget = Field(default_factory=Budget, description="When no further run is begun.")
    prune: PruneSettings | None = Field(None, description="When a run that falls behind is stopped; null: never.")
    workers: PositiveInt = Field(
        1, description="Processes on this machine; threads are divided among them, each uses one GPU."
    )
    lease: float = Field(
        60.0, ge=0.5, description="Seconds after which a run whose worker gives no sign is taken over by another."
    )
    storage: str | None = Field(
        None, description="postgresql://USER@HOST/DATABASE; null: a journal file in the sweep folder."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Sweep":
        kinds = [kind for kind in ("grid", "random", "search") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"exactly one of grid, random, search is needed; here: {listed(kinds) or 'none of them'}")
        if self.search is not None and self.budget == Budget():
            raise ValueError("search: needs a budget (budget.runs, budget.pflop or budget.hours), or it never ends")
        if self.prune is not None and self.search is None:
            raise ValueError(f"prune: only a search prunes; a {kinds[0]} compares finished runs; remove prune")
        if isinstance(self.seeds, tuple) and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError("seeds: a list needs at least one seed and each of them once")
        _check_axes(self)
        if self.prune is not None:
            for key in ("train.batch_size", "train.epochs"):
                if self.varies(key):
                    raise ValueError(
                        f"prune: compares runs at the same step, which is not the same stage of runs that differ in {key}; "
                        "remove prune, or do not vary it"
                    )
        check_storage(self.storage)
        return self

    @property
    def kind(self) -> Literal["grid", "random", "search"]:
        """How configurations come about."""
        return "grid" if self.grid is not None else "random" if self.random is not None else "search"

    @property
    def axes(self) -> Mapping[str, Axis]:
        """What is varied, in the order of the file."""
        if self.grid is not None:
            return self.grid
        varied = self.random or self.search
        assert varied is not None
        return varied.space

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds of every configuration."""
        return self.seeds if isinstance(self.seeds, tuple) else tuple(range(self.seeds))

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        return self.mode == "max" if self.mode is not None else self.metric.endswith("top1")

    def settings_at(self, point: Point) -> dict[str, Any]:
        """Recipe keys and values at `point`. Of the same key the later wins: fixed, the axes in order, the rules in order. A whole
        section that sets a key wins so over that key by itself."""
        from groundup.compare.sweeps.space import fits

        layers = [self.fixed, *(self.axes[key].settings(key, chosen) for key, chosen in point.items())]
        layers += [rule.set for rule in self.rules if fits(rule.when, point)]
        found: dict[str, Any] = {}
        for layer in layers:
            for leaf in _leaves(layer):
                found.pop(leaf, None)  # single keys are laid over whole sections
            found |= layer
        return found

    def varies(self, key: str) -> bool:
        """Whether an axis or a rule sets that recipe key, or one below it."""
        bundles = [settings for axis, varied in self.axes.items() for _, settings in varied.options(axis)]
        bundles += [{axis: None} for axis, varied in self.axes.items() if varied.choice is None]
        bundles += [rule.set for rule in self.rules]
        return any(f"{leaf}.".startswith(f"{key}.") for bundle in bundles for leaf in _leaves(bundle))

    def differs_from(self, other: "Sweep") -> list[str]:
        """The keys by which this is another sweep than `other`. It is the same with another budget, lease or number of workers, and
        with more seeds where it is no search."""
        now, then = (one.model_dump(mode="json", by_alias=True) for one in (self, other))
        more = self.search is None and set(self.seed_list) >= set(other.seed_list)
        may = {*_MAY_CHANGE, *(["seeds"] if more else [])}
        return [key for key in differing_keys(now, then) if key.partition(".")[0] not in may]


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The validated sweep of that file. An override whose first part is a key of the sweep file (seeds, budget, workers ...; `name`
    is the sweep's) changes the sweep, any other is a recipe key and goes into `fixed`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"sweep {str(path)!r}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"sweep {str(path)!r}: not a text file in UTF-8: {error}") from None
    values = parse_mapping(str(path), text, "a sweep is a mapping of keys such as name, base, grid, seeds")
    fixed = values.setdefault("fixed", {})
    for override in overrides:
        key, value = read_override(override)
        if key.partition(".")[0] in Sweep.model_fields or not isinstance(fixed, dict):
            lay_override(values, override)
        else:
            fixed[key] = value
    base = values.get("base")
    if isinstance(base, str) and (beside := path.parent / base).is_file():
        values["base"] = str(beside)
    return validate_sweep(values)


def validate_sweep(values: Mapping[str, Any]) -> Sweep:
    """A sweep from plain values; UsageError names every problem with its key, value and what is allowed."""
    try:
        return Sweep.model_validate(values)
    except ValidationError as error:
        raise explain(error, values, Sweep, "sweep file") from None


def base_differences(now: str, then: str) -> list[str]:
    """Where two base recipes, written out, ask for other runs."""
    keys = differing_keys(yaml.safe_load(now), yaml.safe_load(then))
    return [f"{key} of the base recipe" for key in keys if key.partition(".")[0] not in SAID]


def differing_keys(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """The keys whose values are not the same, dotted."""
    found = []
    for key in dict.fromkeys([*now, *then]):
        one, other = now.get(key), then.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += [f"{key}.{inner}" for inner in differing_keys(one, other)]
        elif one != other:
            found.append(key)
    return found


def _leaves(settings: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys that recipe settings set."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{key}.{inner}" for inner in _leaves(value))
        else:
            yield key


def _check_axes(sweep: Sweep) -> None:
    seen: dict[str, Axis] = {}
    for key, axis in sweep.axes.items():
        if sweep.kind == "grid" and axis.choice is None:
            raise ValueError(
                f"grid.{key}: a grid needs the values themselves, in a list; random and search take a range"
            )
        if key in sweep.fixed:
            raise ValueError(f"{key}: both fixed and varied; remove it from `fixed` (or from the command line)")
        _check_when(f"{key}.when", axis.when, seen)
        if "." not in key and not isinstance(axis.choice, dict) and key not in _whole_keys():
            raise ValueError(
                f"{key}: neither a recipe key such as schedule.max_lr nor a name with labelled bundles "
                f"({key}: {{LABEL: {{schedule.max_lr: 0.1}}}})"
            )
        seen[key] = axis
    for number, rule in enumerate(sweep.rules):
        _check_when(f"rules.{number}.when", rule.when, seen)
    set_here = [key for axis in (*sweep.axes.items(),) for _, keys in axis[1].options(axis[0]) for key in keys]
    for key in (*set_here, *sweep.fixed, *(key for rule in sweep.rules for key in rule.set)):
        if key in ("seed", "name"):
            raise ValueError(f"{key}: a sweep sets it itself; seeds are in `seeds`")


def _check_when(where: str, when: Mapping[str, Any], seen: Mapping[str, Axis]) -> None:
    for key, labels in when.items():
        axis = seen.get(key)
        if axis is None or axis.choice is None:
            allowed = [name for name, other in seen.items() if other.choice is not None]
            raise ValueError(
                f"{where}: {key!r} is no axis with a choice that stands before it; allowed: {listed(allowed)}"
            )
        known = [label for label, _ in axis.options(key)]
        for label in labels if isinstance(labels, list | tuple) else [labels]:
            if label_of(label) not in known:
                near = nearest(str(label), [str(name) for name in known])
                meant = f"; did you mean {near!r}?" if near else ""
                raise ValueError(f"{where}.{key}={label!r}: no such label; allowed: {listed(map(str, known))}{meant}")


def _whole_keys() -> list[str]:
    from groundup.recipe import Recipe

    return list(Recipe.model_fields)


def check_storage(storage: str | None) -> None:
    """ValueError unless `storage` is null or the address of a PostgreSQL database without a password."""
    if storage is None:
        return
    scheme, separator, _ = storage.partition("://")
    if scheme != "postgresql" or not separator:
        raise ValueError(f"storage={storage!r}: allowed: postgresql://USER@HOST/DATABASE, or null for a journal file")
    parts = urlsplit(storage)
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError("storage: no password in it (it is written into files); put it into ~/.pgpass or PGPASSWORD")
