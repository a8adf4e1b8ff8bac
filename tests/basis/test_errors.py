"""Errors that a user can act on: exit status, hint line, the nearest name."""

import pytest

from groundup.basis.errors import (
    CheckpointError,
    DataError,
    GroundupError,
    UsageError,
    listed,
    masked,
    nearest,
    unknown_name,
)


def test_the_hint_stands_on_a_line_of_its_own() -> None:
    error = UsageError("train.epochs=-1: must be above 0", hint="set train.epochs=1")
    assert str(error).splitlines() == ["train.epochs=-1: must be above 0", "hint: set train.epochs=1"]
    assert (error.message, error.hint) == ("train.epochs=-1: must be above 0", "set train.epochs=1")


def test_without_a_hint_there_is_no_hint_line() -> None:
    assert str(DataError("images/: no such folder")) == "images/: no such folder"


@pytest.mark.parametrize(
    ("kind", "status"), [(UsageError, 2), (GroundupError, 1), (DataError, 1), (CheckpointError, 1)]
)
def test_the_exit_status_tells_whose_mistake_it_was(kind: type[GroundupError], status: int) -> None:
    assert kind("x").exit_code == status
    assert isinstance(kind("x"), GroundupError)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("resnet81", "resnet18"), ("RESNET18", "resnet18"), ("wideresnet", "wide_resnet"), ("zzz", None), ("", None)],
)
def test_the_nearest_name_is_found_whatever_the_case(written: str, meant: str | None) -> None:
    assert nearest(written, ["resnet18", "wide_resnet", "speed_net"]) == meant


def test_the_nearest_name_is_spelled_as_it_is_allowed() -> None:
    assert nearest("readme", ["README", "data"]) == "README"
    assert nearest("x", []) is None


def test_a_long_list_is_cut_and_says_by_how_much() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed((str(number) for number in range(5)), limit=3) == "0, 1, 2, ... (2 more)"
    assert listed([]) == ""


def test_an_unknown_name_names_key_value_allowed_and_the_nearest() -> None:
    error = unknown_name("model.name", "resnet81", ["resnet18", "speed_net"])
    assert isinstance(error, UsageError)
    assert error.message == "model.name='resnet81': unknown value; allowed: resnet18, speed_net"
    assert error.hint == "did you mean 'resnet18'?"
    assert unknown_name("model.name", "qqq", ["resnet18"]).hint is None


def test_what_may_be_secret_in_an_address_is_masked_and_the_rest_stays() -> None:
    said = "no s3://me:secret@bucket/a@b?sig=secret&x=1 here? or there 'https://host/p?token=secret'"
    assert masked(said) == "no s3://***@bucket/a@b?*** here? or there 'https://host/p?***'"
