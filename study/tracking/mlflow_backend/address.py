"""MLflow's addresses, pages and sizes. Does not import mlflow."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus, urlencode

from study.storage.sqlite import sqlite_uri

URI_VARIABLE = "MLFLOW_TRACKING_URI"
UI_VARIABLE = "HYPERGRAD_STUDY_UI"
EMBEDDED_UI = "http://127.0.0.1:5000"

CURVE_POINTS = 320
"""Number of points that the MLflow UI draws of a curve; about as many are sent."""

CURVES = ("alpha", "train_loss", "hypergradient")
"""The curves of a trial that have a value per iteration."""

BYTES_PER_POINT = 150
"""The size of a point of a curve in MLflow's database, to an order of magnitude."""

_SHORT = 4
"""Shorter passwords may occur in other words."""

_SECRET_QUERY = re.compile(r"([\w]*(?:pass|pwd|secret|token|odbc_connect)[\w]*)=([^&]*)", re.IGNORECASE)


def embedded_database(runs: Path) -> Path:
    """Return the file of the embedded database, in the folder of runs."""
    return runs / "mlflow.db"


def embedded_uri(runs: Path) -> str:
    """Return the default tracking URI, that of an MLflow database in the folder of runs."""
    return sqlite_uri(embedded_database(runs))


def tracking_uri(option: str | None, runs: Path) -> str:
    """Return the tracking URI: the option, ``MLFLOW_TRACKING_URI``, or the embedded database's.

    It may contain a password: never print it. An option without a password gets the one in
    ``MLFLOW_TRACKING_URI``, if the two addresses are the same otherwise.

    Args:
        option: The option that the user gave; None if none.
        runs: The folder of runs.
    """
    variable = os.environ.get(URI_VARIABLE)
    if option and variable and without_password(variable) == option:
        return variable
    return option or variable or embedded_uri(runs)


def stored_bytes(iterations: int) -> int:
    """Return about how many bytes of a tracking database a trial with this many iterations takes."""
    return len(CURVES) * min(CURVE_POINTS, iterations) * BYTES_PER_POINT


def is_server(uri: str) -> bool:
    """Return whether ``uri`` is the address of a server, over HTTP."""
    return uri.startswith(("http://", "https://"))


def without_password(uri: str) -> str:
    """Return ``uri`` without the password in it: ``https://me@host`` for ``https://me:secret@host``."""
    start, userinfo, rest = _split(uri)
    user = userinfo.partition(":")[0]
    return f"{start}{user}@{rest}" if user else start + rest


def without_secrets(text: str, uri: str) -> str:
    """Return ``text`` with every password in ``uri`` replaced by stars, whether written plain or encoded."""
    secrets = [_split(uri)[1].partition(":")[2], *(value for _, value in _SECRET_QUERY.findall(uri))]
    for secret in secrets:
        for written in {secret, unquote_plus(secret), unquote(secret)} - {""}:
            if len(written) >= _SHORT:
                text = text.replace(written, "***")
            else:  # only in the place of a password
                text = text.replace(f":{written}@", ":***@").replace(f"={written}", "=***")
    return text


def has_password(uri: str) -> bool:
    """Return whether ``uri`` contains a password."""
    return without_password(uri) != uri


def ui_address(uri: str) -> str:
    """Return the address of the MLflow UI over the store at ``uri``, for a browser.

    The browser may need another name for the server than the study, as with containers; then
    ``HYPERGRAD_STUDY_UI`` sets it. For an embedded store it is the address at which ``hypergrad-study ui``
    serves.
    """
    start, _, rest = _split(uri)
    return (os.environ.get(UI_VARIABLE) or (start + rest if is_server(uri) else EMBEDDED_UI)).rstrip("/")


def page(experiment_id: str, wanted: str = "tags.role = 'trial'") -> str:
    """Return the part of a URL from ``#`` on that shows the runs of an experiment that a filter finds."""
    # Without this MLflow opens an experiment on an empty page of traces. It folds child runs under their
    # parent unless they are filtered, and ordered by something other than their date.
    view = {
        "workflowType": "machine_learning",
        "searchFilter": wanted,
        "orderByKey": "metrics.`best_val_loss`",
        "orderByAsc": "true",
    }
    return f"#/experiments/{experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Return the part of a URL from ``#`` on that shows a run, or one of its artifacts."""
    place = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{place}?workflowType=machine_learning"


def optimizer_filter(workload: str, optimizer: str) -> str:
    """Return the MLflow filter that finds an optimizer's trials on a workload."""
    return f"tags.workload = {_quoted(workload)} and tags.optimizer = {_quoted(optimizer)}"


def _quoted(text: str) -> str:
    # MLflow's filters have no escape: a name with both kinds of quotes finds nothing.
    return f"'{text}'" if "'" not in text else f'"{text}"'


def _split(uri: str) -> tuple[str, str, str]:
    """Return the parts of a URI before, in and after ``user:password@``; secret query values are hidden."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return "", "", uri
    start = scheme + mark
    rest = _SECRET_QUERY.sub(r"\1=***", rest)
    if is_server(uri):
        host = re.match(r"[^/?#]*", rest)
        authority = host[0] if host else ""
        userinfo, _, _ = authority.rpartition("@")
    else:  # as SQLAlchemy reads it: a password may contain anything but "@"
        userinfo, at, _ = rest.partition("@")
        userinfo = userinfo if at and "/" not in userinfo.partition(":")[0] else ""
    return start, userinfo, rest[len(userinfo) + 1 :] if userinfo else rest
