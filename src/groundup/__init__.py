"""groundup trains image classifiers from scratch, to a target, honestly.

    import groundup

    run = groundup.train("digits", overrides=["train.epochs=3"])
    classifier = groundup.load(run.folder)

Everything else lives in the rooms; `docs/architecture.md` is the map.
"""

from typing import TYPE_CHECKING, Any

from groundup.version import __version__

if TYPE_CHECKING:
    from groundup.runs.evaluate import evaluate
    from groundup.runs.load import load
    from groundup.runs.train import resume, train
    from groundup.ship.publish import publish

__all__ = ["__version__", "evaluate", "load", "publish", "resume", "train"]

_HOMES = {
    "evaluate": "groundup.runs.evaluate",
    "load": "groundup.runs.load",
    "publish": "groundup.ship.publish",
    "resume": "groundup.runs.train",
    "train": "groundup.runs.train",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `import groundup` and `groundup --help` do without it.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'groundup' has no attribute {name!r}")
