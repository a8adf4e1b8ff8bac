"""Where a sweep is kept: an Optuna journal file in its folder, or a PostgreSQL database that several machines reach.

Both offer the same: a lock that one worker at a time holds and that the death of its holder frees, a clock, and Optuna's study.
"""

import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.basis.errors import GroundupError, UsageError, listed

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

JOURNAL = "journal.jsonl"
_TEXT = {"client_encoding": "utf8"}  # a database made in the locale C would answer in bytes
_ADVISORY_LOCK = zlib.crc32(b"groundup sweep")  # one for all sweeps of a database: the tables are theirs together
_LOCK_SECONDS = 60.0  # to wait for the lock, which is held for milliseconds
_HELD_SECONDS = 30.0  # after which the database lets go of a holder that does nothing, such as a stopped process


class Storage(ABC):
    """An Optuna storage with a lock. `where`: for messages."""

    where: str

    def __init__(self) -> None:
        self._backend: BaseStorage | None = None
        self._thread = threading.RLock()

    @contextmanager
    @abstractmethod
    def locked(self) -> Iterator[float]:
        """Nobody else reads to write while inside. Gives the time, seconds since 1970."""

    @abstractmethod
    def _open(self) -> "BaseStorage":
        """Optuna's storage; called with the lock held."""

    @property
    def backend(self) -> "BaseStorage":
        """Optuna's storage, opened with the lock held."""
        if self._backend is None:
            self._backend = self._open()
        return self._backend

    def create(self, name: str, *, maximize: bool) -> "Study":
        """The study of that name, made if it is not there."""
        direction = "maximize" if maximize else "minimize"
        return require_optuna().create_study(
            study_name=name, storage=self.backend, direction=direction, load_if_exists=True
        )

    def load(self, name: str) -> "Study":
        """The study of that name. UsageError if there is none."""
        try:
            return require_optuna().load_study(study_name=name, storage=self.backend)
        except KeyError:
            raise UsageError(
                f"{self.where}: there is no sweep {name!r}; there: {listed(self.names()) or 'none'}"
            ) from None

    def names(self) -> list[str]:
        """The sweeps that are kept here."""
        return [study.study_name for study in self.backend.get_all_studies() if "sweep" in study.user_attrs]

    def sampler(self, name: str, startup: int, seed: int) -> "BaseSampler":
        """A sampler for one proposal: what it proposes follows from the seed and what the study holds."""
        import warnings

        optuna = require_optuna()
        seed %= 2**32
        if name == "cma_es":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        with warnings.catch_warnings():  # constant_liar, for several workers, is called experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


class JournalFile(Storage):
    """A journal in the sweep folder, with a lock file beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / JOURNAL
        self.where = str(folder)
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[float]:
        from filelock import FileLock, Timeout

        with self._thread:
            lock = FileLock(self.file.parent / f".{JOURNAL}.lock", is_singleton=False)
            try:
                lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.01)
            except Timeout:
                raise GroundupError(f"{self.where}: its lock has been held for {_LOCK_SECONDS:.0f} s") from None
            try:
                _cut_half_a_line(self.file)
                yield time.time()
            finally:
                lock.release()

    def _open(self) -> "BaseStorage":
        optuna = require_optuna()
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        class Held(JournalFileOpenLock):
            """Every write is made inside `locked`."""

            def acquire(self) -> bool:
                return True

            def release(self) -> None:
                return None

        storage: BaseStorage = optuna.storages.JournalStorage(
            JournalFileBackend(str(self.file), lock_obj=Held(str(self.file)))
        )
        return storage


class PostgreSQL(Storage):
    """A database, which may hold several sweeps."""

    def __init__(self, url: str) -> None:
        super().__init__()
        require_optuna()
        import sqlalchemy

        self.where = url
        self._url = url.replace("postgresql://", "postgresql+psycopg://", 1)
        # No pool: a worker asks seldom, and no connection is left open between.
        self._options: dict[str, Any] = {"poolclass": sqlalchemy.pool.NullPool, "connect_args": _TEXT}
        self._engine: Any = sqlalchemy.create_engine(self._url, **self._options)

    @contextmanager
    def locked(self) -> Iterator[float]:
        import sqlalchemy

        lost = require_optuna().exceptions.StorageInternalError  # what optuna makes of a connection that breaks
        with self._thread:
            try:
                with self._engine.connect() as connection, connection.begin():
                    # Freed with the transaction, so also when this process or its machine dies.
                    for setting, seconds in (
                        ("lock_timeout", _LOCK_SECONDS),
                        ("idle_in_transaction_session_timeout", _HELD_SECONDS),
                    ):
                        connection.execute(sqlalchemy.text(f"SET LOCAL {setting} = {round(1000 * seconds)}"))
                    connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                    now = connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar()
                    yield float(now)
            except (sqlalchemy.exc.SQLAlchemyError, lost) as error:
                cause = error.__cause__ if isinstance(error, lost) else error
                said = next(iter(str(getattr(cause, "orig", cause)).strip().splitlines()), "")
                raise GroundupError(
                    f"{self.where}: {said}", hint="is the database there, and may you use it?"
                ) from None

    def _open(self) -> "BaseStorage":
        storage: BaseStorage = require_optuna().storages.RDBStorage(self._url, engine_kwargs=self._options)
        return storage


def storage_of(url: str | None, folder: Path) -> Storage:
    """The storage that a sweep file names."""
    return JournalFile(folder) if url is None else PostgreSQL(url)


def require_optuna() -> Any:
    """The package optuna. UsageError says how to get it."""
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "sweeps need the package optuna, which is not installed", hint="pip install 'groundup[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _cut_half_a_line(journal: Path) -> None:
    """Remove what a killed writer left of its last line, so that the next does not continue it."""
    if not journal.exists() or not journal.stat().st_size:
        return
    with open(journal, "rb+") as stream:
        stream.seek(-1, 2)
        if stream.read(1) != b"\n":
            stream.seek(0)
            whole = stream.read().rfind(b"\n") + 1
            stream.truncate(whole)
