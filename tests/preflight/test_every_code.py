"""Every code that a finding can have stands in the table of one room. The test of that room brings each row of its table about, and
tries a neighbour that has it not."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

from groundup.preflight import CODES


def module(path: Path) -> ModuleType:
    """The tests of a room, as a module."""
    spec = importlib.util.spec_from_file_location(f"table_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_code_is_in_the_table_of_one_room() -> None:
    rooms = [module(path) for path in sorted(Path(__file__).parent.glob("test_*_findings.py"))]
    covered = Counter(code for room in rooms for code in {row[0] for row in [*room.CASES, *getattr(room, "ODD", [])]})
    assert covered == Counter(dict.fromkeys(CODES, 1))
