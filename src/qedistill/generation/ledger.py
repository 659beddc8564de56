"""The ledger: every answer of a paid teacher, stored the moment it arrives, in one SQLite file that outlives experiments.

    with Ledger("ledger.db") as ledger:
        known = ledger.answers([request.key for request in requests])
        if ledger.claim(request.key) is Claim.OURS:
            ledger.store(request, answer)

An answer is keyed by all that determines it, so that no experiment asks twice. Failures are never stored as answers, but
what they cost is. Several processes of one machine may use a file at the same time: whoever claims a request asks it.
"""

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from enum import Enum
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from qedistill.errors import UserError
from qedistill.generation.request import Answer, Request, Usage
from qedistill.process import identity, lives

APPLICATION = 0x51454C31  # "QEL1" in the file's header: nobody else's database is taken for a ledger
VERSION = 1
_BUSY = 60.0  # seconds to wait for another process's write
_HEADER = 100  # bytes
_MANY = 500  # keys a statement; SQLite takes 32,766 variables

_SCHEMA = f"""
CREATE TABLE answers (
    key TEXT PRIMARY KEY, query_id TEXT NOT NULL, style TEXT NOT NULL, sample INTEGER NOT NULL,
    model TEXT NOT NULL, messages TEXT NOT NULL, options TEXT NOT NULL,
    text TEXT NOT NULL, cleaned TEXT NOT NULL, raw TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, seconds REAL NOT NULL, stored REAL NOT NULL
) WITHOUT ROWID;
-- Every answered call, also those whose answer was of no use: they cost as well.
CREATE TABLE calls (
    key TEXT NOT NULL, outcome TEXT NOT NULL, model TEXT NOT NULL, raw TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, stored REAL NOT NULL
);
CREATE INDEX calls_by_key ON calls (key);
CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


class Claim(Enum):
    """What came of the wish to ask a request."""

    OURS = "ours"  # ask, then store or release
    ANSWERED = "answered"
    TAKEN = "taken"  # another living process is asking


@dataclass(frozen=True)
class Call:
    """An answered call.

    Attributes:
        outcome: `answer`, or what was wrong.
        raw: what was said, where it was of no use.
    """

    key: str
    outcome: str
    raw: str
    usage: Usage


@dataclass(frozen=True)
class Stats:
    """Of one model in a ledger: answers, answered calls (useless ones included) by outcome, and tokens of all calls."""

    model: str
    answers: int
    calls: dict[str, int]
    usage: Usage
    first: float  # seconds since the epoch
    last: float


class Ledger:
    """A ledger file, made where there is none.

    Args:
        path: on a local disk; SQLite's write-ahead log does not work on a network file system.

    Raises:
        UserError: the file is no ledger, of another version, damaged, or cannot be opened; it is left as it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            _create(self.path)
        self._db = _open(self.path)
        self._me = identity()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the claims of this process and close the file."""
        with suppress(sqlite3.Error):  # a full disk must not hide what went wrong before
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self._me,))
        self._db.close()

    def answers(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Those of the keys that are answered, with their answers."""
        columns = "key, text, cleaned, raw, prompt_tokens, completion_tokens, cached_tokens, seconds"
        return {
            key: Answer(text, cleaned.split(), raw, Usage(*usage), seconds)
            for key, text, cleaned, raw, *usage, seconds in self._select(f"SELECT {columns} FROM answers", keys)
        }

    def calls(self, keys: Iterable[str]) -> list[Call]:
        """All answered calls for the keys, a key's in the order in which they were made."""
        columns = "key, outcome, raw, prompt_tokens, completion_tokens, cached_tokens"
        return [
            Call(key, outcome, raw, Usage(*usage))
            for key, outcome, raw, *usage in self._select(f"SELECT {columns} FROM calls", keys, "ORDER BY rowid")
        ]

    def asked_elsewhere(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that other living processes have claimed."""
        claims = self._select("SELECT key, owner FROM claims", keys)
        return {key for key, owner in claims if owner != self._me and lives(owner)}

    def claim(self, key: str) -> Claim:
        """Claim a request, unless it is answered or a living process has claimed it."""
        with self._writing():
            if self._db.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone():
                return Claim.ANSWERED
            held = self._db.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
            if held and held[0] != self._me and lives(held[0]):
                return Claim.TAKEN
            self._db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, self._me))
            return Claim.OURS

    def release(self, key: str) -> None:
        """Give up this process's claim."""
        with self._writing():
            self._db.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._me))

    def store(self, request: Request, answer: Answer) -> None:
        """Store an answer and its call, durably when this returns; the claim goes. A stored answer is never replaced."""
        row = (
            request.key, request.query_id, request.style, request.sample, request.model, _json(request.messages),
            _json(request.options), answer.text, " ".join(answer.cleaned), answer.raw, *asdict(answer.usage).values(),
            answer.seconds, time.time(),
        )  # fmt: skip
        with self._writing():
            self._db.execute(f"INSERT OR IGNORE INTO answers VALUES ({', '.join('?' * len(row))})", row)
            self._call(request, "answer", "", answer.usage)
            self._db.execute("DELETE FROM claims WHERE key = ?", (request.key,))

    def store_useless(self, request: Request, problem: str, answer: Answer) -> None:
        """Note a call whose answer was of no use, or that was rejected, what was said and what it cost; the claim stays."""
        with self._writing():
            self._call(request, problem, answer.raw, answer.usage)

    def stats(self) -> list[Stats]:
        """A row a model, in the order of their names."""
        sums = ", ".join(f"SUM({field.name})" for field in fields(Usage))
        with self._reading():
            outcomes: dict[str, dict[str, int]] = {}
            for model, outcome, count in self._db.execute("SELECT model, outcome, COUNT(*) FROM calls GROUP BY 1, 2"):
                outcomes.setdefault(model, {})[outcome] = count
            answers = dict(self._db.execute("SELECT model, COUNT(*) FROM answers GROUP BY 1"))
            return [
                Stats(model, answers.get(model, 0), outcomes[model], Usage(*usage), first, last)
                for model, first, last, *usage in self._db.execute(
                    f"SELECT model, MIN(stored), MAX(stored), {sums} FROM calls GROUP BY model ORDER BY model"
                )
            ]

    def _call(self, request: Request, outcome: str, raw: str, usage: Usage) -> None:
        row = (request.key, outcome, request.model, raw, *asdict(usage).values(), time.time())
        self._db.execute(f"INSERT INTO calls VALUES ({', '.join('?' * len(row))})", row)

    def _select(self, statement: str, keys: Iterable[str], order: str = "") -> Iterator[tuple]:
        remaining = iter(dict.fromkeys(keys))
        with self._reading():
            while some := list(islice(remaining, _MANY)):
                yield from self._db.execute(f"{statement} WHERE key IN ({', '.join('?' * len(some))}) {order}", some)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: the ledger cannot be read or written: {error}") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._reading():
            # IMMEDIATE: the write lock comes before anything is read, so that two processes never claim the same key.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _create(path: Path) -> None:
    """Make a whole ledger or none: it is written aside and linked into place, unless another process was faster."""
    log = Path(f"{path}-wal")
    if log.exists() and not path.exists():  # SQLite would play it into the new file
        raise UserError(
            f"{log} is the log of a ledger that is not here: put {path.name} back beside it, or move it away"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".qedistill-draft-{path.name}-") as folder:
            draft = Path(folder) / path.name
            with closing(sqlite3.connect(draft, isolation_level=None)) as db:
                # Before there is a write-ahead log: what a full disk keeps out of the file would be told by nobody.
                db.executescript(_SCHEMA)
                db.execute("PRAGMA journal_mode = WAL")
            _check(draft)
            with suppress(FileExistsError):
                os.link(draft, path)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{path}: the ledger cannot be made: {error}") from None


def _open(path: Path) -> sqlite3.Connection:
    try:
        _check(path)
        db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        # FULL: an answer is on the disk before the next call, also through a power cut.
        db.execute("PRAGMA synchronous = FULL")
        return db
    except (OSError, sqlite3.Error) as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a whole ledger ({message}); it was left as it is: put back a copy, or save what is in it "
            "with `sqlite3 FILE .recover`"
        ) from None


def _check(path: Path) -> None:
    """Raise an error where a file is no whole ledger of this version, and touch neither it nor its log."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER or not header.startswith(b"SQLite format 3\0"):
        # SQLite would take an empty file for a new database.
        raise sqlite3.DatabaseError("its header is missing or cut off")
    # Read only: a connection that may write would move the log into the file when it is closed.
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY)) as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise UserError(f"{path}: a database, but no ledger of qedistill: name another file in QEDISTILL_LEDGER")
        if version != VERSION:
            raise UserError(
                f"{path}: a ledger of version {version}, and this qedistill reads version {VERSION}: use the qedistill "
                "that wrote it, or name another file in QEDISTILL_LEDGER"
            )
        (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
