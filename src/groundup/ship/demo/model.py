"""A trained run as the demo asks it: probabilities, how unlike the picture is, where the evidence lies.

Shapes   images uint8 (3, S, S), prepared; probabilities float32 (C,); heat float32 (S, S) in [0, 1].
Threads  The pages' requests come in many threads. The network is asked by one thread alone: what looks into it hooks it, and
         torch keeps a team of threads for every thread that asks.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, tensor

from groundup import augment
from groundup.basis.errors import GroundupError
from groundup.basis.interruption import StopRequest
from groundup.evaluation.grad_cam import grad_cam
from groundup.runs.evaluation_file import fitted_temperature, weights_checksum
from groundup.runs.load import Classifier, classifier_of
from groundup.runs.publication import summary_in
from groundup.runs.trained import OtherData, Trained, data_of, open_trained
from groundup.ship.demo.facts import (
    FOLDER,
    Facts,
    Say,
    is_replaceable,
    make_facts,
    read_facts,
    without_data,
    write_facts,
)
from groundup.ship.demo.picture import Picture
from groundup.ship.demo.unlike import logits_and_features
from groundup.training import choose_engine

TOP = 5

_network_thread = ThreadPoolExecutor(1, thread_name_prefix="network")


@dataclass(frozen=True)
class Answer:
    """What one run says about one picture. top: names and probabilities, most probable first; unlike: the score, above 1 for a
    picture unlike the training images, None without a reference; image: what the network saw, uint8 (3, S, S)."""

    top: list[tuple[str, float]]
    unlike: float | None
    image: Tensor


@dataclass(frozen=True)
class DemoRun:
    """A run with everything that its column of the page shows. `result`: its accuracy in words, empty if it is not known."""

    name: str
    result: str
    classifier: Classifier
    temperature: float | None
    facts: Facts

    def answer(self, picture: Picture) -> Answer:
        """Classify a picture. RefusedPicture if it turns out to be damaged."""
        image = picture.prepared(self.classifier)
        return _network_thread.submit(self._answer, image).result()

    def heat(self, answer: Answer) -> np.ndarray | None:
        """Where the evidence for the most probable class lies, float32 (S, S); None for a network without feature maps."""
        return _network_thread.submit(self._heat, answer).result()

    def _answer(self, image: Tensor) -> Answer:
        logits, features = logits_and_features(self.classifier.model, self._normalized(image))
        probabilities = (logits[0] / (self.temperature or 1.0)).softmax(0).cpu()
        classes = self.classifier.classes
        best = probabilities.topk(min(TOP, len(classes)))
        top = [
            (classes[index], share) for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        reference = self.facts.reference
        unlike = None if reference is None or features is None else float(reference.scores(features)[0])
        return Answer(top, unlike, image)

    def _heat(self, answer: Answer) -> np.ndarray | None:
        target = self.classifier.classes.index(answer.top[0][0])
        heat = grad_cam(self.classifier.model, self._normalized(answer.image), tensor([target]))
        return None if heat is None else heat[0].numpy()

    def _normalized(self, image: Tensor) -> Tensor:
        device = next(self.classifier.model.parameters()).device
        return augment.normalize(image[None].to(device), self.classifier.mean, self.classifier.std)


def open_run(
    reference: Path | str, name: str, scratch: Path, stop: StopRequest | None = None, say: Say = lambda text: None
) -> DemoRun:
    """The run in a run folder, a publication or `hf:OWNER/NAME`. What is computed for its demo is kept in RUN/demo, or in `scratch`
    if that cannot be written. `stop` may end it between images."""
    trained = open_trained(reference)
    folder, classifier = trained.folder, classifier_of(trained)
    weights = weights_checksum(folder)
    kept = read_facts(folder.path / FOLDER, weights)
    temperature = fitted_temperature(folder)
    if trained.published:
        facts = kept or without_data("it was published without its data")
        result = _result(summary_in(folder.path))
        return DemoRun(name, result, classifier, facts.temperature or temperature, facts)
    classifier.model.to(choose_engine(trained.recipe.train, total_steps=1).torch_device)
    facts = kept or _new_facts(trained, classifier, weights, scratch / name, stop or StopRequest(), say)
    return DemoRun(name, _result(folder.summary() or {}), classifier, temperature, facts)


def _new_facts(
    trained: Trained, classifier: Classifier, weights: str, scratch: Path, stop: StopRequest, say: Say
) -> Facts:
    folder = trained.folder
    try:
        splits = data_of(trained, stop)
    except GroundupError as error:
        say(f"{folder.path}: no examples and no note on unlike pictures: {error.message.splitlines()[0]}")
        if isinstance(error, OtherData):
            return without_data("its data source gives other images now than it was trained on")
        return without_data("the data of this run could not be opened here")
    facts, images = make_facts(classifier, splits, folder.summary() is not None, stop.check, say)
    place = folder.path / FOLDER
    if not is_replaceable(place):
        say(
            f"{place}: holds files that groundup did not write: it is left as it is, and nothing is kept for the next start"
        )
        return write_facts(facts, images, scratch / FOLDER, weights)
    try:
        return write_facts(facts, images, place, weights)
    except OSError as error:
        say(f"{place}: not kept: {error.strerror or error}")
        return write_facts(facts, images, scratch / FOLDER, weights)


def _result(summary: Any) -> str:
    """Such as `73.69% (95% interval 72.82% to 74.54%) on 10,000 test images`."""
    try:
        low, high = summary["top1_interval"]
        optimistic = "; chosen on these images, so optimistic" if summary["optimistic"] else ""
        return (
            f"{summary['top1']:.2%} (95% interval {low:.2%} to {high:.2%}) on {summary['images']:,} "
            f"{summary['reported_on']} images{optimistic}"
        )
    except (KeyError, TypeError, ValueError):
        return ""
