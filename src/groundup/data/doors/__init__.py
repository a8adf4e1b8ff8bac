"""The family of data doors: kind of source -> the function that opens it. `settings.FORMS` says how each is written."""

from collections.abc import Callable

from groundup.data.doors.arrays import open_arrays
from groundup.data.doors.digits import open_digits
from groundup.data.doors.folder import open_folder
from groundup.data.doors.hub import open_hub
from groundup.data.doors.parquet import open_parquet
from groundup.data.doors.webdataset import open_webdataset
from groundup.data.settings import DataSettings
from groundup.data.sources import Source

# Each takes the settings and `check`, which it calls at points where stopping is safe and which may raise.
DOORS: dict[str, Callable[[DataSettings, Callable[[], None]], Source]] = {
    "digits": open_digits,
    "hub": open_hub,
    "parquet": open_parquet,
    "folder": open_folder,
    "arrays": open_arrays,
    "webdataset": open_webdataset,
}
