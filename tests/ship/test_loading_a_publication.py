"""Loading a publication: it answers as its run does, and one that was damaged or made with bad intentions gives a clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import groundup
from groundup.basis.errors import GroundupError, UsageError
from groundup.runs.load import Classifier
from groundup.runs.train import Run


@pytest.fixture
def run(averaged_run: Run) -> Run:
    return averaged_run


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def logits(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    from groundup import augment

    with torch.no_grad():
        return classifier.model(augment.normalize(images, classifier.mean, classifier.std))


def test_what_is_loaded_from_it_answers_to_the_bit_as_the_run_does(run: Run, place: Path, images: torch.Tensor) -> None:
    own, published = groundup.load(run.folder), groundup.load(place)
    assert torch.equal(logits(own, images), logits(published, images))
    assert (published.classes, published.image_size, published.mean) == (own.classes, own.image_size, own.mean)
    assert run.summary["weights"] == "average"
    assert (place / "model.safetensors").read_bytes() == (
        run.folder / "checkpoints" / "last" / "average.safetensors"
    ).read_bytes()


def test_a_run_with_a_network_of_its_own_is_published_and_loaded_with_it(
    tmp_path: Path, images: torch.Tensor, short_settings: list[str]
) -> None:
    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10))

    own = groundup.train("digits", [*short_settings, "average={name: none}"], run=tmp_path / "run", model=network())
    groundup.publish(own.folder, to=tmp_path / "published")
    for summary in ("there", "not there yet"):
        with pytest.raises(UsageError, match=r"a network of its own, Sequential(?s:.*)model="):
            groundup.load(tmp_path / "published")
        (tmp_path / "published" / "summary.json").unlink(missing_ok=summary != "there")
    loaded = groundup.load(tmp_path / "published", model=network())
    assert torch.equal(logits(loaded, images), logits(groundup.load(own.folder, model=network()), images))


@pytest.mark.parametrize("own", [["model"], "model", 1])
def test_nonsense_in_a_summary_does_not_keep_it_from_loading(own: object, place: Path) -> None:
    _edited_json("summary.json", own=own)(place)
    assert len(groundup.load(place).classes) == 10


def test_a_publication_is_evaluated_as_the_run_it_came_from(run: Run, place: Path) -> None:
    from groundup.runs.evaluate import evaluate

    again = evaluate(place)
    assert (again.top1, again.nll, again.images) == (run.summary["top1"], run.summary["nll"], run.summary["images"])
    assert len(groundup.load(place).classes) == 10


def test_a_publication_predicts_pictures(place: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "red.png")
    answers = groundup.load(str(place)).predict(tmp_path / "red.png")
    assert len(answers) == 5
    assert all(name in groundup.load(place).classes for name, _ in answers)


# --- files from strangers -----------------------------------------------------------------------------------------------------


def _edited_json(name: str, **values: Any) -> Callable[[Path], None]:
    def edit(place: Path) -> None:
        file = place / name
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | values))

    return edit


def _recipe(old: str, new: str) -> Callable[[Path], None]:
    def edit(place: Path) -> None:
        text = (place / "recipe.yaml").read_text()
        assert old in text
        (place / "recipe.yaml").write_text(text.replace(old, new, 1))

    return edit


def _text(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda place: _write(place / name, content)


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _truncated(place: Path) -> None:
    (place / "publication.json").unlink()
    content = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(content[: len(content) // 2])


def _flipped(place: Path) -> None:
    content = bytearray((place / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (place / "model.safetensors").write_bytes(bytes(content))


def _pickle_as_weights(place: Path) -> None:
    (place / "publication.json").unlink()
    torch.save({"a": torch.zeros(3)}, place / "model.safetensors")


def _other_weights(place: Path) -> None:
    (place / "publication.json").unlink()
    safetensors.torch.save_file({"fc.weight": torch.zeros(10, 4)}, place / "model.safetensors")


def _device(place: Path) -> None:
    (place / "classifier.json").unlink()
    (place / "classifier.json").symlink_to("/dev/zero")


BOMB = b"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (_flipped, "does not match publication.json"),
    "half a file": (_truncated, "not a file of safetensors"),
    "a pickle": (_pickle_as_weights, "not a file of safetensors"),
    "another network": (_other_weights, "weights are of another network"),
    "a class too few": (
        _edited_json("classifier.json", classes=[str(digit) for digit in range(9)]),
        "the weights tell 10 classes apart, classifier.json names 9",
    ),
    "one class": (_edited_json("classifier.json", classes=["cat"]), "classes: List should have at least 2"),
    "numbers as classes": (
        _edited_json("classifier.json", classes=[1, 2]),
        "classes.0: Input should be a valid string",
    ),
    "a huge image": (_edited_json("classifier.json", image_size=10**9), "image_size: Input should be less"),
    "no spread": (_edited_json("classifier.json", std=[0, 1, 1]), "std: (?s:.*)greater than 0"),
    "a later classifier": (_edited_json("classifier.json", format=2), "format 2; this groundup reads 1"),
    "a later manifest": (_edited_json("publication.json", format=9), "format version 9"),
    "no JSON": (_text("classifier.json", b"<html>"), "it is not JSON"),
    "deep JSON": (_text("classifier.json", b"[" * 100_000), "it is not JSON"),
    "no text": (_text("recipe.yaml", b"\xff\xfe\x00"), "not text in UTF-8"),
    "a damaged manifest": (_text("publication.json", b"{"), "damaged"),
    "a huge network": (_recipe("width: 8", "width: 1024"), "has shape"),
    "a recipe from elsewhere": (
        _recipe("name: digits", "extends: /etc/passwd\nname: digits"),
        "extends another recipe",
    ),
    "code in YAML": (_recipe("name: digits", "name: !!python/object/apply:os.system ['true']"), "not valid YAML"),
    "a bomb": (_text("recipe.yaml", BOMB), "YAML aliases"),
    "no recipe": (lambda place: (place / "recipe.yaml").unlink(), "there is no such file"),
    "a day that is none": (_recipe("name: digits", "name: 2001-99-99"), "not valid YAML"),
    "a number of 5,000 digits": (_recipe("seed: 0", f"seed: {'1' * 5000}"), "not valid YAML"),
    "no classifier": (lambda place: (place / "classifier.json").unlink(), "there is no such file"),
    "a device": (_device, "is not a file"),
    "a huge recipe": (_text("recipe.yaml", b"#" * (17 << 20)), "at most"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_publication_gives_a_clear_error_before_anything_is_built(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, said = HOSTILE[name]
    harm(place)
    monkeypatch.setattr("groundup.runs.load.build_model", lambda *_, **__: pytest.fail("a network was built"))
    with pytest.raises(GroundupError, match=said) as caught:
        groundup.load(place)
    assert len(str(caught.value)) < 2000
