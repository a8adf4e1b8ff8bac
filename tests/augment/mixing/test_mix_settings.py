"""The `mix` section: what it accepts, and what it refuses because it could not do anything."""

from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from groundup.augment import MIXERS, MixMethodSettings, MixSettings

MIXUP, CUTMIX = {"name": "mixup"}, {"name": "cutmix"}
every_method = pytest.mark.parametrize("name", list(MIXERS))


def test_left_out_it_mixes_nothing() -> None:
    assert not MixSettings().active
    assert MixSettings.model_validate({"methods": [MIXUP]}).active


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"methods": [{**MIXUP, "alpha": 0}]}, ["mixup.alpha", "always be 1 and nothing would be mixed", "above 0"]),
        ({"methods": [{**CUTMIX, "alpha": 0.0}, MIXUP]}, ["cutmix.alpha", "always be 1", "out of mix.methods"]),
        ({"methods": [{**CUTMIX, "alpha": -0.5}]}, ["cutmix.alpha", "greater than 0", "-0.5"]),
        ({"methods": [{**MIXUP, "weight": 0}, CUTMIX]}, ["mixup.weight", "never be chosen", "out of mix.methods"]),
        ({"methods": [MIXUP], "clean": 1}, ["clean", "nothing would ever be mixed", "0 up to", "mix.methods empty"]),
        ({"methods": [MIXUP], "clean": 1.5}, ["clean", "less than 1", "1.5"]),
        ({"methods": [MIXUP], "clean": -0.1}, ["clean", "greater than or equal to 0"]),
        ({"clean": 0.5}, ["clean=0.5 does nothing without methods", "set methods, or remove clean"]),
        ({"per": "sample"}, ["per='sample' does nothing without methods", "set methods, or remove per"]),
        ({"methods": [MIXUP, CUTMIX, {**MIXUP, "alpha": 1}]}, ["'mixup' stands 2 times", "keep one"]),
        ({"methods": [{**MIXUP, "weight": 0.8}]}, ["weight=0.8 does nothing", "'mixup' is the only", "set clean"]),
        ({"methods": [MIXUP], "per": "image"}, ["per", "'batch' or 'sample'"]),
        ({"methods": [{"name": "mixcut"}]}, ["mixcut", "'cutmix'", "'mixup'"]),
    ],
)
def test_what_cannot_act_is_refused_with_its_name_and_the_fix(section: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        MixSettings.model_validate(section)
    assert caught.value.error_count() == 1
    assert [part for part in said if part not in str(caught.value)] == []


@every_method
def test_settings_survive_yaml_and_are_chosen_by_name(name: str) -> None:
    section = MixSettings.model_validate({"methods": [{"name": name, "alpha": 0.3}], "clean": 0.25, "per": "sample"})
    assert isinstance(section.methods[0], MIXERS[name])
    assert MixSettings.model_validate(yaml.safe_load(yaml.safe_dump(section.model_dump(mode="json")))) == section


@pytest.mark.parametrize("settings", [MixSettings, *MIXERS.values()])
def test_every_field_is_described(settings: Any) -> None:
    assert [key for key, field in settings.model_fields.items() if not field.description] == []


@every_method
def test_an_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="alfa"):
        TypeAdapter(MixMethodSettings).validate_python({"name": name, "alfa": 1})


def test_every_method_of_the_family_can_stand_in_a_recipe() -> None:
    section = MixSettings.model_validate({"methods": [{"name": name} for name in MIXERS]})
    assert [type(method) for method in section.methods] == list(MIXERS.values())
