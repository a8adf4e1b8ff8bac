"""The mirror of a run that is over: what it lacks is sent when the run is asked for again.

A run may have ended without its last upload: the mirror failed then, or the machine went.
"""

from collections.abc import Callable

from groundup.basis.errors import UsageError
from groundup.runs.folder import RunFolder
from groundup.runs.identity import identity_of
from groundup.runs.mirror import files
from groundup.runs.mirror.places import address_of_run, is_address, open_place
from groundup.runs.mirror.publishing import Publisher
from groundup.runs.mirror.sending import AT_THE_END, Mirror
from groundup.training import read_state


def complete(folder: RunFolder, asked: str, say: Callable[[str], None]) -> None:
    """Send what the mirror of a finished run lacks. A mirror that fails again is said, and so is one that is another run's.

    asked: the run as it was asked for. An address that is not that of its own mirror is one to read from: nothing is sent then.
    """
    recipe, newest = folder.recipe(), folder.store().newest_whole(lambda damaged: None)
    if recipe.checkpoint.mirror is None or newest is None:
        return
    url = address_of_run(recipe.checkpoint.mirror, folder.path.resolve().name)
    if is_address(asked) and asked.rstrip("/") != url:
        return
    try:
        with folder.locked():
            files.clean(newest.parent)
            mirror = Mirror(
                place=open_place(url),
                run=folder.path,
                identity=identity_of(recipe, read_state(newest).get("data")),
                say=say,
                keep=recipe.checkpoint.mirror_keep,
                publisher=Publisher(url, folder, None) if url.startswith("hf:") else None,
            )
            mirror.start()
            mirror.saved(newest)
            mirror.finish(AT_THE_END, results=True)
    except UsageError as refused:
        say(f"{refused.message}; nothing is copied")
