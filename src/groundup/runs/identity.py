"""What makes two runs the same run: the parts of the recipe that decide the result, and the fingerprint of the data."""

from typing import Any

from groundup.recipe import Recipe, validate
from groundup.runs.from_disk import cuts_at_load

# Where and how often copies of checkpoints are kept says nothing about the run.
_MIRROR = ("mirror", "mirror_keep", "mirror_every")
# The fingerprint says whether the images and labels are the same, wherever they lie.
_WHERE_THE_DATA_IS = ("source", "image", "label")
_MACHINE = ("device", "threads")
# Constants that were measured on nine tenths of the images differ by less, of pixels in [0, 1].
_CLOSE = 0.02


def what_decides(recipe: Recipe) -> dict[str, Any]:
    """The recipe without what changes no result: where the images lie (their fingerprint says whether they are the same) and are
    kept (a run that ran out of memory goes on with less), where checkpoints are copied to, what is tracked, checked and said about
    it."""
    written = recipe.model_dump(mode="json", by_alias=True)
    # Data in shards has an order of its own.
    written["data"]["source"] = recipe.data.kind if recipe.data.streaming else "read whole"
    for key in ("cache", "workers", "prefetch", "shard_cache_gb"):
        written["data"].pop(key)
    written["data"]["cut while decoding"] = cuts_at_load(recipe)
    for key in _MIRROR:
        written["checkpoint"].pop(key)
    written["train"].pop("collective_timeout")
    return {key: value for key, value in written.items() if key not in ("about", "claim", "check", "cost", "track")}


def differences(was: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Where two nested values differ: (dotted key, the old value, the new one)."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted(was.keys() | now.keys())
        return [d for k in keys for d in differences(was.get(k), now.get(k), f"{key}.{k}" if key else k)]
    return [] if was == now else [(key, was, now)]


def refused_changes(then: Recipe, now: Recipe) -> list[tuple[str, Any, Any]]:
    """What keeps a run that was begun with one recipe from going on with the other. A stream may go on with on_bad_image=skip: had
    a damaged image been met, the run would have ended there."""
    was, is_now = what_decides(then), what_decides(now)
    if now.data.streaming and now.data.on_bad_image == "skip":
        was["data"]["on_bad_image"] = "skip"
    return differences(was, is_now)


def recipe_differences(there: Recipe, here: Recipe, *, but_validation: bool = False) -> list[tuple[str, Any, Any]]:
    """Where two runs on the same data differ in what decides the result but for seed, name and machine: nothing if they are of one
    recipe. `but_validation`: nor in how much was held back for validation."""
    was, now = (_of_any_seed(recipe, but_validation) for recipe in (there, here))
    measured_there, measured_here = (recipe["augment"].pop("normalize") for recipe in (was, now))
    changes = differences(was, now)
    if not _are_close(measured_there, measured_here):
        changes += differences(measured_there, measured_here, "augment.normalize")
    return changes


def _of_any_seed(recipe: Recipe, but_validation: bool) -> dict[str, Any]:
    kept = what_decides(recipe)
    for key in ("seed", "name", "checkpoint"):
        kept.pop(key)
    for key in (*_WHERE_THE_DATA_IS, *(["validation"] if but_validation else [])):
        kept["data"].pop(key)
    for key in _MACHINE:
        kept["train"].pop(key)
    return kept


def _are_close(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether the constants are the same, or were measured on two parts of the same images."""
    if None in (*there.values(), *here.values()):
        return there == here
    return all(abs(one - other) <= _CLOSE for key in here for one, other in zip(there[key], here[key], strict=True))


def told(changes: list[tuple[str, Any, Any]], limit: int = 5) -> str:
    """Differences in words, the first `limit` of them."""
    said = [f"{key}: {was!r} there, {now!r} here" for key, was, now in changes[:limit]]
    return "; ".join([*said, *([f"{len(changes) - limit} more"] if len(changes) > limit else [])])


def identity_of(recipe: Recipe, fingerprint: str | None) -> dict[str, Any]:
    """What a mirror remembers of the run that it belongs to. `fingerprint`: of the data, None if it is not known."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True), "data": fingerprint}


def changes_between(there: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between two identities; nothing if they are of one run. The one `there` may be from before a key existed."""
    then, now = (validate(identity["recipe"]) for identity in (there, here))
    data = [] if None in (there["data"], here["data"]) else differences(there["data"], here["data"], "data")
    return [*refused_changes(then, now), *data]
