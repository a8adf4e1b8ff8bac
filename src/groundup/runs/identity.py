"""What makes two runs the same run: the parts of the recipe that decide the result, and the fingerprint of the data."""

from typing import Any

from groundup.recipe import Recipe, validate
from groundup.runs.from_disk import cuts_at_load

# Where and how often copies of checkpoints are kept says nothing about the run.
_MIRROR = ("mirror", "mirror_keep", "mirror_every")


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


def told(changes: list[tuple[str, Any, Any]], limit: int = 5) -> str:
    """Differences in words, the first `limit` of them."""
    said = [f"{key}: {was!r} there, {now!r} here" for key, was, now in changes[:limit]]
    return "; ".join([*said, *([f"{len(changes) - limit} more"] if len(changes) > limit else [])])


def identity_of(recipe: Recipe, fingerprint: str | None) -> dict[str, Any]:
    """What a mirror remembers of the run that it belongs to. `fingerprint`: of the data, None if it is not known."""
    return {"recipe": recipe.model_dump(mode="json", by_alias=True), "data": fingerprint}


def changes_between(there: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between two identities; nothing if they are of one run. The one `there` may be from before a key existed."""
    then, now = (what_decides(validate(identity["recipe"])) for identity in (there, here))
    data = [] if None in (there["data"], here["data"]) else differences(there["data"], here["data"], "data")
    return [*differences(then, now), *data]
