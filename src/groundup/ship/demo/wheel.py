"""groundup's own package inside a Space, taken from a wheel, for as long as no release of it can be installed by number.

It is unpacked beside `app.py`, where Python finds it, and `requirements.txt` lists what it needs. A wheel named in
`requirements.txt` would not do: a Space is built from that file alone, before its other files are there.
"""

import email
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from groundup.basis.errors import UsageError
from groundup.version import __version__

_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


@dataclass(frozen=True)
class Wheel:
    """A wheel of this version of groundup. `requirements`: what it needs with its demo extra, in pip's words."""

    file: Path
    requirements: tuple[str, ...]

    def unpack(self, place: Path) -> None:
        """Write the package to `place`/groundup."""
        with zipfile.ZipFile(self.file) as archive:
            archive.extractall(place, [name for name in archive.namelist() if name.startswith("groundup/")])


def open_wheel(file: Path) -> Wheel:
    """UsageError if `file` is not a wheel of groundup in this version."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = [name for name in archive.namelist() if re.fullmatch(r"groundup-[^/]+\.dist-info/METADATA", name)]
            facts = email.message_from_bytes(archive.read(name))
            complete = "groundup/__init__.py" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"--wheel {file}: not a wheel of groundup", hint=_HINT) from error
    if not complete:
        raise UsageError(f"--wheel {file}: without the package itself, as wheels of editable installs are", hint=_HINT)
    if facts["Version"] != __version__:
        raise UsageError(f"--wheel {file}: version {facts['Version']}; this is groundup {__version__}", hint=_HINT)
    return Wheel(file, _with_demo(facts.get_all("Requires-Dist", [])))


_HINT = "make it in the clone: `python -m build --no-isolation`; it lies in dist/"


def _with_demo(requirements: list[str]) -> tuple[str, ...]:
    kept = []
    for requirement in requirements:
        what, _, marker = (part.strip() for part in requirement.partition(";"))
        extra = _EXTRA.search(marker)
        if extra is None:
            kept.append(requirement)
        elif extra[1] == "demo":
            kept.append(what)
    return tuple(kept)
