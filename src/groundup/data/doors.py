"""The family of data doors: kind of source -> the function that opens it. `settings.FORMS` says how each is written."""

from collections.abc import Callable

from groundup.data.arrays import open_arrays
from groundup.data.digits_door import open_digits
from groundup.data.folder import open_folder
from groundup.data.hub import open_hub
from groundup.data.parquet import open_parquet
from groundup.data.settings import DataSettings
from groundup.data.sources import Source
from groundup.data.webdataset import open_webdataset

# Each takes the settings and `check`, which it calls at points where stopping is safe and which may raise.
DOORS: dict[str, Callable[[DataSettings, Callable[[], None]], Source]] = {
    "digits": open_digits,
    "hub": open_hub,
    "parquet": open_parquet,
    "folder": open_folder,
    "arrays": open_arrays,
    "webdataset": open_webdataset,
}
