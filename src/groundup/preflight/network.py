"""What the network makes of the images: sizes of the feature maps, batch norm, class count, settings that do nothing.

Checks that need the network are left out where the subject has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from groundup.basis.machine import out_of_memory
from groundup.models import count_parameters
from groundup.preflight.feature_maps import FeatureSize, Walk, feature_sizes, last_of, walk
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.norm_batches import FEW_IMAGES, SHORT_BATCH, check_norm_batches
from groundup.preflight.subject import Subject

__all__ = [
    "NETWORK_CODES",
    "FeatureSize",
    "NetworkFacts",
    "check_network",
    "feature_sizes",
    "network_facts",
]

_SMALL_IMAGE = 64  # px: up to here a stem with stride 1 is the usual one
_TINY_IMAGE = 16  # px: below it most networks end in one pixel

NETWORK_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU201",
            "warning",
            "The stem was made for large images",
            f"The first convolution already halves an image of at most {_SMALL_IMAGE} px. On 32 px the rest of the "
            "network works on 8 x 8 pixels and less. It looks like a lack of capacity: system 003 reached 54% with "
            "such a stem at CIFAR-100, and 70% with a network that keeps the size.",
            "Set model.stem=small, or train on larger images.",
            ("000, bug 9", "003, bug 5"),
        ),
        Code(
            "GU202",
            "warning",
            "The last feature map is smaller than 2 x 2",
            "The 3x3 convolutions of the last stage see one pixel and eight of padding: they work as 1x1 "
            "convolutions, nine times as dear. On images under 16 px it can hardly be avoided, and is a note, unless most "
            "convolutions see one pixel alone: the images are then smaller than the network is made for.",
            "Take a stem that does not halve, a network with fewer stages, or larger images.",
            ("000, bug 9", "003, bug 5"),
        ),
        Code(
            "GU203",
            "error",
            "Classes, labels and outputs do not agree",
            "A label outside the network's outputs ends the run in its first batches, on a GPU with an error that "
            "names neither; more outputs than classes train, and hide that the data is not what it was taken for.",
            "Give the network as many outputs as the data has classes, which are counted from 0.",
        ),
        FEW_IMAGES,
        SHORT_BATCH,
        Code(
            "GU206",
            "warning",
            "The network ends without a norm",
            "The sums of the last stage reach the classifier unscaled: in a pre-activation network nothing has "
            "normalised them since the first block. The paper ends with a norm and a ReLU.",
            "Set model.final_norm=true.",
            ("003, bug 6",),
        ),
        Code(
            "GU207",
            "note",
            "Norms and biases decay too",
            "Decay on a norm's weight pulls its output to zero, which the next layers undo. Most recipes since 2018 "
            "leave norms and biases out; older ones, such as WideResNet's, were measured with it.",
            "Set optimizer.decay_norm_and_bias=false.",
            ("004, bug 13",),
        ),
        Code(
            "GU208",
            "warning",
            "Dropout that does nothing",
            "A setting that reads as regularisation and is none is taken for the cause of what the run shows.",
            "Remove the setting, or give it something to act on.",
        ),
        Code(
            "GU209",
            "warning",
            "Training images are enlarged",
            "Images are resized above the size they are stored in: the cost grows with the square of the side, and no "
            "detail is gained.",
            "Train at the size of the data, or raise data.resolution if the source has larger images.",
        ),
        Code(
            "GU210",
            "error",
            "The network does not take the images",
            "A pass over one image of that size ends in an error; so would the run.",
            "Choose another train.resolution or data.resolution, or another network.",
        ),
    )
}


@dataclass(frozen=True)
class NetworkFacts:
    """What the network holds and computes. parameters: trainable ones; the rest by side of the training images in px.

    flops: of the forward pass of one image; features: the last feature map, (channels, height, width).
    """

    parameters: int
    flops: dict[int, int]
    features: dict[int, tuple[int, int, int]]


def network_facts(subject: Subject) -> NetworkFacts | None:
    """Parameters, FLOPs and last feature maps at every resolution of the run; None without a network, or if it takes no images."""
    network = subject.network
    if network is None:
        return None
    flops, features = {}, {}
    for side in subject.live.resolutions():
        counter = FlopCounterMode(display=False)
        try:
            last = walk(network, side, counter).last()
        except Exception as error:  # GU210 says why
            if out_of_memory(error):
                raise
            return None
        flops[side] = counter.get_total_flops()
        if last is not None:
            features[side] = last.size
    return NetworkFacts(count_parameters(network), flops, features)


def check_network(subject: Subject) -> list[Finding]:
    """Everything about the network that is very likely not meant; see `NETWORK_CODES`."""
    findings = [*_enlarged(subject), *_decay(subject), *_idle_dropout(subject), *_labels(subject)]
    if subject.network is None:
        return findings
    walks: dict[int, Walk] = {}
    for side in subject.live.resolutions():
        try:
            walks[side] = walk(subject.network, side)
        except Exception as error:  # a network of the user's own may raise anything
            if out_of_memory(error):
                raise  # which says nothing about the network
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return [*findings, find(NETWORK_CODES["GU210"], f"one image of {side} px: {reason}")]
    for check in (_outputs, _stem, _last_map, _final_norm, check_norm_batches):
        findings += check(subject, walks)
    return findings


_Walks = dict[int, Walk]


def _stem(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    for side, walked in walks.items():
        first = next((found for found in walked.maps if isinstance(found.module, nn.Conv2d)), None)
        if side > _SMALL_IMAGE or side < 2 or first is None or 2 * first.side > side + 1:
            continue
        last = walked.last() or first
        yield find(
            NETWORK_CODES["GU201"],
            f"images of {side} px: {first.name} gives {first.size[1]} x {first.size[2]}, "
            f"{last.name} {last.size[1]} x {last.size[2]}",
            _smaller_stem(subject) or NETWORK_CODES["GU201"].mend,
        )
        return


def _smaller_stem(subject: Subject) -> str:
    return "model.stem=small" if getattr(subject.recipe.model, "stem", "small") != "small" else ""


def _last_map(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    small = {side: last for side, walked in walks.items() if (last := walked.last()) is not None and last.side < 2}
    if not small:
        return
    sides = ", ".join(f"{side} px -> {last.size[1]} x {last.size[2]}" for side, last in small.items())
    name = next(iter(small.values())).name
    blind = _blind(walks[min(small)])
    yield find(
        NETWORK_CODES["GU202"],
        f"{name}: {sides}{f'; {blind}' if blind else ''}",
        (min(small) > 2 and _smaller_stem(subject)) or NETWORK_CODES["GU202"].mend,  # no stem saves 2 px
        "note" if max(small) < _TINY_IMAGE and not blind else None,
    )


def _blind(walked: Walk) -> str:
    """What is to be said where most convolutions that look at a neighbourhood see one pixel alone; "" where they do not."""
    looking = [
        found for found in walked.maps if isinstance(found.module, nn.Conv2d) and max(found.module.kernel_size) > 1
    ]
    blind = sum(max(found.inputs) == 1 for found in looking)
    return f"{blind} of {len(looking)} convolutions see one pixel alone" if 2 * blind > len(looking) else ""


def _outputs(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    output = next(iter(walks.values())).output
    if output == (1, subject.classes):
        return
    plain = len(output) == 2 and output[0] == 1
    said = f"{output[1]} outputs" if plain else f"an output of shape {list(output)}"
    yield find(
        NETWORK_CODES["GU203"],
        f"the network gives {said} for one image; the data has {subject.classes} classes",
        NETWORK_CODES["GU203"].mend,
        "warning" if plain and output[1] > subject.classes else None,
    )


def _labels(subject: Subject) -> Iterator[Finding]:
    if len(subject.labels) == 0:
        return
    low, high = int(subject.labels.min()), int(subject.labels.max())
    if low < 0 or high >= subject.classes:
        yield find(
            NETWORK_CODES["GU203"],
            f"training labels run from {low} to {high}; with {subject.classes} classes they must lie in "
            f"0..{subject.classes - 1}",
        )


def _final_norm(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    maps = next(iter(walks.values())).maps
    norm, convolution = last_of(maps, _BatchNorm, nn.GroupNorm), last_of(maps, nn.Conv2d)
    if norm is None or convolution is None or maps.index(norm) > maps.index(convolution):
        return
    assert isinstance(convolution.module, nn.Conv2d)
    if max(convolution.inputs) == 1 and max(convolution.module.kernel_size) == 1:
        return  # a linear layer after the pooling, written as a convolution
    switch = getattr(subject.recipe.model, "final_norm", None) is False
    yield find(
        NETWORK_CODES["GU206"],
        f"the last norm is {norm.name}; {convolution.name} comes after it and reaches the classifier as it is",
        "model.final_norm=true" if switch else "Add a norm and a ReLU before the pooling.",
    )


def _decay(subject: Subject) -> Iterator[Finding]:
    optimizer = subject.recipe.optimizer
    if optimizer.decay_norm_and_bias and optimizer.weight_decay > 0:
        yield find(
            NETWORK_CODES["GU207"],
            f"optimizer.weight_decay={optimizer.weight_decay:g} with optimizer.decay_norm_and_bias=true",
            "optimizer.decay_norm_and_bias=false",
        )


def _idle_dropout(subject: Subject) -> Iterator[Finding]:
    model = subject.recipe.model
    code = NETWORK_CODES["GU208"]
    share = getattr(model, "dropout", 0.0)
    phases = [values.dropout for values in subject.live.everything() if values.dropout is not None]
    if getattr(model, "dropout_position", "between") != "between" and share == 0 and not any(phases):
        yield find(
            code,
            f"model.dropout_position={model.dropout_position} while model.dropout is 0 in the whole run",  # type: ignore[union-attr]
            "model.dropout_position=between",
        )
    begins = subject.live.at(0).dropout
    if begins is not None and begins != share:
        yield find(
            code,
            f"model.dropout={share:g}: a phase sets {begins:g} from the first step on",
            f"Write model.dropout={begins:g}, and take it out of that phase.",
        )
    if subject.network is not None:
        yield from _without_modules(subject, subject.network)


def _without_modules(subject: Subject, network: nn.Module) -> Iterator[Finding]:
    """Dropout that the recipe asks for of a network that has none, as a network of the user's own."""
    keys = ("dropout", "head_dropout", "stochastic_depth")
    asked = {key: value for key in keys if (value := getattr(subject.recipe.model, key, 0.0)) > 0}
    if asked and not any(isinstance(module, _DropoutNd) and module.p > 0 for module in network.modules()):
        said = ", ".join(f"model.{key}={value:g}" for key, value in asked.items())
        clear = " ".join(f"model.{key}=0" for key in asked)
        yield find(NETWORK_CODES["GU208"], f"{said}: {type(network).__name__} has no dropout in it", clear)


def _enlarged(subject: Subject) -> Iterator[Finding]:
    side = max(subject.live.resolutions())
    if side > subject.image_size:
        factor = (side / subject.image_size) ** 2
        own = subject.recipe.train.resolution == side
        yield find(
            NETWORK_CODES["GU209"],
            f"trained at {side} px, stored at {subject.image_size} px: {factor:.1f} times the work",
            "train.resolution=null" if own else f"Keep train.resolution at {subject.image_size} or less in the phases.",
        )
