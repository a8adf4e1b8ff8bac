"""Predictions for many pictures, in one table: CSV or Parquet, a row per picture, in the order of their names.

Columns: `file`, `class` and `probability` (0 to 1) of the most probable class, `class_2`, `probability_2` ... of the next ones,
and `problem`: why a picture could not be read (its other columns are empty then). Where the run has a temperature, the
probabilities are those with it.

Answers are noted batch by batch in a hidden file beside the table, so that an interrupted call goes on where it stopped; the table
appears whole, at the end. At most two batches of pictures are in memory.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor

from groundup.basis.errors import UsageError, listed
from groundup.basis.files import whole_file
from groundup.data.pixels.decode import UnreadableImage, decode_threads
from groundup.runs.load import READABLE, Classifier

FORMATS = (".csv", ".parquet")
_FORMAT_VERSION = 1
# Endings of pictures that Pillow does not read, or of which it reads a small preview; a plug-in of Pillow may read some of them.
_OTHER_PICTURES = frozenset(
    {".svg", ".svgz", ".heic", ".heif", ".hif", ".avif", ".jxl", ".psd", ".xcf", ".ai"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}  # of cameras
)
_BATCH = 64  # pictures per forward pass
_ROWS = 10_000  # per row group of a Parquet file

Row = dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """What a call has done. `pictures`: rows of the table; `bad`: picture -> why it could not be read; `earlier`: rows that an
    interrupted call had noted already."""

    table: Path
    pictures: int
    bad: dict[str, str]
    earlier: int


def pictures_in(places: Sequence[Path]) -> list[Path]:
    """The pictures among `places`: files as they are, of a folder those below it with the name of a picture, sorted. Pictures of
    kinds that are not read are among them: the table says so of each.

    UsageError if a place does not exist, or a folder has no picture.
    """
    Image.init()
    found: list[Path] = []
    for place in places:
        if place.is_file():
            found.append(place)
            continue
        if not place.is_dir():
            raise UsageError(f"{place}: there is no such file or folder")
        named_so = Image.EXTENSION.keys() | _OTHER_PICTURES
        below = sorted(path for path in place.rglob("*") if path.suffix.lower() in named_so and path.is_file())
        if not below:
            raise UsageError(f"{place}: has no pictures; looked for names that end in .jpg, .png and the like")
        found += below
    return list(dict.fromkeys(found))


def predict_into(
    table: Path,
    classifier: Classifier,
    pictures: Sequence[Path],
    *,
    top: int = 5,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """Write the `top` most probable classes of every picture to `table`, or go on with that.

    `check` may raise between batches: the same call goes on later. `progress(done, total)` counts pictures. UsageError if the table
    exists, or was begun with another network, temperature or `top`.
    """
    if table.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {str(table)!r}: ends in {table.suffix!r}; allowed: {listed(FORMATS)}")
    _require_new(table)
    top = min(top, len(classifier.classes))
    notes = table.with_name(f".{table.name}.partial")
    table.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(Path(f"{notes}.lock")):
            _require_new(table)  # another call may have ended just now
            earlier = _noted(notes, {"format": _FORMAT_VERSION, "network": _fingerprint(classifier), "top": top}, table)
            wanted = [picture for picture in pictures if str(picture) not in earlier]
            begun = len(pictures) - len(wanted)
            with open(notes, "a", encoding="utf-8") as lines:
                done = begun
                progress(done, len(pictures))
                for rows in _answers(classifier, wanted, top, check):
                    # In ASCII: a name of a file need not be text in any encoding.
                    lines.write("".join(json.dumps(row) + "\n" for row in rows))
                    lines.flush()
                    done += len(rows)
                    progress(done, len(pictures))
            bad = _write(table, notes, [str(picture) for picture in pictures], top)
            notes.unlink()
    except Timeout:
        raise UsageError(f"--out {str(table)!r}: another call is writing it") from None
    return Predictions(table, len(pictures), bad, begun)


def _require_new(table: Path) -> None:
    if table.exists():
        raise UsageError(
            f"--out {str(table)!r}: exists, and is not overwritten", hint="give another name, or remove it"
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Nobody else writes the table while inside; `Timeout` if somebody does."""
    with FileLock(lock, timeout=0):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is held: whoever comes later makes a new one


def _answers(
    classifier: Classifier, pictures: Sequence[Path], top: int, check: Callable[[], None]
) -> Iterator[list[Row]]:
    """The rows of a batch at a time; the next batch is decoded while the network is at work."""

    def prepared(picture: Path) -> Tensor | str:
        if (kind := picture.suffix.lower()) in _OTHER_PICTURES - Image.EXTENSION.keys():
            return f"{kind} is not read; {READABLE}"
        try:
            return classifier.prepare(picture)
        except UnreadableImage as error:
            return error.reason
        except OSError as error:
            return error.strerror or type(error).__name__

    left = iter(pictures)
    with ThreadPoolExecutor(decode_threads(), thread_name_prefix="groundup-predict") as pool:

        def begin() -> tuple[list[Path], Iterable[Tensor | str]]:
            batch = list(islice(left, _BATCH))
            return batch, pool.map(prepared, batch)

        ahead = begin()
        while ahead[0]:
            check()
            (batch, images), ahead = (ahead[0], list(ahead[1])), begin()
            whole = [image for image in images if isinstance(image, Tensor)]
            best = classifier.probabilities(torch.stack(whole)).topk(top) if whole else None
            answers = iter([] if best is None else zip(best.values.tolist(), best.indices.tolist(), strict=True))
            yield [
                _row(picture, image, answers, classifier.classes) for picture, image in zip(batch, images, strict=True)
            ]


def _row(picture: Path, image: Tensor | str, answers: Iterator[Any], classes: list[str]) -> Row:
    if isinstance(image, str):
        return {"file": str(picture), "problem": image}
    probabilities, indices = next(answers)
    return {"file": str(picture), "top": [[classes[i], p] for p, i in zip(probabilities, indices, strict=True)]}


def _noted(notes: Path, header: Row, table: Path) -> set[str]:
    """The pictures that an earlier call has noted. Its last line, torn by a kill, is cut off; a first call writes the header."""
    content = notes.read_bytes() if notes.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    if not lines:
        notes.write_text(json.dumps(header) + "\n")
        return set()
    begin_again = f"give another name, or remove {notes} to begin again"
    try:
        known, *rows = map(json.loads, lines)
        done = {row["file"] for row in rows}
    except (ValueError, KeyError, TypeError):  # a power cut may leave anything
        raise UsageError(f"--out {str(table)!r}: the notes of an earlier call are damaged", hint=begin_again) from None
    if known != header:
        raise UsageError(
            f"--out {str(table)!r}: was begun with another network, another temperature or another --top",
            hint=begin_again,
        )
    if len(whole) < len(content):
        with open(notes, "rb+") as file:
            file.truncate(len(whole))
    return done


def _write(table: Path, notes: Path, order: list[str], top: int) -> dict[str, str]:
    """The table out of the notes, in the order of the pictures. Returns the bad ones."""
    with open(notes, encoding="utf-8") as lines:
        next(lines)
        rows = {row["file"]: row for row in map(json.loads, lines)}
    names = ["class", "probability"]
    columns = ["file", *names, *(f"{name}_{place}" for place in range(2, top + 1) for name in names), "problem"]
    flat = (_flat(rows[name], columns) for name in order)
    with whole_file(table) as temporary:
        if table.suffix.lower() == ".csv":
            with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(flat)
        else:
            _write_parquet(temporary, flat, columns)
    return {name: rows[name]["problem"] for name in order if "problem" in rows[name]}


def _flat(row: Row, columns: list[str]) -> Row:
    cells = [cell for pair in row.get("top", ()) for cell in pair]
    return {"file": row["file"], **dict(zip(columns[1:], cells, strict=False)), "problem": row.get("problem")}


def _write_parquet(path: Path, rows: Iterator[Row], columns: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {name: pyarrow.float64() if name.startswith("probability") else pyarrow.string() for name in columns}
    schema = pyarrow.schema(list(kinds.items()))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _ROWS)):
            # Parquet holds text alone: what is none in the name of a file is replaced.
            texts = [
                {**row, "file": row["file"].encode(errors="surrogateescape").decode(errors="replace")} for row in group
            ]
            writer.write_table(pyarrow.Table.from_pylist(texts, schema=schema))


def _fingerprint(classifier: Classifier) -> str:
    """A hash of everything that an answer depends on but the picture."""
    prepared = [classifier.classes, classifier.image_size, classifier.resize, classifier.mean, classifier.std]
    digest = hashlib.sha256(json.dumps([*prepared, classifier.temperature]).encode())
    for name, tensor in sorted(classifier.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
