"""The MLflow store of the project: `mlflow.db` and `mlartifacts/` in the repository root, unless MLFLOW_TRACKING_URI names
another.

A database of SQLite, ours or another, is made as a whole or not at all, by one process while others wait. Ours follows the
project where it was moved.
"""

import logging
import os
import re
import shlex
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from qedistill.errors import UserError
from qedistill.text import atomic
from qedistill.words import one_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

WAIT = 60.0  # seconds, for what another process holds
QUIET = 5.0  # seconds without a write, after which nobody is making a database any more
ENVIRONMENT = {  # before MLflow is imported; what the user set wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what fails is told here, in a line; else each table it makes and a traceback
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password the address may carry
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # else a dead server holds a stage up for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
ARTIFACTS = "mlartifacts"
# Where MLflow notes places of artifacts.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def address(root: Path) -> str:
    """Where the store is: MLFLOW_TRACKING_URI, else a database in the repository root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(root / "mlflow.db")


def sqlite_url(path: Path) -> str:
    """A database's address, whatever is in its path.

    The driver is named, as MLflow makes folders of the quoted path where an address begins with `sqlite:`.
    """
    from sqlalchemy import URL

    url = URL.create("sqlite+pysqlite", database=str(path.absolute()), query={"timeout": f"{WAIT:.0f}"})
    return url.render_as_string(hide_password=False)


def connect(uri: str, root: Path) -> tuple["MlflowClient", str | None]:
    """A client of the store, and where artifacts of new experiments go: None where a server knows.

    Raises:
        UserError: a database is damaged, of another version of MLflow, or another process makes it for too long.
        Exception: whatever databases, drivers and the file system raise.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # It tells of each retry, with all that the address may carry.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.tracking import MlflowClient  # seconds to import

    if not uri.startswith(tuple(DATABASE_ENGINES)):
        return MlflowClient(uri), None
    from sqlalchemy import NullPool, create_engine, make_url

    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        path = Path(url.database).absolute()
        make(path)
        if path == root / "mlflow.db":
            follow(path, root / ARTIFACTS)
        uri = sqlite_url(path)
    else:
        with create_engine(url, poolclass=NullPool).connect():  # MLflow would try for 100 seconds
            pass
    # Beside a bare database MLflow would put them in the working folder.
    return MlflowClient(uri), (root / ARTIFACTS).as_uri()


def serve(root: Path) -> None:
    """Become MLflow's UI on the project's own store; this does not return.

    Raises:
        UserError: as `connect`.
    """
    path = root / "mlflow.db"
    os.environ.update(ENVIRONMENT, MLFLOW_LOGGING_LEVEL="WARNING", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    make(path)
    follow(path, root / ARTIFACTS)
    where = ["--backend-store-uri", sqlite_url(path), "--host", "127.0.0.1", "--port", "5000", "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *where])


def make(path: Path) -> None:
    """Make a database where there is none, or one whose making was cut off; that is kept under another name.

    Raises:
        UserError: it is damaged, or of another version of MLflow; it is left as it is.
        Timeout: another process makes it for longer than WAIT.
    """
    from filelock import FileLock

    if _whole(path):
        return
    with FileLock(f"{path}-lock", timeout=WAIT):
        end = time.monotonic() + WAIT
        # MLflow itself, as `mlflow ui`, makes a database in place.
        while path.exists() and time.time() - path.stat().st_mtime < QUIET and time.monotonic() < end:
            if _whole(path):
                return
            time.sleep(0.2)
        if _whole(path):
            return
        if aside := _set_aside(path):
            click.echo(
                f"{path.name}: its making was cut off, and nothing is logged in it; it is {aside} now, and made again",
                err=True,
            )
        _make(path)


def _make(path: Path) -> None:
    from mlflow.tracking import MlflowClient

    with atomic(path) as draft:
        MlflowClient(sqlite_url(draft)).search_experiments(max_results=1)


def _whole(path: Path) -> bool:
    """Whether there is a database that MLflow can open; False where nothing was ever logged in it.

    Raises:
        UserError: it is no database, damaged, or of another version of MLflow.
    """
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    if not path.exists():
        return False
    try:
        # Not read only: what a killed process left half written is taken back first.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=WAIT)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            # MLflow makes an experiment of its own last; an upgrade copies tables to and from such names.
            filled = [t for t in tables if t in ("experiments", "runs") or t.startswith("_alembic_tmp_")]
            if not any(db.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() for table in filled):
                return False
            found = db.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
            version = next((row[0] for row in found), "")
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: {error}") from None
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations"))
    if version == migrations.get_current_head():
        return True
    try:
        known = version == "" or migrations.get_revision(version) is not None
    except CommandError:
        known = False
    if not known:
        raise UserError(
            f"{path}: made by a newer MLflow than {mlflow.__version__}: install that, or move the file away"
        )
    url = sqlite_url(path).partition("?")[0]
    raise UserError(
        f"{path}: made by an older MLflow than {mlflow.__version__}, or left so by an upgrade cut off: keep a copy and run "
        f"`mlflow db upgrade {shlex.quote(url)}`, or move the file away"
    )


def _set_aside(path: Path) -> str | None:
    """Rename a database, and what SQLite left beside it, which it would play into a new one; the new name, if it was there."""
    name, number = f"{path.name}-unfinished", 1
    while path.with_name(name).exists():
        number += 1
        name = f"{path.name}-unfinished-{number}"
    existed = path.exists()
    for ending in ("-journal", "-wal", "-shm", ""):
        if (part := Path(f"{path}{ending}")).exists():
            part.rename(path.with_name(f"{name}{ending}"))
    return name if existed else None


def follow(path: Path, artifacts: Path) -> None:
    """Let a database name the project's artifacts where they are now, if the project was moved or copied.

    It waits for other writers, too, as long as MLflow would not.
    """
    with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        olds = [old for (old,) in db.execute("SELECT DISTINCT artifact_location FROM experiments") if old]
        moves = {old: new for old in olds if (new := _now(old, artifacts)) != old}
        for old, new in moves.items():
            for table, column in PLACES:
                db.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                    f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                    {"new": new, "old": old},
                )
        db.execute("COMMIT")
    for place in {_path(old).parent for old in moves if old.startswith("file:")}:
        click.echo(f"{path.name}: the project was at {place}; artifacts are looked for here now", err=True)


def _now(place: str, artifacts: Path) -> str:
    """Where artifacts are that were at a place, if they are the project's."""
    if served := re.fullmatch(r"mlflow-artifacts:/+(\d+)", place):  # of an experiment that was made in the UI
        return (artifacts / served[1]).as_uri()
    moved = re.fullmatch(rf"file:.*/{ARTIFACTS}(/\d+)?", place)
    same = moved and _path(place.removesuffix(moved[1] or "")) == artifacts
    return place if not moved or same or _same(place, artifacts) else artifacts.as_uri() + (moved[1] or "")


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _same(uri: str, folder: Path) -> bool:
    """Whether both name one folder, as by a link."""
    try:
        return _path(uri).samefile(folder)
    except OSError:
        return False


def public(message: object) -> str:
    """A message or address in one line, without credentials and without what SQLAlchemy adds to the database's words."""
    line = without_credentials(one_line(message)) or type(message).__name__
    return line.partition(" [SQL:")[0].partition(" (Background on this error")[0]


def without_credentials(text: str) -> str:
    """A text without the users, passwords and queries of addresses in it, and without what opens the store."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    text = re.sub(r"(?<=://)[^\s'\"]*@", "", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def _secrets() -> list[str]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    user, _, rest = uri.partition("://")[2].rpartition("@")
    found = [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")]
    found += [user.partition(":")[2], rest.partition("?")[2]]
    # Libraries tell them decoded as well. Three letters hide nothing and would be found in every word.
    return [secret for each in found for secret in {each, unquote(each)} if len(secret) > 3]
