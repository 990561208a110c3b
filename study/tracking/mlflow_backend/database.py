"""Checks a database before MLflow opens it: whether it is MLflow's, of this version, and writable.

MLflow itself creates its tables in any database, upgrades some older ones without asking, and retries for two
minutes to open a file that it may not read.
"""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine, make_url
from sqlalchemy.pool import NullPool

from study.storage.sqlite import sqlite_uri
from study.tracking.mlflow_backend import diagnosis
from study.tracking.mlflow_backend.address import without_password
from study.tracking.mlflow_backend.diagnosis import Problem

_SECONDS = 10
# MLflow logs the traceback of every database error that it raises, and older versions that they make their
# tables. Set after MLflow is imported, which sets levels of its own.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def problem(uri: str) -> Problem | None:
    """Return why MLflow's database at ``uri`` cannot be used; None if it can, or does not exist yet."""
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if scheme in ("", "file"):
        return diagnosis.unsupported_files(uri)
    if scheme not in DATABASE_ENGINES:
        known = ", ".join(["http", "https", *DATABASE_ENGINES])
        return Problem(f"{without_password(uri)}: no such kind of tracking URI; known are {known}")
    try:
        file = sqlite_file(uri)
        if file is not None:
            if not file.exists():
                return _not_writable(file.parent, uri)
            if found := _not_writable(file, uri) or _not_writable(file.parent, uri):
                return found
        return _schema_problem(_engine(uri, file), uri)
    except Exception as error:
        return diagnosis.explain(error, uri)


def make(uri: str, artifact_root: str) -> None:
    """Create MLflow's tables in a database that has none.

    An SQLite file appears complete or not at all: MLflow creates its tables in dozens of steps, which two
    programs must not run at once, and which a killed program leaves unfinished.

    Args:
        uri: The tracking URI.
        artifact_root: The URI under which the database keeps artifacts by default. MLflow's own default is
            the working folder, whose name it writes into SQL without quoting.

    Raises:
        Exception: Any error of MLflow, SQLAlchemy or the file system.
    """
    file = sqlite_file(uri)
    if file is None:
        SqlAlchemyStore(uri, artifact_root)
        return
    if file.exists() and file.stat().st_size:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=file.parent) as folder:
        draft = Path(folder) / file.name
        SqlAlchemyStore(sqlite_uri(draft), artifact_root).engine.dispose()
        try:
            os.link(draft, file)  # unless another program was faster
        except OSError:
            if not (file.exists() and file.stat().st_size):  # no hard links here, or an empty file
                draft.replace(file)


def _schema_problem(engine: Engine, uri: str) -> Problem | None:
    with closing(engine.connect()) as connection:
        tables = {
            name for name in sqlalchemy.inspect(connection).get_table_names() if name != "alembic_version"
        }
        found = MigrationContext.configure(connection).get_current_revision()
    where = without_password(uri)
    if not tables:
        return None
    if "experiments" not in tables:
        return Problem(
            f"the database at {where} is not MLflow's: it has other tables, such as "
            f"{min(tables)}; give another --tracking-uri"
        )
    upgrade = f"mlflow db upgrade {shlex.quote(where)}"
    if found is None:
        return Problem(
            f"MLflow's database at {where} has no version: another program is making its tables, or was "
            f"stopped while it did; if so, run: {upgrade}",
            passes=True,
        )
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if found in migrations.get_heads():
        return None
    try:
        migrations.get_revision(found)
    except CommandError:
        return Problem(
            f"MLflow's database at {where} was made by a newer MLflow than {mlflow.__version__} (schema "
            f"{found}); upgrade MLflow: pip install --upgrade mlflow"
        )
    return Problem(
        f"MLflow's database at {where} was made by an older MLflow (schema {found}); make a copy of it, then "
        f"run: {upgrade}"
    )


def _engine(uri: str, file: Path | None) -> Engine:
    if file is not None:  # opened so that nothing is created or changed
        read_only = f"file:{quote(str(file))}?mode=ro"
        return sqlalchemy.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(read_only, timeout=1, uri=True), poolclass=NullPool
        )
    limit = {"connect_timeout": _SECONDS} if uri.startswith(("postgresql", "mysql")) else {}
    return sqlalchemy.create_engine(uri, poolclass=NullPool, connect_args=limit)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for one in memory, or another kind of database."""
    if not uri.startswith("sqlite"):
        return None
    database = make_url(uri).database or ""
    if database.startswith("file:"):
        database = unquote(database.removeprefix("file:").partition("?")[0])
    return Path(database) if database not in ("", ":memory:") else None


def _not_writable(path: Path, uri: str) -> Problem | None:
    """Return a problem if a file, or the nearest existing folder, may not be written to; otherwise None."""
    while not path.exists():
        path = path.parent
    if os.access(path, os.W_OK):
        return None
    return Problem(
        f"MLflow's database at {without_password(uri)}: you may not write to {path}; ask for the permission, "
        "or give another --tracking-uri"
    )
