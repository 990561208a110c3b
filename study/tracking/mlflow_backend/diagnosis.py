"""Explains in one line what is wrong with MLflow and what would help, from the exceptions that it raises."""

from __future__ import annotations

import configparser
import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import requests
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from study.config.messages import first_line, one_line
from study.tracking.mlflow_backend.address import (
    URI_VARIABLE,
    is_server,
    without_password,
    without_secrets,
)

CA_VARIABLE = "MLFLOW_TRACKING_SERVER_CERT_PATH"
CLIENT_VARIABLE = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
CREDENTIALS_FILE = "~/.mlflow/credentials"


class Problem(NamedTuple):
    """Why MLflow cannot be used."""

    text: str
    """One line: what is wrong, where, and what would help. Contains no password."""
    passes: bool = False
    """Whether it will probably pass by itself, so that waiting makes sense."""


def explain(error: BaseException, uri: str) -> Problem:
    """Return the problem that an exception of MLflow, or of a library below it, means for the user.

    Args:
        error: The exception that was raised while MLflow at ``uri`` was in use.
        uri: The tracking URI.
    """
    for link in _chain(error):
        known = _known(link, uri)
        if known is not None:
            return known._replace(text=one_line(without_secrets(known.text, uri), 500))
    return Problem(one_line(without_secrets(f"MLflow at {without_password(uri)}: {_said(error)}", uri), 500))


def _known(error: BaseException, uri: str) -> Problem | None:
    where = without_password(uri)
    if isinstance(error, requests.exceptions.RequestException):
        return network_problem(error, uri)
    if isinstance(error, SQLAlchemyError | CommandError | sqlite3.Error):
        return database_problem(error, uri)
    if isinstance(error, OSError) and not is_server(uri):
        file = f": {error.filename}" if error.filename else ""
        return Problem(
            f"MLflow's database at {where}: {error.strerror or _said(error)}{file}; check its folder and its "
            f"permissions, {_OTHER}"
        )
    if isinstance(error, ModuleNotFoundError):
        name = error.name or ""
        other = ", or write postgresql+psycopg2://" if name == "psycopg" else ""
        return Problem(
            f"MLflow at {where} needs the Python package {name!r}, which is not installed; "
            f"pip install {_PACKAGES.get(name, name)}{other}"
        )
    if isinstance(error, configparser.Error):
        return Problem(
            f"{CREDENTIALS_FILE} cannot be read; write a % in it as %%, and every line as NAME = VALUE"
        )
    if isinstance(error, MlflowException) and "filesystem tracking backend" in str(error):
        return unsupported_files(uri)
    return None


_PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}


def unsupported_files(uri: str) -> Problem:
    """Return the problem that MLflow keeps no new runs in plain files."""
    return Problem(
        f"{without_password(uri)}: MLflow no longer keeps runs in a folder of files; give a database such as "
        "sqlite:///mlflow.db, or leave --tracking-uri out for one in the folder of runs"
    )


def no_answer(uri: str, reason: str, *, passes: bool = False) -> Problem:
    """Return the problem that nothing answers at the address of a server."""
    return Problem(
        f"no MLflow server answers at {without_password(uri)} ({reason}); start it, or correct "
        f"--tracking-uri or {URI_VARIABLE}",
        passes,
    )


def network_problem(error: requests.exceptions.RequestException, uri: str) -> Problem:
    """Return why a request got no answer: the network, a proxy, or TLS."""
    where, said = without_password(uri), _innermost(error)
    if isinstance(error, requests.exceptions.SSLError):
        return _tls_problem(said, where)
    if isinstance(error, requests.exceptions.ProxyError):
        asks = "407" in str(error)
        fix = "put user:password@ into" if asks else "correct"
        reason = "asks for a password" if asks else f"does not answer ({said})"
        return Problem(f"the proxy on the way to {where} {reason}; {fix} HTTP_PROXY or HTTPS_PROXY")
    if isinstance(error, requests.exceptions.Timeout):
        return no_answer(uri, "it does not answer in time")
    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        status = error.response.status_code
        return Problem(f"MLflow at {where}: HTTP status {status}", status in (502, 503, 504))
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return no_answer(uri, f"it is no address: {said}")
    if uri.startswith("https") and any(word in said.lower() for word in _CLOSED):
        return client_certificate_problem(where, said)
    return no_answer(uri, said)


def _tls_problem(said: str, where: str) -> Problem:
    lower = said.lower().replace("_", " ")
    if "certificate verify failed" in lower:
        return Problem(
            f"the certificate of the server at {where} is not trusted ({said}); set {CA_VARIABLE} to the "
            "file of the authority that signed it"
        )
    if "wrong version number" in lower or "record layer failure" in lower:
        return Problem(f"the server at {where} answers without TLS; write http:// instead of https://")
    if any(word in lower for word in _CLIENT_REFUSED):
        return client_certificate_problem(where, said)
    return Problem(
        f"no TLS connection to {where} ({said}); check https:// in the address, {CA_VARIABLE} and "
        f"{CLIENT_VARIABLE}"
    )


# Many servers only close the connection on a client without a certificate.
_CLOSED = ("eof occurred", "reset", "closed connection", "broken pipe")
_CLIENT_REFUSED = ("certificate required", "handshake failure", "unknown ca", "bad certificate", *_CLOSED)


def client_certificate_problem(where: str, said: str) -> Problem:
    """Return the problem that a server probably requires a certificate of its client."""
    return Problem(
        f"the server at {where} asks for a certificate of yours, or does not accept it ({said}); set "
        f"{CLIENT_VARIABLE} to the file with it and its key"
    )


def database_problem(error: BaseException, uri: str) -> Problem:
    """Return why a database cannot be used."""
    where, said = without_password(uri), _said(error)
    lower = " ".join(str(error).lower().split())
    for words, passes, help_ in _DATABASE_HELP:
        if any(word in lower for word in words):
            return Problem(f"MLflow's database at {where}: {said}" + (f"; {help_}" if help_ else ""), passes)
    return Problem(f"MLflow's database at {where}: {said}")


_OTHER = "or give another --tracking-uri"
# Messages of drivers, in lower case; whether the problem passes by itself; what would help.
_DATABASE_HELP: tuple[tuple[tuple[str, ...], bool, str], ...] = (
    (("database is locked", "table is locked"), True, "another program is writing to it"),
    (("starting up", "shutting down", "recovery mode", "too many clients", "too many connections"), True, ""),
    (("already exists", "deadlock"), True, "another program is making its tables"),
    (("not a database", "malformed", "is encrypted"), False, f"repair the file, {_OTHER}"),
    (
        ("readonly database", "read-only", "permission denied", "access denied for user"),
        False,
        f"ask for the permission to write to it, {_OTHER}",
    ),
    (("unable to open database file",), False, f"check its folder and its permissions, {_OTHER}"),
    (
        ("authentication failed", "no password supplied", 'role "'),
        False,
        "correct the user and password in the address",
    ),
    (("does not exist", "unknown database"), False, "make the database, or correct its name in the address"),
    (
        ("refused", "translate host name", "timed out", "timeout expired", "name or service"),
        False,
        "start the database, or correct its address",
    ),
    (("disk is full", "no space left"), False, "make room on its disk"),
    (
        ("could not parse", "can't load plugin", "invalid database uri"),
        False,
        "give a URI such as sqlite:///mlflow.db or postgresql+psycopg2://USER@HOST/NAME",
    ),
)


def _said(error: BaseException) -> str:
    """Return the first line of an exception, without the driver's class that SQLAlchemy puts before it."""
    return re.sub(r"^\([\w.]+\)\s*", "", first_line(error)).rstrip(".")


def _innermost(error: BaseException) -> str:
    """Return the message of the innermost exception of a failed request, without urllib3's wrapping."""
    reason: BaseException = error
    while True:
        inner = next((arg for arg in reason.args if isinstance(arg, BaseException)), None)
        inner = inner or getattr(reason, "reason", None)
        if not isinstance(inner, BaseException):
            break
        reason = inner
    said = first_line(reason)
    said = re.sub(r"^<?[\w.]+\(.*?\)>?: |^<[^>]*>: ", "", said)
    return re.sub(r"^\[[^\]]*\] | \(_ssl\.c:\d+\)$", "", said).rstrip(".")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those from which, or while handling which, it was raised; the innermost last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
