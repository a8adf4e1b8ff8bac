"""What a mirror on the Hub holds besides checkpoints: the run as a publication, for `groundup.load` from the first copy on.

It is made of what was set aside with a checkpoint and goes with it in one commit; the finished run's takes its place at the end.
Until then the weights are the trained ones, as of every unfinished run: an average may wait for its batch-norm statistics. What
somebody changed in the repository stays as it is.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.basis.files import write_text
from groundup.basis.hub import parse_hub
from groundup.runs.card.unfinished import SoFar, unfinished_card
from groundup.runs.contents import CARD, Content, Gathered, There, changes, gather
from groundup.runs.folder import RunFolder
from groundup.runs.mirror.files import AT_THE_END, SMALL, Copy, step_of
from groundup.runs.pictures import draw_curves
from groundup.runs.prepare import Plan
from groundup.runs.publication import own_in
from groundup.runs.reported import chosen_checkpoint, reported_weights
from groundup.runs.repository import look
from groundup.tracking import read
from groundup.training import MODEL


@dataclass(frozen=True)
class Form:
    """What is to be written for the publication. files: by name; after: the commit that was looked at; notes: for a person."""

    files: dict[str, Path | bytes]
    removed: tuple[str, ...]
    after: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Publisher:
    """The publication of a run in its mirror, `url` = hf:OWNER/NAME. plan: None when the run is over, of which every copy
    then holds the result; pictures: whether curves are drawn."""

    url: str
    folder: RunFolder
    plan: Plan | None
    pictures: bool = True

    def of_copy(self, copy: Copy) -> Form:
        """For a copy of a checkpoint: the weights that the run would report if it ended there."""
        if self.plan is None:
            return self.of_result()
        described = json.loads(copy.small["classifier.json"])
        gathered = Gathered(tuple(self._contents(copy, described, self.plan)))
        return self._form(described["classes"], lambda there: gathered)

    def of_result(self) -> Form:
        """For the finished run: what `groundup publish` would send."""
        recipe, summary = self.folder.recipe(), self.folder.summary() or {}
        name = reported_weights(self.folder)
        weights = chosen_checkpoint(self.folder, recipe, name) / name
        described = json.loads(self.folder.classifier_file.read_text(encoding="utf-8"))
        return self._form(
            described["classes"], lambda there: gather(self.folder, weights, summary, (), self.url, there)
        )

    def _form(self, classes: list[str], gathered: Callable[[There], Gathered]) -> Form:
        remote = look(parse_hub(self.url))
        there = remote.there_of_mirror((*SMALL, *AT_THE_END))  # it was admitted as this run's own
        planned = changes(gathered(there), there, self.folder.recipe().name, classes)
        files = {content.name: content.source for content in planned.contents if content.name in planned.send}
        return Form(files, planned.remove, remote.head, planned.notes)

    def _contents(self, copy: Copy, described: dict[str, Any], plan: Plan) -> list[Content]:
        recipe = plan.recipe
        weights = copy.best.folder if recipe.evaluate.model == "best" and copy.best else copy.folder
        contents = [Content(MODEL, weights / MODEL)]
        contents += [Content(name, text.encode()) for name, text in copy.small.items()]
        with tempfile.TemporaryDirectory(prefix="groundup-") as place:
            for name, text in copy.small.items():
                write_text(Path(place) / name, text)
            shown = self._pictures(RunFolder(Path(place)), plan)
            card = self._card(RunFolder(Path(place)), step_of(weights.name), described, shown, plan)
        contents += [Content(name, content) for name, content in shown.items()]
        return [*contents, Content(CARD, card.encode())]

    def _pictures(self, small: RunFolder, plan: Plan) -> dict[str, bytes]:
        """The samples, and the curves up to the copy."""
        if self.pictures:
            draw_curves(small, plan.recipe)
        pictures = (small.curves_picture, self.folder.samples_picture)
        return {picture.name: picture.read_bytes() for picture in pictures if picture.is_file()}

    def _card(self, small: RunFolder, step: int, described: dict[str, Any], shown: dict[str, bytes], plan: Plan) -> str:
        records = read(small.metrics_file) if small.metrics_file.exists() else []
        return unfinished_card(
            SoFar(
                recipe=plan.recipe,
                described=described,
                own=own_in(small.path),
                step=step,
                epoch=plan.clock.epoch(step),
                steps=plan.clock.total_steps,
                metrics=next((record for record in records if record.get("step") == step), {}),
                pictures=tuple(shown),
                repository=self.url,
            )
        )
