"""Where MLflow is, how it is asked, and which of its runs are whole."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from study.config.messages import first_line
from study.tracking.base import TrackingError

URI_VARIABLE = "MLFLOW_TRACKING_URI"
UI_VARIABLE = "HYPERGRAD_STUDY_UI"
EMBEDDED_UI = "http://127.0.0.1:5000"


def embedded_database(runs: Path) -> Path:
    """Return the file of the store that lies beside the studies."""
    return runs / "mlflow.db"


def embedded_uri(runs: Path) -> str:
    """Return the URI of the store that lies beside the studies: SQLite in the folder of runs."""
    return f"sqlite:///{embedded_database(runs)}"


def tracking_uri(option: str | None, runs: Path) -> str:
    """Return the tracking URI: the option, ``MLFLOW_TRACKING_URI``, or the embedded store."""
    return option or os.environ.get(URI_VARIABLE) or embedded_uri(runs)


def ui_address(uri: str) -> str:
    """Return where a person's browser finds the UI of the store at ``uri``.

    A server may be called one thing by the study and another by the person, as in containers; then
    ``HYPERGRAD_STUDY_UI`` says which. An embedded store's is where ``hypergrad-study ui`` serves it.
    """
    return (os.environ.get(UI_VARIABLE) or (uri if is_server(uri) else EMBEDDED_UI)).rstrip("/")


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn what MLflow and the network raise within into a TrackingError that names ``uri``."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {uri}: {first_line(error)}") from error


def runs_page(uri: str, name: str | None) -> str:
    """Return the MLflow UI's page, from ``#`` on, with the runs of the study ``name``, or with all studies.

    Raises:
        TrackingError: the server or store does not answer, or does not have the study.
    """
    if name is None:
        return "#/experiments"
    check_reachable(uri)
    with asking(uri):
        found = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    if found is None:
        raise TrackingError(f"MLflow at {uri}: there is no experiment {name!r}")
    return page(found.experiment_id)


def is_server(uri: str) -> bool:
    """Whether ``uri`` is a server's, over HTTP."""
    return uri.startswith(("http://", "https://"))


def check_reachable(uri: str) -> None:
    """Raise a TrackingError, soon, if ``uri`` is a server's and nothing answers there."""
    if not is_server(uri):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise TrackingError(
            f"no MLflow server answers at {uri} ({first_line(error)}); start it, or correct "
            f"--tracking-uri or {URI_VARIABLE}"
        ) from error


def page(experiment_id: str, wanted: str = "tags.role = 'trial'") -> str:
    """Return the UI's page, from ``#`` on, with the runs of an experiment that a filter finds."""
    # MLflow opens an experiment on an empty page of traces unless it is told otherwise, and folds child
    # runs away under their parent unless they are filtered and ordered by something else than their date.
    view = {
        "workflowType": "machine_learning",
        "searchFilter": wanted,
        "orderByKey": "metrics.`best_val_loss`",
        "orderByAsc": "true",
    }
    return f"#/experiments/{experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """Yield every run of an experiment."""
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def end_of(run: Run) -> str | None:
    """How a run ended that has all that its trial left; None of one that has not."""
    status: str = run.info.status
    pruned = status == "KILLED" and run.data.tags.get("outcome") == "pruned"
    return status if status == "FINISHED" or pruned else None
