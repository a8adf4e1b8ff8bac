"""What limits a run here, and what to change: rules over what `groundup bench` has measured. Each line says what it saw."""

from typing import Any

from groundup.basis.machine import usable_cores
from groundup.data.decoding_loader import MOST_WORKERS, automatic_workers
from groundup.recipe import Recipe
from groundup.runs.cost.parts import shares
from groundup.runs.from_disk import cuts_at_load
from groundup.training import Engine

FEEDING = 0.05  # share of the step that gathering and augmentation may take
OPTIMIZING = 0.15
_AHEAD = 4  # micro-batches decoded ahead, the default: more hold up memory and seldom help
OTHER = 0.10
_FULL = 1.02  # of a matrix product: above what two measurements of the same rate differ by
LOW = {"cpu": 0.35, "cuda": 0.2}  # shares of a matrix product below which the network itself is badly fed


def advice(recipe: Recipe, engine: Engine, sizes: list[dict[str, Any]], fits: bool) -> list[str]:
    """Lines for the input size at which a step takes longest. `sizes`: as `bench` measured them; `fits`: whether the decoded
    images can be kept in the memory of the device."""
    slowest = max(sizes, key=lambda size: size["seconds"]["step"])
    share, device = shares(slowest["seconds"]), engine.torch_device.type
    # SAM's second pass is the network's too.
    network = share["forward"] + share["backward"] + share["sam"]
    busy = slowest["mfu"] / network if network else 0.0  # `mfu` is over the whole step
    found = [f"the network takes {network:.0%} of a step, in which it runs at {busy:.0%} of a matrix product here"]
    if busy > _FULL:
        found.append(
            "more than 100%: other work ran when the matrix product was timed, or the network leaves out products with "
            "padding, which the usual count holds (speed_net does, on a CPU)"
        )
    if share["data"] > FEEDING:
        found += _slow_data(recipe, engine, share["data"], slowest["resolution"], fits)
    if share["augment"] > FEEDING:
        names = ", ".join(operation.name for operation in recipe.augment.policy) or "normalisation alone"
        found.append(
            f"augmentation takes {share['augment']:.0%} of a step ({names}); a shorter augment.policy, or a lower probability"
        )
    if share["optimizer"] > OPTIMIZING:
        found.append(
            f"the optimizer takes {share['optimizer']:.0%} of a step, whatever the batch: a larger train.batch_size "
            f"(now {recipe.train.batch_size}) pays it less often"
        )
    if share["average"] > FEEDING:
        found.append(
            f"the average takes {share['average']:.0%} of a step; a larger average.every updates it less often"
        )
    if share["other"] > OTHER:
        found.append(
            f"{share['other']:.0%} of a step is in none of its parts: with steps of "
            f"{1000 * slowest['seconds']['step']:.0f} ms a larger train.batch_size hides it"
        )
    if not engine.channels_last:
        found.append("train.channels_last=false: convolutions are usually faster with it")
    if busy < LOW.get(device, 0.0):
        found += _slow_network(recipe, engine)
    return found


def _slow_data(recipe: Recipe, engine: Engine, share: float, resolution: int, fits: bool) -> list[str]:
    """What can be followed: a stream has no other cache, and a crop that is cut while decoding is another run with one."""
    data = recipe.data
    if data.cache != "none":
        gains = fits and data.cache != "device" and (data.cache, engine.torch_device.type) != ("host", "cpu")
        mend = "; data.cache=device keeps the pixels there" if gains else ""
        return [f"gathering the pixels takes {share:.0%} of a step{mend}"]
    mends = []
    most = min(MOST_WORKERS, usable_cores())
    workers = automatic_workers(engine.torch_device) if data.workers == "auto" else data.workers
    if workers < most:
        mends.append(f"more threads decode with data.workers={most} (now {workers})")
    if data.prefetch < _AHEAD:
        mends.append(f"data.prefetch={_AHEAD} (now {data.prefetch}) decodes further ahead")
    size = data.resolution or resolution
    mends.append(f"images that `groundup data pack SOURCE DEST --resolution {size}` has made smaller decode faster")
    if not (data.streaming or cuts_at_load(recipe)):
        mends.append(f"data.cache={'device' if fits else 'disk'} decodes them once")
    return [f"waiting for decoded images takes {share:.0%} of a step: {mend}" for mend in mends]


def _slow_network(recipe: Recipe, engine: Engine) -> list[str]:
    device, found = engine.torch_device.type, []
    if device == "cuda" and not engine.compiled:
        found.append(f"the network is not compiled ({engine.why}); train.compile=always tries it")
    if device == "cuda" and engine.precision == "fp32":
        found.append("fp32 on a GPU; train.precision=auto takes what the hardware multiplies fastest")
    if recipe.train.micro_batch is not None and recipe.train.micro_batch < recipe.train.batch_size:
        found.append(
            f"micro-batches of {recipe.train.micro_batch}: larger ones feed the hardware better, if memory allows"
        )
    return found or ["small or thin layers cannot feed this hardware; a wider network costs less than its FLOPs say"]
