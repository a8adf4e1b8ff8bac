"""The engine fits the machine, says why, and refuses what the machine has not."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from groundup.basis.errors import UsageError
from groundup.training import Engine, TrainSettings, choose_engine


def choose(total_steps: int = 100, **changes: Any) -> Engine:
    return choose_engine(TrainSettings(epochs=1, batch_size=8, **changes), total_steps)


def test_on_a_cpu_bf16_is_chosen_only_where_the_hardware_multiplies_it() -> None:
    engine = choose(device="cpu")
    if torch.cpu._is_amx_tile_supported():
        assert (engine.precision, "the CPU has AMX" in engine.why) == ("bf16", True)
    else:
        assert (engine.precision, "this CPU has no AMX" in engine.why) == ("fp32", True)


def test_auto_takes_the_accelerator_if_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose(device="auto").device == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_recipe_says_is_taken_and_said(precision: str) -> None:
    engine = choose(device="cpu", precision=precision, compile="never")
    assert engine.precision == precision
    assert engine.why == f"{precision}: as the recipe says; eager: as the recipe says"


def test_threads_default_to_the_cores_that_the_process_may_use() -> None:
    assert choose(device="cpu", threads=3).threads == 3
    assert choose(device="cpu").threads == len(os.sched_getaffinity(0))


def test_activating_sets_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        choose(device="cpu", threads=2).activate()
        assert torch.get_num_threads() == 2
        choose(device="cpu", threads=1).activate()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_gpu_that_is_meant_by_cuda_alone_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device takes no device without a number, on machines without a GPU too."""
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_device(torch.device("cuda"))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    threads = torch.get_num_threads()
    Engine("cuda", threads, "bf16", False, True, "").activate()
    assert torch.backends.cudnn.benchmark


def test_a_compiler_that_cannot_be_deterministic_is_refused_where_that_is_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch below 2.10 has it, whose configuration raises for names that it does not know."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch._inductor, "config", SimpleNamespace())
    engine = Engine("cuda", torch.get_num_threads(), "bf16", True, True, "")
    engine.activate()
    with pytest.raises(UsageError, match=r"train\.deterministic=true: torch .* cannot compile deterministically"):
        replace(engine, deterministic=True).activate()


def test_fp16_on_a_cpu_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(UsageError, match=r"train\.precision='fp16': needs a CUDA GPU.*allowed here: auto, fp32, bf16"):
        choose(device="cpu", precision="fp16")


@pytest.mark.parametrize("device", ["gpu0", "tpu", "", "cpu:x", "cpu:-1"])
def test_what_is_no_device_is_refused_with_what_there_is(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(device=device)
    assert f"train.device={device!r}" in caught.value.message
    assert "allowed: auto, cpu" in caught.value.message


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_an_accelerator_that_is_not_there_is_refused_with_a_way_out(device: str) -> None:
    there = torch.cuda.is_available() if device.startswith("cuda") else torch.backends.mps.is_available()
    if there:
        assert choose(device=device).torch_device.type == device.split(":")[0]
        return
    with pytest.raises(UsageError) as caught:
        choose(device=device)
    assert f"train.device={device!r}" in caught.value.message
    assert caught.value.hint == "use train.device=auto"


def test_compiling_is_left_out_on_a_cpu_unless_asked_for() -> None:
    engine = choose(device="cpu", total_steps=10**6)
    assert (engine.compiled, "compiling is not shown to pay on cpu" in engine.why) == (False, True)
    assert choose(device="cpu", compile="always").compiled


def test_an_engine_survives_being_written_down() -> None:
    engine = choose(device="cpu", threads=2, precision="bf16", compile="always", channels_last=False)
    assert Engine(**engine.to_dict()) == engine


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_runs_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with choose(device="cpu", precision=precision).autocast():
        assert layer(torch.zeros(1, 4)).dtype == dtype
    assert layer(torch.zeros(1, 4)).dtype == torch.float32
