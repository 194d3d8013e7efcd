"""What forms were measured to take, kept from run to run in one SQLite file of the cache.

Several processes may use it at once; one that is killed leaves it whole, with all that it had kept. A file that is
damaged or of another version is renamed, and a folder that takes no file is done without: neither fails a run, both
are warned of.
"""

import json
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from kronexport import agent
from kronexport.backends.profile import BackendName
from kronexport.cache import store_path, warn_unwritable
from kronexport.machines.base import Machine
from kronexport.machines.here import HERE
from kronexport.measure.race import Raced, RaceTiming
from kronexport.measure.work import WORK_VERSION, Work, read_work, work_text
from kronexport.records import Precision

log = logging.getLogger("kronexport")

SCHEMA_VERSION: Final = 4
"""To be raised with every change of ``_TABLES``, or of what the numbers in them mean."""

BUSY_SECONDS: Final = 30.0
"""How long a process waits for another's transaction, which takes milliseconds."""

_TABLES: Final = {
    "conditions": "id INTEGER PRIMARY KEY, description TEXT NOT NULL UNIQUE",
    "times": (
        "conditions INTEGER NOT NULL REFERENCES conditions, model TEXT NOT NULL, reference TEXT NOT NULL, "
        "speedup REAL NOT NULL, floor REAL NOT NULL, p50 REAL NOT NULL, mean REAL NOT NULL, std REAL NOT NULL, "
        "n INTEGER NOT NULL, rounds INTEGER NOT NULL, measured TEXT NOT NULL, "
        "PRIMARY KEY (conditions, model, reference)"
    ),
    "failures": (
        "conditions INTEGER NOT NULL REFERENCES conditions, model TEXT NOT NULL, reason TEXT NOT NULL, "
        "PRIMARY KEY (conditions, model)"
    ),
    "work": "model TEXT PRIMARY KEY, version INTEGER NOT NULL, content TEXT NOT NULL",
}
_KEEP_TIME: Final = """
    INSERT INTO times VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
"""The first time of a model stays, so that a plan made again rests on the same times and asks for the same."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that a time depends on besides the model: figures of different conditions have nothing to do with each other.

    ``options`` are the runtime's, as ``agent.open_session`` takes them, defaults included. ``cpu`` is None where the
    system does not tell the model; ``features`` are its instruction sets, since a virtual machine may hide some.
    ``timing`` says how long models were timed: a shortened race gives other figures. ``cores`` and ``cpu_quota`` are
    what the process may use of the machine: None where no quota is below ``threads``, and of cores for one thread.
    These and ``power_mode`` are left out of ``description`` where they are None.
    """

    cpu: str | None
    machine: str
    runtime: str
    runtime_version: str
    threads: int
    precision: Precision
    options: Mapping[str, Any] = field(default_factory=dict)
    timing: RaceTiming = field(default_factory=RaceTiming)
    features: Sequence[str] = ()
    power_mode: str | None = None
    cores: int | None = None
    cpu_quota: str | None = None

    @property
    def description(self) -> str:
        """JSON that a person can read, the same for equal conditions."""
        left_out = [name for name in ("power_mode", "cores", "cpu_quota") if getattr(self, name) is None]
        told = {name: value for name, value in asdict(self).items() if name not in left_out}
        return json.dumps(told, sort_keys=True)


def conditions_of(
    runtime: BackendName,
    threads: int,
    precision: Precision,
    timing: RaceTiming | None = None,
    *,
    machine: Machine = HERE,
) -> Conditions:
    """The conditions on ``machine``, with the agent's default options; ``timing`` None: ``RaceTiming()``.

    Raises:
        MissingRuntimeError: the machine does not have the runtime.
        UserInputError: nothing can be timed on this runtime.
    """
    return conditions_in(machine.environment(runtime), runtime, threads, precision, timing)


def conditions_in(
    found: Mapping[str, Any], runtime: BackendName, threads: int, precision: Precision, timing: RaceTiming | None = None
) -> Conditions:
    """As ``conditions_of`` a machine that tells ``found`` of itself (``agent.machine_environment``)."""
    usable = found["affinity"] if threads > 1 else None
    return Conditions(
        cpu=found["cpu_model"],
        machine=found["machine"],
        runtime=runtime,
        runtime_version=found["runtime_version"],
        threads=threads,
        precision=precision,
        options=agent.SESSIONS[runtime].DEFAULTS,
        timing=timing or RaceTiming(),
        features=found["cpu_features"],
        power_mode=found["power_mode"],
        cores=None if usable is None else len(usable),
        cpu_quota=found["cpu_quota"] if _holds_back(found["cpu_quota"], threads) else None,
    )


def _holds_back(quota: str | None, threads: int) -> bool:
    """Whether a quota as cgroups tell it, microseconds of each so many or "max", is below so many threads' time."""
    if quota is None or quota.startswith("max"):
        return False
    allowed, _, period = quota.partition(" ")
    return int(allowed) < threads * int(period)


@dataclass(frozen=True, slots=True)
class StoredTime:
    """Seconds of one inference of a micro-model, and its speed-up over the one that it was paired with.

    ``model`` and ``reference`` are keys of ``micro.micro_key``; a reference has itself, and a speed-up of 1. ``floor``
    is the median over ``rounds`` rounds of the fastest inference of each, ``speedup`` the median ratio of these.
    ``p50``, ``mean`` and ``std`` are over all ``n`` inferences. ``measured`` is the UTC date and time.
    """

    model: str
    reference: str
    speedup: float
    floor: float
    p50: float
    mean: float
    std: float
    n: int
    rounds: int
    measured: str

    @classmethod
    def of(cls, model: str, reference: str, raced: Raced) -> Self:
        """What came of a race, now."""
        latency = raced.latency_ms
        return cls(
            model=model,
            reference=reference,
            speedup=raced.speedup,
            floor=raced.floor_ms / 1000,
            p50=latency.p50 / 1000,
            mean=latency.mean / 1000,
            std=latency.std / 1000,
            n=latency.n,
            rounds=raced.rounds,
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
        )


class MeasurementStore:
    """The open store; a context manager.

    Args:
        path: the SQLite file, made where there is none. None: the cache's.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or store_path()
        self._connection = _opened(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def times(self, conditions: Conditions) -> dict[tuple[str, str], StoredTime]:
        """All that is known under ``conditions``, by model and reference."""
        rows = self._rows(
            "SELECT model, reference, speedup, floor, p50, mean, std, n, rounds, measured "
            "FROM times JOIN conditions ON conditions = id WHERE description = ?",
            conditions.description,
        )
        return {(time.model, time.reference): time for time in (StoredTime(*row) for row in rows)}

    def failures(self, conditions: Conditions) -> dict[str, str]:
        """Why the runtime does not run a model, by the model's key."""
        return dict(
            self._rows(
                "SELECT model, reason FROM failures JOIN conditions ON conditions = id WHERE description = ?",
                conditions.description,
            )
        )

    def keep(self, conditions: Conditions, times: Sequence[StoredTime], failures: Mapping[str, str]) -> None:
        """Add what was measured, all or nothing.

        Of two times of one model against one reference the first stays.
        """
        self._written(lambda connection: _write(connection, conditions, times, failures))

    def work(self) -> dict[str, Work]:
        """What each model does, by its key; those that an earlier version described are left out."""
        rows = self._rows("SELECT model, content FROM work WHERE version = ?", WORK_VERSION)
        return {model: read_work(content) for model, content in rows}

    def describe(self, work: Mapping[str, Work]) -> None:
        """Add what models do, by their keys, whether or not they are ever timed."""
        rows = [(model, WORK_VERSION, work_text(done)) for model, done in work.items()]
        self._written(lambda connection: _write_work(connection, rows))

    def _rows(self, query: str, value: str | int) -> list[Any]:
        try:
            return self._connection.execute(query, (value,)).fetchall()
        except sqlite3.Error as error:
            self._go_on_in_memory(error)
            return self._connection.execute(query, (value,)).fetchall()

    def _written(self, write: Callable[[sqlite3.Connection], None]) -> None:
        try:
            write(self._connection)
        except sqlite3.Error as error:
            self._go_on_in_memory(error)
            write(self._connection)

    def _go_on_in_memory(self, error: sqlite3.Error) -> None:
        """The file has become useless: what can still be read of it is known until the end of the run."""
        warn_unwritable(self._path.parent, error)
        memory = _in_memory()
        with suppress(sqlite3.Error):
            for table in _TABLES:
                rows = self._connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608  a constant's key
                for row in rows:
                    memory.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        self._connection.close()
        self._connection = memory


def _write(
    connection: sqlite3.Connection, conditions: Conditions, times: Sequence[StoredTime], failures: Mapping[str, str]
) -> None:
    with _transaction(connection):
        connection.execute("INSERT OR IGNORE INTO conditions (description) VALUES (?)", (conditions.description,))
        (number,) = connection.execute(
            "SELECT id FROM conditions WHERE description = ?", (conditions.description,)
        ).fetchone()
        connection.executemany(_KEEP_TIME, [(number, *astuple(time)) for time in times])
        connection.executemany(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", [(number, *failure) for failure in failures.items()]
        )


def _write_work(connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str]]) -> None:
    with _transaction(connection):
        connection.executemany("INSERT OR REPLACE INTO work VALUES (?, ?, ?)", rows)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One that writes: it waits for others' at its beginning, where waiting is safe."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:  # Ctrl-C too
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _opened(path: Path) -> sqlite3.Connection:
    """The store in ``path``; one in memory where that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _fault(path) is not None:
            _set_aside(path)
        return _prepared(_connected(path))
    except (OSError, sqlite3.Error) as error:
        warn_unwritable(path.parent, error)
        return _in_memory()


def _in_memory() -> sqlite3.Connection:
    return _prepared(sqlite3.connect(":memory:", isolation_level=None))


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    """With its tables, which another process may be making at the same time."""
    with _transaction(connection):
        if _version(connection) == 0:
            for table, columns in _TABLES.items():
                connection.execute(f"CREATE TABLE {table} ({columns})")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last transactions, never the file
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _fault(path: Path) -> str | None:
    """Why the file cannot be used as a store; None if it can, or is not there."""
    if not path.exists():
        return None
    with closing(_connected(path)) as connection:
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            version = _version(connection)
            (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:  # locked or not readable: that says nothing of its content
            raise
        except sqlite3.DatabaseError as error:
            return str(error)
    if damage != "ok":
        return str(damage)
    if (version, tables) not in ((0, set()), (SCHEMA_VERSION, set(_TABLES))):
        return f"it is of version {version} with the tables {sorted(tables)}, expected version {SCHEMA_VERSION}"
    return None


def _set_aside(path: Path) -> None:
    """Rename a store with a fault, unless another process has done so in the meantime."""
    with closing(_connected(path.with_name(f"{path.name}.lock"))) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        fault = _fault(path)
        if fault is None:
            return
        aside = path.with_name(f"{path.name}.aside-{secrets.token_hex(4)}")
        for suffix in ("-wal", "-shm", ""):  # a journal must not be found beside a new file of the same name
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        log.warning("%s: %s; it is now %s, and what was in it is measured again", path, fault, aside.name)
