"""What a run cost, for its card: compute, hours, and an estimate of the energy.

Energy (kWh) = rated power of the device (W) x hours of training / 1000. It is an estimate: nothing was metered.
Rated powers are the makers'
figures for the whole board; of a processor, WATTS_PER_THREAD for each thread used. The rest of the machine and its
cooling are not in it.
"""

import re
from typing import Any

# Rated board power in W, by a word of the name that torch gives; the first that fits.
_BOARDS = (
    (r"B200", 1000),
    (r"H200", 700),
    (r"H100.*PCIe", 350),
    (r"H100", 700),
    (r"A100.*PCIe", 300),
    (r"A100", 400),
    (r"L40S", 350),
    (r"L40", 300),
    (r"L4", 72),
    (r"A10G", 300),
    (r"A10", 150),
    (r"T4", 70),
    (r"V100.*PCIe", 250),
    (r"V100", 300),
    (r"P100", 250),
    (r"RTX A6000", 300),
    (r"RTX 4090", 450),
    (r"RTX 4080", 320),
    (r"RTX 3090", 350),
    (r"RTX 3080", 320),
)
_OTHER_BOARD = 300
_APPLE = 40
WATTS_PER_THREAD = 6


def watts(summary: dict[str, Any]) -> tuple[float, str]:
    """The power that the estimate assumes, W, and in words where it comes from. Every process has a device of its own."""
    power, source = _of_one(summary)
    processes = summary.get("processes") or 1  # a summary of an earlier version does not tell them
    return processes * power, f"{processes} times {source}" if processes > 1 else source


def _of_one(summary: dict[str, Any]) -> tuple[float, str]:
    device = str(summary["device"]).partition(":")[0]
    if device == "cpu":
        threads = summary["threads"]
        return threads * WATTS_PER_THREAD, f"{threads} threads of a processor at {WATTS_PER_THREAD} W each"
    if device == "mps":
        return _APPLE, f"{_APPLE} W assumed for an Apple processor"
    boards = [(_rated(name), name) for name in str(summary["hardware"]).split(", then ")]
    known = [(power, name) for power, name in boards if power is not None]
    if not known:
        return _OTHER_BOARD, f"{_OTHER_BOARD} W assumed for an accelerator of unknown rated power"
    power, name = max(known)
    return power, f"the rated power of {name}"


def _rated(name: str) -> int | None:
    return next((power for word, power in _BOARDS if re.search(rf"\b{word}\b", name, re.IGNORECASE)), None)


def cost_lines(summary: dict[str, Any]) -> list[str]:
    """The section `Cost` of the card, a line each."""
    hours = summary["seconds"] / 3600
    power, source = watts(summary)
    return [
        f"compute: {summary['pflop']:.4g} PFLOP of training (3 forward passes for each image; evaluation is not in it)",
        f"time: {hours:.3g} hours of training on {summary['hardware']}",
        f"energy: about {power * hours / 1000:.2g} kWh, an estimate and not a measurement: {power:g} W ({source}) for "
        f"{hours:.3g} hours; the rest of the machine, its cooling and earlier attempts are not in it",
    ]
