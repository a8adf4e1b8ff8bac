"""Every code of the network: a recipe that has it, what it says, that the proposed override mends it, and one that has it not."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from groundup.basis.errors import UsageError
from groundup.models import build_model, count_parameters, forward_flops
from groundup.preflight.findings import Finding, Level, overrides_of
from groundup.preflight.network import NETWORK_CODES, check_network, feature_sizes, network_facts
from groundup.preflight.norm_batches import refuse_lone_images
from groundup.preflight.subject import Subject, subject_of
from groundup.recipe import load_recipe

BASE = "cifar100-resnet18"  # 32 px, 100 classes, 50,000 images, batches of 128

# code, level, a part of what it says, the overrides that bring it about
CASES: list[tuple[str, Level, str, list[str]]] = [
    ("GU201", "warning", "conv1 gives 16 x 16, layer4.1.bn2 1 x 1", ["model.stem=imagenet"]),
    ("GU201", "warning", "conv1.0 gives 16 x 16", ["model.stem=deep"]),
    ("GU202", "warning", "32 px -> 1 x 1", ["model.stem=imagenet"]),
    ("GU204", "warning", "4 images per forward pass", ["train.batch_size=4"]),
    ("GU204", "warning", "2 images per forward pass", ["train.micro_batch=2"]),
    ("GU204", "warning", "4 in the last of each step's", ["train.micro_batch=31"]),
    (
        "GU204",
        "warning",
        "6 images per forward pass",
        ["train.batch_size=192", "train.micro_batch=6", "mix={methods: [{name: mixup}]}"],
    ),
    ("GU205", "note", "an epoch has 1", ["train.batch_size=51", "train.drop_last=false", "data.limit=1276"]),
    ("GU206", "warning", "layer4.1.conv2 comes after it", ["model={name: preact_resnet18, final_norm: false}"]),
    ("GU207", "note", "weight_decay=0.0001", ["optimizer.decay_norm_and_bias=true"]),
    ("GU208", "warning", "while model.dropout is 0", ["model.dropout_position=after"]),
    ("GU208", "warning", "0.1 from the first step", ["phases=[{from: 0ep, set: {model.dropout: 0.1}}]"]),
    ("GU209", "warning", "4.0 times the work", ["train.resolution=64"]),
    ("GU209", "warning", "stored at 32 px", ["phases=[{from: 5ep, set: {train.resolution: 40}}]"]),
]


def subject(name: str = BASE, *overrides: str, **values: int) -> Subject:
    """A recipe with the network that it describes, without weights."""
    found = subject_of(load_recipe(name, overrides), **values)
    with torch.device("meta"):
        return replace(found, network=found.recipe.model.build(found.classes))


def told(code: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.code == code]


@pytest.mark.parametrize(("code", "level", "part", "overrides"), CASES, ids=lambda value: str(value)[:40])
def test_it_is_found_and_its_mend_mends_it(code: str, level: Level, part: str, overrides: list[str]) -> None:
    found = told(code, check_network(subject(BASE, *overrides)))
    assert [finding.level for finding in found] == [level]
    assert part in found[0].saw
    mend = overrides_of(found[0].mend)
    if mend:
        assert not told(code, check_network(subject(BASE, *overrides, *mend)))
    else:
        assert found[0].mend.endswith(".")


def test_a_plain_recipe_has_none_of_them() -> None:
    assert check_network(subject(BASE)) == []


def sized(outputs: int, channels: int = 8) -> nn.Module:
    """A network whose batch norm was made for `channels`, and gets 8."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(channels), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs)),
    )


# They need a network that no recipe describes: code, a network that has it, and the nearest that has it not.
ODD: list[tuple[str, Callable[[], nn.Module], Callable[[], nn.Module]]] = [
    ("GU203", lambda: sized(99), lambda: sized(100)),
    ("GU210", lambda: sized(100, channels=7), lambda: sized(100, channels=8)),
]


@pytest.mark.parametrize(("code", "wrong", "sound"), ODD, ids=[row[0] for row in ODD])
def test_a_network_of_ones_own_has_it_or_not(
    code: str, wrong: Callable[[], nn.Module], sound: Callable[[], nn.Module]
) -> None:
    assert len(told(code, check_network(replace(subject(BASE), network=wrong())))) == 1
    assert not told(code, check_network(replace(subject(BASE), network=sound())))


def test_every_code_has_a_case_here() -> None:
    assert {case[0] for case in [*CASES, *ODD]} == set(NETWORK_CODES)
    assert all(number == code.number and number.startswith("GU2") for number, code in NETWORK_CODES.items())


@pytest.mark.parametrize(
    ("outputs", "level", "part"), [(90, "error", "90 outputs"), (101, "warning", "101 outputs"), (100, None, "")]
)
def test_outputs_that_are_not_the_classes_of_the_data(outputs: int, level: Level | None, part: str) -> None:
    with torch.device("meta"):
        network = load_recipe(BASE).model.build(outputs)
    found = told("GU203", check_network(replace(subject(), network=network)))
    assert [(finding.level, part in finding.saw) for finding in found] == ([(level, True)] if level else [])


def test_labels_outside_the_classes() -> None:
    plain = subject()
    assert not told("GU203", check_network(replace(plain, labels=torch.tensor([0, 99]))))
    for wrong in (-1, 100):
        (found,) = told("GU203", check_network(replace(plain, labels=torch.tensor([5, wrong]), network=None)))
        assert f"run from {min(5, wrong)} to {max(5, wrong)}" in found.saw
        assert found.level == "error"


def test_one_image_that_ends_in_one_pixel_is_an_error_because_torch_refuses_it() -> None:
    one_left = [
        "train.batch_size=51",
        "train.drop_last=false",
        "data.limit=1276",
        "model.stem=imagenet",
        "model.width=8",
    ]
    (found,) = told("GU205", check_network(subject(BASE, *one_left)))
    assert found.level == "error"
    assert "an epoch has 1; layer4.0.downsample.1 sees one value per channel" in found.saw
    assert not told(
        "GU205", check_network(subject(BASE, *one_left, "train.epochs=0.5"))
    )  # it never comes to that batch
    network = build_model(load_recipe(BASE, one_left).model, num_classes=100, seed=0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.zeros(1, 3, 32, 32))


ONE_PIXEL = ["model.stem=imagenet", "model.width=8", "train.drop_last=false"]  # 32 px end in one


@pytest.mark.parametrize(
    ("overrides", "processes", "part"),
    [
        (["train.batch_size=1"], 1, "1 image per forward pass (train.batch_size=1); layer4"),
        (["train.micro_batch=1"], 1, "1 image per forward pass (train.batch_size=128); layer4"),
        (
            ["train.batch_size=33", "train.micro_batch=32"],
            1,
            "1 in the last of each step's (train.batch_size=33); layer4",
        ),
        (["train.batch_size=51", "data.limit=1276"], 1, "an epoch has 1; layer4"),
        (["train.batch_size=51", "train.micro_batch=10", "data.limit=1295", "data.validation=0"], 1, "each step's"),
        (["train.batch_size=64", "train.micro_batch=10", "data.limit=1291", "data.validation=0"], 1, "an epoch has 1;"),
        (["train.batch_size=2"], 2, "1 image per forward pass (train.batch_size=2); layer4"),
    ],
)
def test_one_image_alone_that_ends_in_one_pixel_is_refused_before_the_first_step(
    overrides: list[str], processes: int, part: str
) -> None:
    lone = replace(subject(BASE, *ONE_PIXEL, *overrides), processes=processes)
    with pytest.raises(UsageError, match=r"^GU20[45] ") as caught:
        refuse_lone_images(lone)
    assert part in caught.value.message
    assert caught.value.hint is not None
    mended = replace(subject(BASE, *ONE_PIXEL, *overrides, *overrides_of(caught.value.hint)), processes=processes)
    refuse_lone_images(mended)


@pytest.mark.parametrize(
    ("overrides", "processes"),
    [
        (["train.batch_size=2"], 1),
        (["train.batch_size=1", "model.stem=small"], 1),  # ends in 4 x 4
        (["train.batch_size=33", "train.micro_batch=31"], 1),
        (["train.batch_size=51", "data.limit=1276", "train.drop_last=true"], 1),
        (["train.batch_size=2", "train.sync_batch_norm=true"], 2),
    ],
)
def test_passes_that_torch_takes_are_not_refused(overrides: list[str], processes: int) -> None:
    refuse_lone_images(replace(subject(BASE, *ONE_PIXEL, *overrides), processes=processes))


def test_what_is_refused_is_what_torch_refuses() -> None:
    for stem, refused in (("imagenet", True), ("small", False)):
        found = subject(BASE, *ONE_PIXEL, "train.batch_size=1", f"model.stem={stem}")
        network = build_model(found.recipe.model, num_classes=100, seed=0)
        with pytest.raises(UsageError) if refused else nullcontext():
            refuse_lone_images(found)
        with pytest.raises(ValueError, match="more than 1 value per channel") if refused else nullcontext():
            network(torch.zeros(1, 3, 32, 32))


def test_a_batch_norm_after_the_pooling_sees_one_value_of_one_image() -> None:
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 100)
        )
    with pytest.raises(UsageError, match=r"train\.batch_size=1\); 3 sees one value"):
        refuse_lone_images(replace(subject(BASE, "train.batch_size=1"), network=network))


class Own(nn.Module):
    """A user's network: a plain tensor beside the parameters, at least 8 px, no norm, no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(2.0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 100)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 8:
            raise RuntimeError(f"too small: {x.shape[2]} px")
        return self.fc(self.conv(x * self.scale.item()).mean((2, 3)))


def test_a_network_that_does_not_take_the_images() -> None:
    own = replace(subject(BASE, "train.resolution=7"), network=Own())
    (found,) = told("GU210", check_network(own))
    assert found.saw == "one image of 7 px: too small: 7 px"
    assert network_facts(own) is None
    assert not told("GU210", check_network(replace(subject(BASE), network=Own())))


def test_dropout_that_the_users_own_network_does_not_have() -> None:
    dropping = subject(BASE, "model.dropout=0.3", "model.head_dropout=0.1")
    assert not told("GU208", check_network(dropping))
    (found,) = told("GU208", check_network(replace(dropping, network=Own())))
    assert "model.dropout=0.3, model.head_dropout=0.1: Own has no dropout" in found.saw
    assert overrides_of(found.mend) == ["model.dropout=0", "model.head_dropout=0"]


class Greedy(nn.Module):
    """A network that finds no memory."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def test_memory_that_is_used_up_is_not_taken_for_a_network_that_does_not_take_the_images() -> None:
    greedy = replace(subject(BASE), network=Greedy())
    for look in (check_network, network_facts):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            look(greedy)


@pytest.mark.parametrize(
    ("model", "side", "blind"),
    [
        ("{name: resnet50, stem: imagenet}", 1, "17 of 17"),
        ("{name: wide_resnet, depth: 28, width: 1}", 1, "25 of 25"),
        ("{name: wide_resnet, depth: 28, width: 1}", 2, "15 of 25"),
        ("{name: wide_resnet, depth: 28, width: 1}", 8, None),
        ("{name: resnet18, stem: small, width: 8}", 8, None),
    ],
)
def test_images_that_most_convolutions_see_as_one_pixel_are_warned_of(model: str, side: int, blind: str | None) -> None:
    findings = check_network(subject("digits", f"model={model}", train_images=1438, classes=10, image_size=side))
    said = [finding for finding in told("GU202", findings) if finding.level == "warning"]
    assert bool(said) == bool(blind)
    assert not blind or f"{blind} convolutions see one pixel alone" in said[0].saw
    assert not said or said[0].mend.endswith("larger images.")


def test_one_pixel_is_only_a_note_where_images_are_tiny() -> None:
    (found,) = told("GU202", check_network(subject("digits", train_images=1438, classes=10, image_size=8)))
    assert found.level == "note"


def test_a_network_made_of_one_by_one_convolutions_after_the_pooling_ends_with_its_norm() -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 100, 1), nn.Flatten()),
    )
    assert not told("GU206", check_network(replace(subject(), network=network)))


def test_without_a_network_the_recipe_alone_is_looked_at() -> None:
    blind = replace(subject(BASE, "model.stem=imagenet", "optimizer.decay_norm_and_bias=true"), network=None)
    assert [finding.code for finding in check_network(blind)] == ["GU207"]
    assert network_facts(blind) is None


def test_feature_sizes_are_those_of_a_real_pass() -> None:
    network = build_model(load_recipe(BASE, ["model.width=8", "model.stem=imagenet"]).model, num_classes=10, seed=0)
    seen: list[tuple[str, int, int, int]] = []

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, output: seen.append((name, *output.shape[1:])))

    sizes = feature_sizes(network, 40)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            watch(name, module)
    network(torch.zeros(2, 3, 40, 40))
    assert sizes == seen
    assert sizes[0] == ("conv1", 8, 20, 20)


@pytest.mark.parametrize("network", [build_model(load_recipe("digits").model, num_classes=100, seed=0), Own()])
def test_looking_changes_nothing(network: nn.Module) -> None:
    """Whether the pass goes over the meta device or, as for a network that refuses it, over the real one."""
    first = next(network.children())
    first.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    check_network(replace(subject(), network=network))
    network_facts(replace(subject(), network=network))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())


def test_facts_are_those_that_are_counted_elsewhere() -> None:
    growing = subject(BASE, "model.width=8", "train.resolution=24", "phases=[{from: 5ep, set: {train.resolution: 32}}]")
    facts = network_facts(growing)
    network = build_model(growing.recipe.model, num_classes=100, seed=0)
    assert facts is not None
    assert facts.parameters == count_parameters(network)
    assert facts.flops == {24: forward_flops(network, 24), 32: forward_flops(network, 32)}
    assert facts.features == {24: (64, 3, 3), 32: (64, 4, 4)}


@pytest.mark.parametrize(("name", "side"), [("cifar100-wrn28-10", 32), ("imagenet-resnet50-a3", 224)])
def test_a_large_network_is_looked_at_in_half_a_second(name: str, side: int) -> None:
    large = subject(name, image_size=side)
    check_network(large)  # torch imports what it needs
    started = time.process_time()
    check_network(large)
    assert time.process_time() - started < 0.5
