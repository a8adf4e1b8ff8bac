"""The demo page: a picture in, and for each run its most probable classes, what the network saw, and what it cannot know.

Everything that comes from a run or from a visitor (names, labels, messages) is escaped before it becomes HTML. The page follows the
reader's light or dark, and asks nothing of any other server.
"""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.basis.errors import UsageError
from groundup.data.pixels.decode import MAX_PIXELS
from groundup.runs.reports.pictures import heated
from groundup.ship.demo.limits import KEPT_SECONDS
from groundup.ship.demo.model import Answer, DemoRun
from groundup.ship.demo.picture import MAX_BYTES, MAX_HELD, Picture, RefusedPicture, read_picture

if TYPE_CHECKING:
    import gradio

CONCURRENCY = 2
WAITING = 64
_SHOWN_SIDE = 224  # px; small images are enlarged to about this, pixel by pixel

_CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
.demo-note { font-size: 0.95em; line-height: 1.45; }
.demo-note p { margin: 0.35em 0; }
.demo-caption { font-size: 0.85em; margin: 0; }
.demo-warning { border-left: 4px solid #d97706; padding-left: 0.7em; }
.demo-error { border-left: 4px solid #dc2626; padding-left: 0.7em; font-weight: 600; }
#demo-examples img, .demo-pixels img { image-rendering: pixelated; }
#demo-picture img { width: 100%; height: 100%; object-fit: contain; }
:focus-visible { outline: 3px solid #2563eb !important; outline-offset: 2px; }
"""
# A reader of the screen is told when a new answer is there.
_JS = """() => { const said = document.getElementById('demo-status');
if (said) { said.setAttribute('role', 'status'); said.setAttribute('aria-live', 'polite'); } }"""


@dataclass(frozen=True)
class Look:
    """What `launch` is given beside the page: theme, style and script."""

    theme: Any
    css: str
    js: str


def import_gradio() -> Any:
    """Gradio, told to send nothing home. UsageError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Gradio counts its requests for a page that is switched off here, with a table made anew after each of them.
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(1 << 40)
    try:
        import gradio
    except ImportError:
        raise _missing() from None
    return gradio


def installed_gradio() -> str:
    """The version of Gradio, without the seconds that importing it takes."""
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise _missing() from None


def _missing() -> UsageError:
    return UsageError("the demo page needs the package gradio", hint="install it with `pip install 'groundup[demo]'`")


def look() -> Look:
    """Fonts of the reader's own machine, since others would be fetched from elsewhere."""
    gradio = import_gradio()
    theme = gradio.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
    )
    return Look(theme, _CSS, _JS)


def build_page(runs: Sequence[DemoRun], uploads: Path) -> "gradio.Blocks":
    """The page and its endpoint `/predict`. uploads: the folder that Gradio puts uploaded files in; no other file is read."""
    gradio = import_gradio()
    title = runs[0].name if len(runs) == 1 else "Comparing " + ", ".join(run.name for run in runs)
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gradio.HTML(f"<h1>{html.escape(title)}</h1>{_intro()}", elem_classes="demo-note")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                picture = gradio.Image(
                    label="Picture: drop, paste, choose or take one",
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    image_mode=None,
                    height=300,
                    elem_id="demo-picture",
                    buttons=["fullscreen"],
                    alt_text="The picture that is classified",
                )
                status = gradio.HTML(_status("No picture yet."), elem_id="demo-status")
                _examples(gradio, runs, picture)
            with gradio.Column(scale=3 if len(runs) == 1 else 5, min_width=300), gradio.Row():
                columns = [_column(gradio, run, number, len(runs) > 1) for number, run in enumerate(runs)]
        _limits_of_knowledge(gradio, runs)
        shown = [status, *(part for column in columns for part in column)]
        slot = {"concurrency_limit": CONCURRENCY, "concurrency_id": "pictures", "preprocess": False}
        picture.change(
            lambda payload: _show(runs, payload, uploads),
            picture,
            shown,
            api_visibility="private",
            trigger_mode="always_last",
            show_progress_on=shown[1::4],
            **slot,
        )
        # An endpoint of its own: a program wants numbers, not the parts of a page.
        gradio.Button(visible=False).click(
            lambda payload: _predict(gradio, runs, payload, uploads),
            picture,
            gradio.JSON(visible=False, label="answer"),
            api_name="predict",
            api_description="Classify one picture: the most probable classes of every run, with probabilities.",
            **slot,
        )
    page.queue(max_size=WAITING, default_concurrency_limit=CONCURRENCY, api_open=False)
    return page


def _intro() -> str:
    return "<p>Hand it a picture, and see what it says, how sure it is, and where it looked.</p>"


def _column(gradio: Any, run: DemoRun, number: int, several: bool) -> list[Any]:
    """The parts that show what one run says: classes, remarks, what it saw, where it looked."""
    with gradio.Column(min_width=280):
        result = f"Accuracy {run.result}." if run.result else "The accuracy of this run is not known."
        head = f"<h2>{html.escape(run.name)}</h2>" if several else ""
        gradio.HTML(f"{head}<p>{html.escape(result)}</p>", elem_classes="demo-note")
        label = gradio.Label(label="Most probable classes", num_top_classes=5, elem_id=f"demo-classes-{number}")
        remarks = gradio.HTML(_calibration(run), elem_id=f"demo-remarks-{number}", elem_classes="demo-note")
        with gradio.Row():
            seen = _small_picture(gradio, "What the network sees", f"demo-seen-{number}")
            heat = _small_picture(gradio, "Where it looked", f"demo-heat-{number}")
    return [label, remarks, seen, heat]


def _small_picture(gradio: Any, title: str, name: str) -> Any:
    """A picture under its title. Gradio's own label would lie on top of it, and hide much of it on a phone."""
    with gradio.Column(min_width=130):
        gradio.HTML(f"<p>{title}</p>", elem_classes="demo-caption", padding=False)
        return gradio.Image(
            label=title,
            show_label=False,
            elem_id=name,
            elem_classes="demo-pixels",
            alt_text=title,
            interactive=False,
            format="png",
            buttons=["fullscreen"],
        )


def _examples(gradio: Any, runs: Sequence[DemoRun], picture: Any) -> None:
    facts = next((run.facts for run in runs if run.facts.examples), None)
    if facts is None:
        why = html.escape(runs[0].facts.missing or "none are kept")
        gradio.HTML(f"<p>No example images: {why}.</p>", elem_classes="demo-note", elem_id="demo-examples")
        return
    gradio.Examples(
        [[str(example.file)] for example in facts.examples],
        picture,
        label=f"Examples: images of the {facts.examples_from} split",
        elem_id="demo-examples",
        preload=False,
        cache_examples=False,
        api_visibility="private",
    )
    names = ", ".join(html.escape(example.label) for example in facts.examples)
    gradio.HTML(f"<p>Their labels: {names}.</p>", elem_classes="demo-note")


def _limits_of_knowledge(gradio: Any, runs: Sequence[DemoRun]) -> None:
    with gradio.Accordion("What the network cannot know", open=False, elem_id="demo-limits"):
        text = (
            "<p>It answers with one of its classes whatever the picture shows. A probability says how often such an answer is "
            "right for pictures like those it was trained on; for others it says little. Where it looked is "
            "a Grad-CAM map: bright where the evidence for the first answer lies.</p>"
        )
        for run in runs:
            names = ", ".join(map(html.escape, run.classifier.classes))
            text += (
                f"<p><b>{html.escape(run.name)}</b>: {_unlike_explained(run)} Its {len(run.classifier.classes)} classes: "
                f"{names}.</p>"
            )
        text += (
            f"<p>Pictures of up to {MAX_BYTES >> 20} MB and {MAX_HELD // 1_000_000} megapixels are read (JPEG photographs: "
            f"{MAX_PIXELS // 1_000_000}). They are deleted from this server after about {KEPT_SECONDS // 60} minutes.</p>"
        )
        gradio.HTML(text, elem_classes="demo-note")


def _unlike_explained(run: DemoRun) -> str:
    reference = run.facts.reference
    if reference is None:
        return f"No note on unlike pictures: {html.escape(run.facts.missing or 'no reference is kept')}."
    return (
        "A picture is called unlike its training data if it is farther from its neighbours among "
        f"{len(reference.features):,} training images, in the network's features, than 99% of {reference.held_out_images:,} "
        f"{html.escape(reference.held_out)} images are. Without that note a picture may still show something it never saw."
    )


def _show(runs: Sequence[DemoRun], payload: Any, uploads: Path) -> list[Any]:
    """Everything on the page that follows from a picture. A refused picture leaves no older answer beside it."""
    empty = [part for run in runs for part in (None, _calibration(run), None, None)]
    if payload is None:
        return [_status("No picture yet."), *empty]
    try:
        picture = _received(payload, uploads)
        answers = [run.answer(picture) for run in runs]
    except RefusedPicture as refused:
        return [_status(refused.message, "demo-error"), *empty]
    parts: list[Any] = []
    for run, answer in zip(runs, answers, strict=True):
        heat = run.heat(answer)
        image = answer.image.permute(1, 2, 0).numpy()
        hot = None if heat is None else _enlarged(heated(image[None], heat[None])[0])
        parts += [dict(answer.top), _remarks(run, picture, answer), _enlarged(image), hot]
    best = "; ".join(
        f"{run.name}: {answer.top[0][0]}, {answer.top[0][1]:.0%}" if len(runs) > 1 else _in_words(answer)
        for run, answer in zip(runs, answers, strict=True)
    )
    return [_status(" ".join([f"{best}.", *picture.notes])), *parts]


def _in_words(answer: Answer) -> str:
    return f"{answer.top[0][0]}, {answer.top[0][1]:.0%}"


def _predict(gradio: Any, runs: Sequence[DemoRun], payload: Any, uploads: Path) -> dict[str, Any]:
    """The answer for a program; gradio.Error with the reason for a refused picture."""
    try:
        picture = _received(payload, uploads)
        answers = [run.answer(picture) for run in runs]
    except RefusedPicture as refused:
        raise gradio.Error(refused.message, print_exception=False) from None
    return {
        "picture": {"width": picture.width, "height": picture.height},
        "notes": list(picture.notes),
        "runs": [_plain(run, answer) for run, answer in zip(runs, answers, strict=True)],
    }


def _plain(run: DemoRun, answer: Answer) -> dict[str, Any]:
    unlike = None if answer.unlike is None else {"score": round(answer.unlike, 4), "is_unlike": answer.unlike > 1}
    return {
        "run": run.name,
        "top": [{"class": name, "probability": share} for name, share in answer.top],
        "temperature": run.temperature,
        "input_size": run.classifier.image_size,
        "unlike": unlike,
    }


def _received(payload: Any, uploads: Path) -> Picture:
    """The picture in an upload. Only a file below `uploads` is opened, whatever path was sent."""
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str):
        raise RefusedPicture("no picture was sent: upload one")
    place = Path(path).resolve()
    if not place.is_relative_to(uploads.resolve()) or not place.is_file():
        raise RefusedPicture("the picture was not uploaded here, or is deleted by now; upload it again")
    return read_picture(place, str(payload.get("orig_name") or place.name)[:80])


def _status(text: str, kind: str = "") -> str:
    role = ' role="alert"' if kind else ""
    return f'<p class="demo-note {kind}"{role}>{html.escape(text)}</p>'


def _calibration(run: DemoRun) -> str:
    if run.temperature is None:
        return "<p>The probabilities are not calibrated: no temperature was fitted on a validation split.</p>"
    return (
        f"<p>The probabilities are calibrated with temperature {run.temperature:.3g}, fitted on validation images.</p>"
    )


def _remarks(run: DemoRun, picture: Picture, answer: Answer) -> str:
    side = run.classifier.image_size
    size = f"{picture.width:,} x {picture.height:,}"
    seen = ""
    if (picture.width, picture.height) != (side, side):
        smaller = max(picture.width, picture.height) > side
        lost = "finer detail is lost" if smaller else "it is enlarged"
        how = {"squash": "squashed to a square", "crop": "cut to its middle square", "pad": "with black borders"}
        form = f", {how[run.classifier.resize]}" if picture.width != picture.height else ""
        seen = f"<p>The network sees {side} x {side} of {size} pixels{form}: {lost}.</p>"
    unlike = ""
    if answer.unlike is not None:
        score = f"its distance from training images is {answer.unlike:.2f} of the limit"
        if answer.unlike > 1:
            unlike = (
                f'<p class="demo-warning"><b>This picture is unlike the training data</b> ({score}): the answer may '
                "mean nothing.</p>"
            )
        else:
            unlike = f"<p>Not unlike the training data: {score}.</p>"
    return unlike + seen + _calibration(run)


def _enlarged(image: np.ndarray) -> np.ndarray:
    """A small image with every pixel a square, so that it looks as coarse as the network finds it."""
    factor = max(1, round(_SHOWN_SIDE / image.shape[0]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)
