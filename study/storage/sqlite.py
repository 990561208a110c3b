"""Addresses of SQLite databases, for any path."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote


def sqlite_uri(path: Path) -> str:
    """Return SQLAlchemy's URI of the SQLite database in the file ``path``.

    A path such as ``runs/mlflow.db`` is written as it is. A path with a ``?`` or a ``%``, which SQLAlchemy
    would read as something else, is quoted.

    Args:
        path: The file, which need not exist.
    """
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{path}"
    # A "?" ends the path of a URI, and SQLAlchemy 2.1 decodes "%41".
    if make_url(plain).database == str(path):
        return plain
    # MLflow creates the folder of a "sqlite:///" URI, and takes its quoted name for the real one. It does
    # neither with a URI that names the driver.
    quoted = URL.create("sqlite+pysqlite", database=str(path))
    if make_url(str(quoted)).database != str(path):
        # SQLAlchemy 2.0 does not quote; SQLite itself decodes a path that begins with "file:".
        quoted = URL.create("sqlite+pysqlite", database=f"file:{quote(str(path))}", query={"uri": "true"})
    return str(quoted)
