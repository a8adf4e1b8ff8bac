"""A run that is stopped, killed or damaged goes on to the very weights of the run that was left alone.

Each chain interrupts one run several times: a start costs seconds, and the state has to survive more than one stop.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EPOCH = 6
LAST = 24


def in_evaluation(run: Any, epoch: int) -> Callable[[], bool]:
    """True once the last step before the evaluation that ends `epoch` has been saved for a moment.

    The step that follows takes milliseconds, the evaluation after it half a second or more.
    """
    saved_at: list[float] = []

    def happened() -> bool:
        if run.step() >= epoch * EPOCH - 1 and not saved_at:
            saved_at.append(time.monotonic())
        return bool(saved_at) and time.monotonic() - saved_at[0] > 0.08

    return happened


def assert_same(run: Any, uninterrupted: Any) -> None:
    assert run.step() == LAST
    assert run.weights() == uninterrupted.weights()
    assert run.metrics() == uninterrupted.metrics()


def test_the_uninterrupted_run_is_what_it_is_meant_to_be(uninterrupted: Any) -> None:
    assert uninterrupted.step() == LAST
    assert [line["step"] for line in uninterrupted.metrics()] == [6, 12, 18, 24]


def test_signals_and_time_limits_and_a_damaged_checkpoint(
    groundup: Any, watch: Any, watched: list[str], uninterrupted: Any, tmp_path: Path
) -> None:
    run = watch(tmp_path / "run")

    process = groundup.start("train", *watched, "--run", "run")
    groundup.wait(in_evaluation(run, 1), process)
    process.send_signal(signal.SIGINT)
    assert groundup.finish(process) == 130
    assert "stopped: SIGINT; `groundup resume run` goes on" in groundup.said()
    assert run.step() == EPOCH  # saved where it stood, before the evaluation that was given up
    assert not (run.path / "metrics.jsonl").exists() or run.metrics() == []

    process = groundup.start("resume", "run")
    groundup.wait(lambda: run.step() >= EPOCH + 2, process)
    process.send_signal(signal.SIGTERM)
    assert groundup.finish(process) == 143
    assert "stopped: SIGTERM" in groundup.said()
    assert EPOCH + 2 <= run.step() < LAST
    assert run.metrics() == uninterrupted.metrics()[:1]

    newest = sorted(run.checkpoints.glob("step-*"))[-1]
    content = bytearray((newest / "state.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newest / "state.pt").write_bytes(content)
    groundup.run("resume", "run", "--max-time", "0.5s")
    assert f"{newest.relative_to(tmp_path)} is damaged" in groundup.said()
    assert "using the checkpoint before it" in groundup.said()
    assert "stopped: --max-time is up" in groundup.said()
    assert run.step() < LAST

    groundup.run("resume", "run")
    assert_same(run, uninterrupted)


def test_kill_9_while_saving_while_evaluating_and_in_the_middle_of_an_epoch(
    groundup: Any, watch: Any, watched: list[str], uninterrupted: Any, tmp_path: Path
) -> None:
    run = watch(tmp_path / "run")

    process = groundup.start("train", *watched, "--run", "run")
    groundup.wait(lambda: run.step() >= 2 and run.is_saving(), process)
    process.kill()
    assert groundup.finish(process) == -signal.SIGKILL

    process = groundup.start("resume", "run")
    groundup.wait(in_evaluation(run, 2), process)
    process.kill()
    assert groundup.finish(process) == -signal.SIGKILL
    assert run.step() == 2 * EPOCH - 1  # the evaluation at the end of the epoch was still going on
    assert run.metrics() == uninterrupted.metrics()[:1]

    process = groundup.start("resume", "run")
    groundup.wait(lambda: run.step() >= 2 * EPOCH + 2 and not run.is_saving(), process)
    process.kill()
    assert groundup.finish(process) == -signal.SIGKILL
    assert 2 * EPOCH + 2 <= run.step() < 3 * EPOCH

    groundup.run("resume", "run")
    assert_same(run, uninterrupted)
    assert not run.is_saving()  # what the first kill left half written has been removed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_twenty_moments(
    groundup: Any, watch: Any, watched: list[str], tmp_path: Path, make_commands: Any
) -> None:
    long = ["train.epochs=20" if part.startswith("train=") else part for part in watched]
    long = [*long, "train.batch_size=25", "train.threads=1", "evaluate.batch_size=2"]
    (tmp_path / "alone").mkdir()
    make_commands(tmp_path / "alone").run("train", *long, "--run", "run")
    run, alone = watch(tmp_path / "run"), watch(tmp_path / "alone" / "run")
    draw = random.Random(0)
    kills: dict[str, int] = {"saving": 0, "evaluating": 0, "stepping": 0}
    for number in range(20):
        process = groundup.start(*(["train", *long, "--run", "run"] if number == 0 else ["resume", "run"]))
        target = max(run.step(), 0) + draw.randint(2, 5)
        moment, epoch = draw.choice(list(kills)), -(-target // EPOCH)
        if moment == "saving":
            groundup.wait(lambda target=target: run.step() >= target and run.is_saving(), process)
        elif moment == "evaluating":
            groundup.wait(in_evaluation(run, epoch), process)
        else:
            groundup.wait(lambda target=target: run.step() >= target and not run.is_saving(), process)
            time.sleep(draw.random() * 0.02)
        assert process.poll() is None  # every kill hits a living run
        process.kill()
        assert groundup.finish(process) == -signal.SIGKILL
        # Counted is where the kill has landed, not where it was aimed at.
        lines = run.metrics() if (run.path / "metrics.jsonl").exists() else []
        evaluating = run.step() == epoch * EPOCH - 1 and len(lines) < epoch
        kills[
            "saving" if run.is_saving() else "evaluating" if moment == "evaluating" and evaluating else "stepping"
        ] += 1
    print(f"kills landed: {kills}")
    assert min(kills.values()) >= 3
    groundup.run("resume", "run")
    assert run.step() == alone.step() == 20 * EPOCH
    assert run.weights() == alone.weights()
    assert run.metrics() == alone.metrics()


def test_a_signal_during_data_preparation_leaves_nothing_half_done_and_a_run_that_goes_on(
    groundup: Any, tmp_path: Path
) -> None:
    groundup.cache = tmp_path / "cache"
    slow = ["data.resolution=128", "data.limit=100", "model={name: resnet18, width: 8, stem: imagenet}"]
    slow += ["train={epochs: 1, batch_size: 50, threads: 1}", "track.tensorboard=false", "evaluate.batch_size=50"]
    process = groundup.start("train", "digits", *slow, "--run", "run")
    groundup.wait(lambda: "decoding images: " in groundup.said(), process)
    process.send_signal(signal.SIGTERM)
    assert groundup.finish(process) == 143
    assert "`groundup resume run` goes on" in groundup.said()
    assert os.listdir(tmp_path / "run") == ["recipe.yaml"]
    assert all(name.endswith(".lock") for name in os.listdir(tmp_path / "cache"))
    out = groundup.run("resume", "run")
    assert out.startswith("test top-1 ")
    assert "decoding images: 1,797 of 1,797" in groundup.said()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_signal_while_compiling_is_answered_before_the_network_is_compiled(
    groundup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(built))
    small = ["model.width=8", "data.limit=66", "train.epochs=1", "train.threads=1", "train.compile=always"]
    process = groundup.start("train", "digits", *small, "--run", "run")
    groundup.wait(lambda: any(built.rglob("*.cpp")), process, seconds=300)
    process.send_signal(signal.SIGTERM)
    assert groundup.finish(process) == 143
    assert "stopped: SIGTERM; `groundup resume run` goes on" in groundup.said()
    assert os.listdir(tmp_path / "run") == ["recipe.yaml"]
    assert not (built / "aotautograd").exists(), "the compilation came to its end before the signal was answered"
