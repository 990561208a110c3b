"""Opens MLflow, waits for it while it is busy, and turns each of its errors into one line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from study.config.loader import ConfigError
from study.tracking.base import Say, TrackingError
from study.tracking.mlflow_backend import database, diagnosis, server
from study.tracking.mlflow_backend.address import is_server
from study.tracking.mlflow_backend.diagnosis import Problem

WAIT_SECONDS = 90.0
"""How long to wait for a server or database that is only busy."""

RETRY_SECONDS = 2.0


def check(uri: str, say: Say) -> None:
    """Raise a TrackingError if the server or database at ``uri`` cannot be used; change nothing there.

    Args:
        uri: The tracking URI.
        say: Called once with a line before the function waits for the server or database.

    Raises:
        TrackingError: The server or database cannot be used, or is still busy after ``WAIT_SECONDS``.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    said = False
    while problem := _problem(uri):
        if not problem.passes or time.monotonic() > deadline:
            raise TrackingError(problem.text)
        if not said:
            say(f"{problem.text}; waiting for it")
            said = True
        time.sleep(RETRY_SECONDS)


def open_client(uri: str, say: Say, artifact_root: str) -> MlflowClient:
    """Return a client of the server or database at ``uri``; create the tables of a database without any.

    Args:
        uri: The tracking URI.
        say: Called once with a line before the function waits for the server or database.
        artifact_root: The URI under which a new database keeps artifacts by default.

    Raises:
        TrackingError: See ``check``.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    said = False
    while True:
        check(uri, say)
        try:
            if not is_server(uri):
                database.make(uri, artifact_root)
            return MlflowClient(tracking_uri=uri)
        except Exception as error:
            problem = diagnosis.explain(error, uri)
            if not problem.passes or time.monotonic() > deadline:
                raise TrackingError(problem.text) from error
            if not said:
                say(f"{problem.text}; waiting for it")
                said = True
            time.sleep(RETRY_SECONDS)


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn any error of MLflow within the context into a TrackingError, which says what would help.

    Any error: besides its own exceptions, MLflow lets those of SQLAlchemy, Alembic, requests and the
    libraries of artifact stores through, and a study must not end because of its tracking.
    """
    try:
        yield
    except (TrackingError, ConfigError):
        raise
    except Exception as error:
        raise TrackingError(diagnosis.explain(error, uri).text) from error


def all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """Yield every run of an experiment."""
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def complete_status(run: Run) -> str | None:
    """Return the final status of a run that was sent to its end; None for another run."""
    status: str = run.info.status
    pruned = status == "KILLED" and run.data.tags.get("outcome") == "pruned"
    return status if status == "FINISHED" or pruned else None


def ui_version(uri: str) -> str | None:
    """Return the version of the MLflow whose UI shows the runs; None if a server does not give it."""
    return server.version(uri) if is_server(uri) else mlflow.__version__


def _problem(uri: str) -> Problem | None:
    return server.problem(uri) if is_server(uri) else database.problem(uri)
