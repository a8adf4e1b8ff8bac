"""What is wrong with a recipe is told with the key, the value, what is allowed and the nearest name; all at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.basis.errors import UsageError
from groundup.recipe import library, load_recipe

Write = Callable[[str, str], str]
BASE = str(Path(__file__).with_name("base.yaml"))


def problem(*overrides: str, recipe: str = BASE) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epoch=3", ["train.epoch=3: unknown key", "allowed in train: epochs, batch_size", "mean train.epochs?"]),
        ("trian={epochs: 1}", ["trian=", "allowed in a recipe: name, about", "mean train?"]),
        (
            "model.widht=3",
            ["model.widht=3: unknown key", "allowed in model: name, stem, shortcut", "mean model.width?"],
        ),
        ("augment.policy.0.pd=2", ["augment.policy.0.pd=2", "name, pad, mode", "mean augment.policy.0.pad?"]),
        ("train.epochs=abc", ["train.epochs='abc'", "valid number"]),
        ("train.batch_size=atuo", ["train.batch_size='atuo'", "integer, or auto"]),
        ("train.batch_size=1.5", ["train.batch_size=1.5", "integer"]),
        ("train.batch_size=0", ["train.batch_size=0", "greater than 0"]),
        ("loss.label_smoothing=1", ["loss.label_smoothing=1", "less than 1"]),
        ("train.epochs=.nan", ["train.epochs=nan", "finite"]),
        (
            "schedule.rise=0.25",
            ["schedule.rise=0.25", "bare number", "5ep (epochs)", "did you mean '0.25dur' (a share"],
        ),
        ("evaluate.every=3", ["evaluate.every=3", "bare number", "1000step", "did you mean '3ep'?"]),
        ("schedule.rise=2dur", ["schedule.rise='2dur'", "between 0dur and 1dur"]),
        ("schedule.rise=3weeks", ["schedule.rise='3weeks'", "not a duration"]),
        ("model.name=resnet19", ["model.name='resnet19'", "resnet34", "speed_net", "mean 'resnet18'?"]),
        ("optimizer.name=adam", ["optimizer.name='adam'", "sgd, adamw, muon", "mean 'adamw'?"]),
        ("schedule.name=cosin", ["schedule.name='cosin'", "trapezoid", "mean 'cosine'?"]),
        (
            "augment.policy.0.name=flipp",
            ["augment.policy.0.name='flipp'", "cutout, flip, gaussian_blur", "mean 'flip'?"],
        ),
        ("train.precision=bf61", ["train.precision='bf61'", "'bf16'", "mean 'bf16'?"]),
        ("data.source=foldr:x", ["data.source='foldr:x'", "folder:DIR", "parquet:DIR", "did you mean 'folder:DIR'?"]),
        ("data.source=hub:x", ["data.source='hub:x'", "incomplete", "hub:OWNER/NAME"]),
        ("data.label=x", ["data.label='x'", "no columns"]),
        ("train.micro_batch=1000", ["train.micro_batch=1000: larger than batch_size=64"]),
        ("stop.target={value: 2}", ["stop.target.value=2: validation_top1 is a fraction"]),
        ("augment.policy=flip", ["augment.policy='flip': needs a list", "write augment.policy=[{name: flip}]"]),
        ("check.ignore=GU101", ["check.ignore='GU101': needs a list", "write check.ignore=[GU101]"]),
        ("phases={from: 5ep}", ["phases={'from': '5ep'}: needs a list", "write phases=[{...}]"]),
        ("check.ignore=", ["check.ignore=None: needs a list", "an empty list is check.ignore=[]"]),
        ("phases.0.set.train.resolution=4", ["phases has no entries", "write the whole list: phases=[...]"]),
        (
            "phases=[{from: 5ep, set: {train: {resolution: 4}}}]",
            ["phases.0.set.train=", "unknown key", "write phases.0.set={train.resolution: ...}"],
        ),
        ("data.source=folder:", ["data.source='folder:': is incomplete", "write data.source=folder:DIR"]),
        ("data.source=folder: x", ["data.source='folder: x': needs a text", "write data.source=folder:x"]),
        (
            "augment.policy=[{name: color_jitter, hue: 20}]",
            ["augment.policy.0.hue=20: input should be less than or equal to 0.5"],
        ),
        (
            "augment.policy=[{name: color_jitter, hue: [0, 2]}]",
            ["augment.policy.0.hue.1=2: input should be less than or equal to 0.5"],
        ),
        (
            "augment.policy=[{name: augmix, depth: 0}]",
            ["augment.policy.0.depth=0: allowed: -1; or input should be greater than or equal to 1"],
        ),
        (
            "augment.policy=[{name: augmix, depth: {a: 1}}]",
            ["augment.policy.0.depth={'a': 1}: allowed: -1; or input should be a valid integer"],
        ),
        ("schedule={name: plateau, lr: 0.1, mode: max}", ["schedule.mode=max contradicts metric=validation_loss"]),
        ("model=resnet18", ["model='resnet18'", "wide_resnet", "write model.name=resnet18"]),
        ("train=5", ["train=5", "needs keys below it"]),
        ("phases=[{from: 5, set: {train.resolution: 4}}]", ["phases.0.from=5", "bare number"]),
        ("phases=[{from: 5ep, set: {}}]", ["phases.0.set={}", "train.resolution, augment.policy"]),
        ("phases=[{from: 5ep, set: {train.lr: 4}}]", ["phases.0.set.train.lr=4", "unknown key"]),
    ],
)
def test_a_problem_names_key_value_what_is_allowed_and_the_nearest(override: str, parts: list[str]) -> None:
    message = problem(override)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../pwn",
            "../../../pwn",
            "/tmp/pwn",
            "a/b",
            "a\\b",
            "..",
            ".hidden",
            "-rf",
            "C:x",
            "a b",
            "a*",
            "a\nb",
            "a\n",
            "",
        ),
        *("ж", "a" * 101),
    ],
)
def test_a_name_that_is_no_plain_name_of_a_folder_is_refused(name: str, write: Write) -> None:
    message = problem(recipe=write("x.yaml", f"extends: digits\nname: {json.dumps(name)}\n"))
    assert message.startswith("name=")
    assert "run folders are named after it; allowed: letters (a to z), digits, '.', '_', '-' and '+'" in message


@pytest.mark.parametrize("name", ["001", "003-resnet18+swa", "_mine.v2", "+x", "a..b", "a" * 100])
def test_a_plain_name_of_a_folder_is_taken(name: str, write: Write) -> None:
    assert load_recipe(write("x.yaml", f"extends: digits\nname: {json.dumps(name)}\n")).name == name


@pytest.mark.parametrize("value", ["20", "[0, 2]", "{a: 1}", "x"])
def test_a_value_of_several_kinds_is_one_problem_without_the_names_of_the_kinds(value: str) -> None:
    message = problem(f"augment.policy=[{{name: color_jitter, hue: {value}}}]")
    assert message.startswith("augment.policy.0.hue")
    assert "\n  " not in message, "one line"
    for internal in ("constrained", "tuple["):
        assert internal not in message


def test_a_method_without_a_name_lists_the_names(write: Write) -> None:
    text = "name: x\ndata: {source: digits}\nmodel: {width: 8}\noptimizer: {name: sgd}\n"
    text += "schedule: {name: cosine, lr: 1.0}\ntrain: {epochs: 1, batch_size: 8}\n"
    message = problem(recipe=write("x.yaml", text))
    assert "model: needs a name; allowed: resnet18, resnet34" in message
    assert "write model.name=" in message


def test_all_problems_are_told_at_once() -> None:
    message = problem("train.batch_size=0", "model.widht=3", "schedule.rise=1")
    assert "3 problems" in message
    for part in ("train.batch_size=0", "model.widht=3", "schedule.rise=1", "did you mean model.width?"):
        assert part in message


def test_missing_sections_are_named(write: Write) -> None:
    message = problem(recipe=write("x.yaml", "name: x\n"))
    for section in ("data", "model", "optimizer", "schedule", "train"):
        assert f"{section}: missing" in message


def test_an_unknown_recipe_is_answered_with_the_few_nearest_names_and_how_to_list_all() -> None:
    message = problem(recipe="cifar100-sped")
    assert message.startswith(
        "recipe='cifar100-sped': neither a recipe of the library nor a file; nearest: cifar100-speed, "
    )
    assert "did you mean 'cifar100-speed'?" in message
    assert f"`groundup recipes` lists all {len(library())}" in message
    assert sum(name in message for name in library()) <= 5
    assert len(message) < 300


def test_a_recipe_that_looks_like_none_is_answered_with_how_to_list_all() -> None:
    message = problem(recipe="qqq")
    assert "nearest" not in message
    assert "did you mean" not in message
    assert "`groundup recipes` lists all" in message


def test_a_path_that_is_not_there_is_called_a_file(tmp_path: Path) -> None:
    assert "there is no such file" in problem(recipe=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: x\nname: y\n", "the key 'name' stands twice"),
        ("extends: digits\ntrain: {epochs: 1, epochs: 2}\n", "the key 'epochs' stands twice"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "a recipe is a mapping of sections"),
        ("", "a recipe is a mapping of sections"),
        ("[" * 3000, "nested too deeply"),
        ("extends: digits\n1: 2\n", "keys should be strings"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_and_named(text: str, part: str, write: Write) -> None:
    assert part in problem(recipe=write("x.yaml", text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\xfe\x00")
    assert "not a text file in UTF-8" in problem(recipe=str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    "tag", ["python/object/apply:os.system", "python/object/new:os.system", "python/name:os.system"]
)
def test_yaml_that_would_run_code_is_refused_and_not_run(tag: str, write: Write, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    message = problem(recipe=write("x.yaml", f"extends: digits\nname: !!{tag} ['touch {trap}']\n"))
    assert "not valid YAML" in message
    assert not trap.exists()
    assert "not valid YAML" in problem(f"name=!!{tag} ['touch {trap}']")
    assert not trap.exists()


def test_a_small_file_that_stands_for_gigabytes_is_answered_shortly(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert len(problem(recipe=write("x.yaml", "\n".join(lines)))) < 10_000
