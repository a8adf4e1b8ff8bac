"""What the network makes of the images: sizes of the feature maps, batch norm, class count, settings that do nothing.

Sizes and FLOPs come from a pass of one image over the meta device: shapes without numbers, so that it costs no arithmetic and
nothing in the network changes. A network that cannot go there (a part of it does not know the meta device) sees one real image of
zeros in evaluation mode. Checks that need the network are left out where the subject has none.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from groundup.evaluation import evaluation_mode
from groundup.models import count_parameters
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.subject import Subject

FeatureSize = tuple[str, int, int, int]
"""Name of the module, channels, height and width in px of what it gives."""

_SMALL_IMAGE = 64  # px: up to here a stem with stride 1 is the usual one
_TINY_IMAGE = 16  # px: below it most networks end in one pixel
_FEW = 8  # images that batch norm takes its statistics from

NETWORK_CODES: dict[str, Code] = {
    code.number: code
    for code in (
        Code(
            "GU201",
            "warning",
            "The stem was made for large images",
            f"The first convolution already halves an image of at most {_SMALL_IMAGE} px. On 32 px the rest of the network works on 8 x 8 "
            "pixels and less: 15 to 20 points of accuracy at CIFAR-100, which look like a lack of capacity.",
            "model.stem=small, or larger images",
            ("000, bug 9", "003, bug 5"),
        ),
        Code(
            "GU202",
            "warning",
            "The last feature map is smaller than 2 x 2",
            "The 3x3 convolutions of the last stage see one pixel and eight of padding: they work as 1x1 convolutions, nine times as "
            "dear. On images under 16 px it can hardly be avoided, and is a note.",
            "a stem that does not halve, a network with fewer stages, or larger images",
            ("000, bug 9", "003, bug 5"),
        ),
        Code(
            "GU203",
            "error",
            "Classes, labels and outputs do not agree",
            "A label outside the network's outputs ends the run in its first batches, on a GPU with an error that names neither; more "
            "outputs than classes train, and hide that the data is not what it was taken for.",
            "a network with as many outputs as the data has classes; labels from 0 to one less",
        ),
        Code(
            "GU204",
            "warning",
            "Batch norm over very few images",
            f"Training normalises by the mean and spread of the forward pass's own images. Under {_FEW} of them both are so uncertain that "
            "training is noisy, and evaluation, which uses running means, sees another network than was trained.",
            "a larger train.batch_size or train.micro_batch",
        ),
        Code(
            "GU205",
            "error",
            "A short last batch that batch norm takes badly",
            f"Once per epoch the forward pass has under {_FEW} images (a note): its statistics enter the running means with full weight. "
            "One image alone that ends in one pixel has no spread at all: torch refuses it (an error).",
            "train.drop_last=true",
        ),
        Code(
            "GU206",
            "warning",
            "The network ends without a norm",
            "The sums of the last stage reach the classifier unscaled: in a pre-activation network nothing has normalised them since the "
            "first block. The paper ends with a norm and a ReLU.",
            "model.final_norm=true",
            ("003, bug 6",),
        ),
        Code(
            "GU207",
            "note",
            "Norms and biases decay too",
            "Decay on a norm's weight pulls its output to zero, which the next layers undo. Most recipes since 2018 leave norms and biases "
            "out; older ones, such as WideResNet's, were measured with it.",
            "optimizer.decay_norm_and_bias=false",
            ("004, bug 13",),
        ),
        Code(
            "GU208",
            "warning",
            "Dropout that does nothing",
            "A setting that reads as regularisation and is none is taken for the cause of what the run shows.",
            "remove the setting, or give it something to act on",
        ),
        Code(
            "GU209",
            "warning",
            "Training images are enlarged",
            "Images are resized above the size they are stored in: the cost grows with the square of the side, and no detail is gained.",
            "train.resolution up to the size of the data, or a larger data.resolution if the source has larger images",
        ),
        Code(
            "GU210",
            "error",
            "The network does not take the images",
            "A pass over one image of that size ends in an error; so would the run.",
            "another train.resolution or data.resolution, or another network",
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


@dataclass(frozen=True)
class _Map:
    """A feature map: what `module`, called `name`, gave for an input of `inputs` (height, width) in px."""

    name: str
    module: nn.Module
    inputs: tuple[int, int]
    size: tuple[int, int, int]  # channels, height, width

    @property
    def side(self) -> int:
        return min(self.size[1:])


@dataclass(frozen=True)
class _Walk:
    """One image through a network: its feature maps in order of computation, and the shape of what comes out."""

    maps: list[_Map]
    output: tuple[int, ...]

    def last(self) -> _Map | None:
        """The last feature map that a norm gave, or a convolution where there is no norm; None without either."""
        return _last(self.maps, _BatchNorm, nn.GroupNorm) or _last(self.maps, nn.Conv2d)


def _last(maps: list[_Map], *kinds: type[nn.Module]) -> _Map | None:
    return next((found for found in reversed(maps) if isinstance(found.module, kinds)), None)


def feature_sizes(network: nn.Module, side: int) -> list[FeatureSize]:
    """What every innermost module gives for one image of `side` px, in order of computation; the network stays as it was."""
    return [(found.name, *found.size) for found in _walk(network, side).maps]


def network_facts(subject: Subject) -> NetworkFacts | None:
    """Parameters, FLOPs and last feature maps at every resolution of the run; None without a network, or if it takes no images."""
    network = subject.network
    if network is None:
        return None
    flops, features = {}, {}
    for side in subject.live.resolutions():
        counter = FlopCounterMode(display=False)
        try:
            last = _walk(network, side, counter).last()
        except Exception:  # GU210 says why
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
    walks: dict[int, _Walk] = {}
    for side in subject.live.resolutions():
        try:
            walks[side] = _walk(subject.network, side)
        except Exception as error:  # a network of the user's own may raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return [*findings, find(NETWORK_CODES["GU210"], f"one image of {side} px: {reason}")]
    for check in (_outputs, _stem, _last_map, _final_norm, _norm_batches):
        findings += check(subject, walks)
    return findings


def _walk(network: nn.Module, side: int, counting: AbstractContextManager[object] | None = None) -> _Walk:
    """One image of `side` px through `network`, inside `counting`."""
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    first = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), torch.empty(0))
    images = torch.zeros(1, 3, side, side, device=first.device, dtype=first.dtype)
    try:
        moved = {name: tensor.to("meta") for name, tensor in tensors.items()}
        return _pass(network, moved, images.to("meta"), counting or nullcontext())
    except Exception:  # a part of it that is not at home on the meta device; a real fault comes again
        return _pass(network, tensors, images, counting or nullcontext())


def _pass(network: nn.Module, tensors: dict[str, Tensor], images: Tensor, counting: AbstractContextManager[object]) -> _Walk:
    """`images` through `network` with `tensors` in place of its own; what its innermost modules give."""
    maps: list[_Map] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def saw(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            given = inputs[0] if inputs else None
            if isinstance(given, Tensor) and isinstance(output, Tensor) and given.ndim == output.ndim == 4:
                before = (given.shape[2], given.shape[3])
                maps.append(_Map(name, module, before, (output.shape[1], output.shape[2], output.shape[3])))

        return saw

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Identity | _DropoutNd)
    ]
    try:
        with evaluation_mode(network), torch.no_grad(), counting:
            output = functional_call(network, tensors, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    return _Walk(maps, tuple(output.shape) if isinstance(output, Tensor) else ())


_Walks = dict[int, _Walk]


def _stem(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    for side, walk in walks.items():
        first = next((found for found in walk.maps if isinstance(found.module, nn.Conv2d)), None)
        if side > _SMALL_IMAGE or side < 2 or first is None or 2 * first.side > side + 1:
            continue
        last = walk.last() or first
        yield find(
            NETWORK_CODES["GU201"],
            f"images of {side} px: {first.name} gives {first.size[1]} x {first.size[2]}, {last.name} {last.size[1]} x {last.size[2]}",
            _smaller_stem(subject) or NETWORK_CODES["GU201"].mend,
        )
        return


def _smaller_stem(subject: Subject) -> str:
    return "model.stem=small" if getattr(subject.recipe.model, "stem", "small") != "small" else ""


def _last_map(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    small = {side: last for side, walk in walks.items() if (last := walk.last()) is not None and last.side < 2}
    if not small:
        return
    sides = ", ".join(f"{side} px -> {last.size[1]} x {last.size[2]}" for side, last in small.items())
    name = next(iter(small.values())).name
    yield find(
        NETWORK_CODES["GU202"],
        f"{name}: {sides}",
        _smaller_stem(subject) or NETWORK_CODES["GU202"].mend,
        "note" if max(small) < _TINY_IMAGE else None,
    )


def _outputs(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    output = next(iter(walks.values())).output
    if output != (1, subject.classes):
        said = f"{output[1]} outputs" if len(output) == 2 and output[0] == 1 else f"an output of shape {list(output)}"
        yield find(NETWORK_CODES["GU203"], f"the network gives {said} for one image; the data has {subject.classes} classes")


def _labels(subject: Subject) -> Iterator[Finding]:
    if len(subject.labels) == 0:
        return
    low, high = int(subject.labels.min()), int(subject.labels.max())
    if low < 0 or high >= subject.classes:
        yield find(
            NETWORK_CODES["GU203"],
            f"training labels run from {low} to {high}; with {subject.classes} classes they must lie in 0..{subject.classes - 1}",
        )


def _final_norm(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    maps = next(iter(walks.values())).maps
    norm, convolution = _last(maps, _BatchNorm, nn.GroupNorm), _last(maps, nn.Conv2d)
    if norm is None or convolution is None or maps.index(norm) > maps.index(convolution):
        return
    assert isinstance(convolution.module, nn.Conv2d)
    if max(convolution.inputs) == 1 and max(convolution.module.kernel_size) == 1:
        return  # a linear layer after the pooling, written as a convolution
    switch = getattr(subject.recipe.model, "final_norm", None) is False
    yield find(
        NETWORK_CODES["GU206"],
        f"the last norm is {norm.name}; {convolution.name} comes after it and reaches the classifier as it is",
        "model.final_norm=true" if switch else "add a norm and a ReLU before the pooling",
    )


def _norm_batches(subject: Subject, walks: _Walks) -> Iterator[Finding]:
    assert subject.network is not None
    if not any(isinstance(module, _BatchNorm) for module in subject.network.modules()):
        return
    train = subject.recipe.train
    size = train.micro_batch or train.batch_size
    often = {f"{size} images per forward pass": size}
    if train.batch_size % size:
        often[f"{train.batch_size % size} in the last of each step's"] = train.batch_size % size
    few = [said for said, count in often.items() if count < _FEW]
    if few:
        yield find(NETWORK_CODES["GU204"], f"{', '.join(few)} (train.batch_size={train.batch_size})", _larger(subject))
    short = subject.train_images % train.batch_size % size
    if train.drop_last or short == 0 or short >= _FEW:
        return
    last = next(iter(walks.values())).last()
    fails = short == 1 and last is not None and last.size[1:] == (1, 1)
    yield find(
        NETWORK_CODES["GU205"],
        f"{subject.train_images} images in batches of {train.batch_size}: the last forward pass of an epoch has {short}",
        "train.drop_last=true",
        "error" if fails else "note",
    )


def _larger(subject: Subject) -> str:
    """The override for a forward pass of more images: the smallest divisor of the batch that is large enough, else a new batch."""
    batch = subject.recipe.train.batch_size
    enough = [part for part in range(4 * _FEW, batch + 1) if batch % part == 0]
    if enough and subject.recipe.train.micro_batch:
        return f"train.micro_batch={enough[0]}" if enough[0] < batch else "train.micro_batch=null"
    return "train.batch_size=32 (and the learning rate that goes with it)"


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
            "model.dropout=0.3, or remove model.dropout_position",
        )
    begins = subject.live.at(0).dropout
    if begins is not None and begins != share:
        yield find(
            code,
            f"model.dropout={share:g}: a phase sets {begins:g} from the first step on",
            f"model.dropout={begins:g}, without that phase",
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
            "train.resolution=null" if own else f"train.resolution up to {subject.image_size} in the phases",
        )
