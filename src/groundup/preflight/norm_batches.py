"""Batch norm and the images that one forward pass has: few of them, and one alone, of which there may be no spread at all."""

from collections.abc import Iterator, Mapping

from torch.nn.modules.batchnorm import _BatchNorm

from groundup.augment import MIX_GROUP
from groundup.basis.errors import UsageError
from groundup.basis.machine import out_of_memory
from groundup.preflight.feature_maps import Walk, walk
from groundup.preflight.findings import Code, Finding, find
from groundup.preflight.subject import Subject
from groundup.training import share_of
from groundup.training.loop import parts

_FEW = 8  # images that batch norm takes its statistics from
_ENOUGH = 32

FEW_IMAGES = Code(
    "GU204",
    "error",
    "Batch norm over very few images",
    f"Training normalises by the mean and spread of the forward pass's own images. Under {_FEW} of them both "
    "are so uncertain that training is noisy, and evaluation, which uses running means, sees another network "
    "than was trained (a warning). One image alone that ends in one pixel has no spread at all: torch refuses "
    "it (an error, which cannot be left out).",
    "Raise train.micro_batch, or train.batch_size together with the learning rate.",
)
SHORT_BATCH = Code(
    "GU205",
    "error",
    "A short last batch that batch norm takes badly",
    f"Once per epoch the forward pass has under {_FEW} images (a note): its statistics enter the running means "
    "with full weight. One image alone that ends in one pixel has no spread at all: torch refuses it (an "
    "error, which cannot be left out).",
    "Set train.drop_last=true.",
)


def check_norm_batches(subject: Subject, walks: Mapping[int, Walk]) -> Iterator[Finding]:
    """What the sizes of the run's forward passes mean for its batch norms. `walks`: an image through the network, by side in px."""
    assert subject.network is not None
    if not any(isinstance(module, _BatchNorm) for module in subject.network.modules()):
        return
    train = subject.recipe.train
    lone = next(
        (f"; {walked.spreadless} sees one value per channel" for walked in walks.values() if walked.spreadless), ""
    )
    often = sorted(_pass_sizes(subject, train.batch_size), reverse=True)
    refused = lone if often[-1] == 1 and not _sees_all(subject) else ""
    if often[-1] < _FEW:
        said = [f"{_images(often[0])} per forward pass"] if often[0] < _FEW else []
        said += [f"{count} in the last of each step's" for count in often[1:] if count < _FEW]
        yield find(
            FEW_IMAGES,
            f"{', '.join(said)} (train.batch_size={train.batch_size}){refused}",
            _larger(subject) or FEW_IMAGES.mend,
            "error" if refused else "warning",
        )
    short = _short_pass(subject)
    if short == 0 or short >= min(_FEW, often[-1]):
        return
    refused = lone if short == 1 and not _sees_all(subject) else ""
    yield find(
        SHORT_BATCH,
        f"{subject.train_images} images in batches of {train.batch_size}: the last forward pass of an epoch has "
        f"{short}{refused}",
        "train.drop_last=true",
        "error" if refused else "note",
    )


def refuse_lone_images(subject: Subject) -> None:
    """UsageError if some forward pass of the run has one image alone of which a batch norm sees one value per channel: torch
    refuses it. Where no pass has one image, the network is not looked at."""
    network = subject.network
    smallest = min(_pass_sizes(subject, subject.recipe.train.batch_size))
    if network is None or 1 not in (smallest, _short_pass(subject)):
        return
    try:
        walks = {side: walk(network, side) for side in subject.live.resolutions()}
    except Exception as error:  # a network of the user's own may raise anything; GU210 says what
        if out_of_memory(error):
            raise
        return
    for finding in check_norm_batches(subject, walks):
        if finding.level == "error":
            title = (FEW_IMAGES if finding.code == FEW_IMAGES.number else SHORT_BATCH).title
            raise UsageError(f"{finding.code} {title}: {finding.saw}", hint=finding.mend)


def _pass_sizes(subject: Subject, count: int) -> set[int]:
    """Images in the forward passes of a step over `count` images, in all processes."""
    shares = [share_of(count, rank, subject.processes) for rank in range(subject.processes)]
    micro = subject.recipe.train.micro_batch
    return {part.stop - part.start for share in shares for part in parts(count, micro, share)}


def _short_pass(subject: Subject) -> int:
    """Images in the smallest forward pass of an epoch's short last step; 0 if the run has no such step."""
    train, clock = subject.recipe.train, subject.clock
    short = subject.train_images % train.batch_size
    if train.drop_last or short == 0 or clock.total_steps < clock.steps_per_epoch:
        return 0
    return min(_pass_sizes(subject, short))


def _sees_all(subject: Subject) -> bool:
    """Whether a batch norm sees the images of several processes."""
    return subject.recipe.train.sync_batch_norm and subject.processes > 1


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _larger(subject: Subject) -> str:
    """The overrides for a forward pass of more images: a part of the batch that is large enough, else a larger batch."""
    train, batch = subject.recipe.train, subject.recipe.train.batch_size
    # Mixing pairs images inside groups, which a part of the batch must not cut.
    group = MIX_GROUP if subject.live.mixes else 1
    enough = [part for part in range(_ENOUGH, batch) if batch % part == 0 and part % group == 0]
    if train.micro_batch and enough:
        return f"train.micro_batch={enough[0]}"
    whole = "train.micro_batch=null" if train.micro_batch else ""
    larger = min(_ENOUGH, subject.train_images)
    return whole if batch >= larger else f"train.batch_size={larger} {whole}".rstrip()
