"""What the first passes of a network are judged by."""

import math
from typing import Any

import pytest

from groundup.preflight import Start, check_start
from groundup.preflight.start import OVERFIT_FACTOR, START_CODES


def start(**changes: Any) -> Start:
    """A network of 20 parameters that begins as it should, with 100 classes."""
    return Start(**{"loss": 4.7, "reference": math.log(100), "classes": 100, "images": 8, "parameters": 20, **changes})


def found(**changes: Any) -> list[tuple[str, str]]:
    return [(finding.code, finding.level) for finding in check_start(start(**changes))]


def test_a_good_start_is_not_worth_a_word() -> None:
    assert found() == []
    assert found(overfit=(4.6, 3.0, 0.2)) == []


@pytest.mark.parametrize(("loss", "strange"), [(6.8, False), (7.0, True), (2.4, False), (2.2, True)])
def test_a_first_loss_far_from_that_of_a_network_that_knows_nothing(loss: float, strange: bool) -> None:
    assert found(loss=loss) == ([("GU701", "warning")] if strange else [])


def test_chance_may_move_the_first_loss_of_two_classes_more() -> None:
    two = {"classes": 2, "reference": math.log(2)}
    assert found(**two, loss=1.6) == []
    assert found(**two, loss=0.1) == []
    assert found(**two, loss=1.8) == [("GU701", "warning")]


def test_the_finding_names_both_losses() -> None:
    (finding,) = check_start(start(loss=9.0))
    assert "9.000 on 8 images" in finding.saw
    assert "100 classes pays 4.605" in finding.saw


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error_and_hides_what_follows_from_it(loss: float) -> None:
    assert found(loss=loss, unreached=("head.weight",)) == [("GU702", "error")]


def test_a_gradient_that_is_not_finite_is_named() -> None:
    (finding,) = check_start(start(not_finite=("stem.weight",)))
    assert (finding.code, finding.level) == ("GU702", "error")
    assert "stem.weight" in finding.saw


def test_parameters_that_the_loss_does_not_reach_are_named() -> None:
    (finding,) = check_start(start(unreached=("aux.weight", "aux.bias")))
    assert (finding.code, finding.level) == ("GU703", "error")
    assert "2 of 20 parameters" in finding.saw
    assert "aux.weight, aux.bias" in finding.saw


@pytest.mark.parametrize("last", [4.8 / OVERFIT_FACTOR + 0.01, math.nan, 100.0])
def test_a_small_batch_that_is_not_learned(last: float) -> None:
    assert found(overfit=(4.8, 2.0, last)) == [("GU704", "error")]
    assert found(overfit=(4.8, 2.0, 4.8 / OVERFIT_FACTOR - 0.01)) == []


def test_two_builds_that_differ() -> None:
    (finding,) = check_start(start(differing=("stem.weight",)))
    assert (finding.code, finding.level) == ("GU705", "error")
    assert "stem.weight" in finding.saw


# code, what brings it about, and the nearest that does not
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("GU701", {"loss": 7.0}, {"loss": 6.8}),
    ("GU702", {"loss": math.nan}, {"loss": 6.8}),
    ("GU702", {"not_finite": ("stem.weight",)}, {"not_finite": ()}),
    ("GU703", {"unreached": ("aux.weight",)}, {"unreached": ()}),
    ("GU704", {"overfit": (4.8, 4.7)}, {"overfit": (4.8, 0.1)}),
    ("GU705", {"differing": ("stem.weight",)}, {"differing": ()}),
]


@pytest.mark.parametrize(("code", "wrong", "sound"), CASES)
def test_a_code_is_found_where_it_is_and_not_beside_it(code: str, wrong: dict[str, Any], sound: dict[str, Any]) -> None:
    assert [number for number, _ in found(**wrong)] == [code]
    assert found(**sound) == []


def test_every_code_has_a_case() -> None:
    assert {code for code, *_ in CASES} == set(START_CODES)
