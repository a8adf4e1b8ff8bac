"""A job is built as its engine computes."""

import pytest

from groundup.basis.interruption import StopRequest
from groundup.optim import Muon
from groundup.recipe import load_recipe
from groundup.runs.prepare import first_job, make_plan, open_data, with_measured_constants


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_muon_multiplies_in_the_precision_of_the_run_and_not_in_what_the_machine_could(
    precision: str, tiny: list[str]
) -> None:
    muon = ["optimizer={name: muon}", "schedule={name: one_cycle, max_lr: 0.1}", f"train.precision={precision}"]
    recipe = load_recipe("digits", [*tiny, *muon])
    splits = open_data(recipe, StopRequest())
    job, state = first_job(make_plan(with_measured_constants(recipe, splits), splits), lambda: None)
    job.data.close()
    assert isinstance(state.optimizer, Muon)
    assert state.optimizer.bfloat16 is (precision == "bf16")
