"""What was noted about an export, in words for the terminal."""

from typing import Any


def said(record: dict[str, Any]) -> list[str]:
    """Lines about one file: what it is, how it compares, how fast and how large it is."""
    lines = [_about(record)]
    if agreement := record.get("agreement"):
        allowed = agreement["tolerance"]
        lines.append(
            f"compared with the run on {agreement['images']:,} test images: largest difference of a probability "
            f"{agreement['difference']:.2g} (at most {allowed['difference']:g}), top-1 agrees on "
            f"{agreement['agreement']:.2%} (at least {allowed['agreement']:.1%})"
        )
    if accuracy := record.get("accuracy"):
        lines += _accuracy(accuracy)
    lines += _speed(record["speed"])
    lines.append(_size(record))
    return lines


def _about(record: dict[str, Any]) -> str:
    made_of, written = record["made_of"], record["written"]
    parts = [f"opset {written['opset']}"] if "opset" in written else []
    if "form" in written:
        parts.append(f"{written['form']}, calibrated on {written['calibration_images']:,} training images")
    parts += [made_of["input"], made_of["output"]]
    temperature = made_of["temperature"]
    parts.append(
        "no temperature" if temperature is None else f"temperature {temperature:.3g} inside, fitted on validation"
    )
    return "; ".join(parts)


def _accuracy(accuracy: dict[str, Any]) -> list[str]:
    shares = []
    for name in ("fp32", "int8"):
        low, high = accuracy[name]["top1_interval"]
        shares.append(f"{name} {accuracy[name]['top1']:.2%} (95% interval {low:.2%} to {high:.2%})")
    low, high = (100 * bound for bound in accuracy["difference_interval"])
    return [
        f"top-1 on {accuracy['images']:,} test images: {', '.join(shares)}",
        f"int8 - fp32: {100 * accuracy['difference']:+.2f} points (95% interval {low:+.2f} to {high:+.2f}); top-1 agrees on "
        f"{accuracy['agreement']:.2%}, largest difference of a probability {accuracy['largest_difference']:.2g}",
    ]


def _speed(speed: dict[str, Any]) -> list[str]:
    one, many = speed["latency_p50_ms"], speed["images_per_second"]
    before, after = (name for name in one if name != "ratio")
    threads = f"{speed['threads']} thread{'s' * (speed['threads'] != 1)}"
    return [
        f"one image: {one[after]:.2f} ms (median, {threads}), {before} {one[before]:.2f} ms: {one['ratio']:.2f} times as fast",
        f"{speed['batch']} images at once: {many[after]:,.0f} images/s, {before} {many[before]:,.0f}: "
        f"{many['ratio']:.2f} times as fast",
    ]


def _size(record: dict[str, Any]) -> str:
    text = f"{record['bytes'] / 1e6:.2f} MB"
    return f"{text}, fp32 {record['fp32_bytes'] / 1e6:.2f} MB" if "fp32_bytes" in record else text
