"""What `DataSettings` accepts, and what its errors say."""

import re

import pytest
from pydantic import ValidationError

from groundup.data import DOORS, DataSettings
from groundup.data.settings import FORMS


def test_every_form_of_source_has_a_door() -> None:
    assert list(DOORS) == list(FORMS)


@pytest.mark.parametrize(
    "source", ["digits", "hub:uoft-cs/cifar100", "parquet:a/b", "folder:my photos", "arrays:x.npz"]
)
def test_the_five_kinds_of_source_are_accepted(source: str) -> None:
    assert DataSettings(source=source).kind == source.partition(":")[0]


def test_an_unknown_kind_of_source_names_the_allowed_forms_and_the_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        DataSettings(source="folders:photos")
    for form in FORMS.values():
        assert form in str(caught.value)
    assert "did you mean 'folder:DIR'?" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    ["hub:cifar100", "hub:a/b/c", "hub:a/b:", "hub:a/b?x", "folder:", "parquet: ", "digits:8", "arrays", "webdataset:"],
)
def test_an_incomplete_source_is_refused_with_its_form(source: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"write {FORMS[source.partition(':')[0]]}")):
        DataSettings(source=source)


@pytest.mark.parametrize("source", ["folder:x?streaming", "arrays:x.npz?streaming"])
def test_what_cannot_be_streamed_says_so(source: str) -> None:
    with pytest.raises(ValidationError, match=r"\?streaming is for hub, parquet"):
        DataSettings(source=source)


@pytest.mark.parametrize(
    "wrong", [{"validation": 1.0}, {"validation": -0.1}, {"limit": 0}, {"resolution": 0}, {"resize": "fit"}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSettings(source="digits", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["image", "label"])
def test_naming_a_column_of_a_source_without_columns_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="'folder' has no columns; only hub, parquet have"):
        DataSettings(source="folder:x", **{key: "y"})  # type: ignore[arg-type]


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in DataSettings.model_fields.values())
