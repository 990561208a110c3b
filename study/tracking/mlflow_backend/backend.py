"""The functions of ``study.tracking.base.Backend``, for MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient

from study.config.loader import Study
from study.storage.study_folder import StudyFolder
from study.tracking.base import Page, Say, Tracker, TrackingError
from study.tracking.mlflow_backend import address, client, database, ui_server, views
from study.tracking.mlflow_backend.download import fetch
from study.tracking.mlflow_backend.tracker import MlflowTracker

__all__ = ["fetch", "open_tracker", "show"]


def open_tracker(study: Study, uri: str, folder: StudyFolder, say: Say) -> Tracker:
    """Return a tracker of ``study`` in the MLflow at ``uri``."""
    return MlflowTracker(study, uri, folder, say)


@contextmanager
def show(uri: str, name: str | None, port: int, say: Say) -> Iterator[Page]:
    """Show the runs of a study, or all studies, in the MLflow UI; serve it here if no server does."""
    file = None if address.is_server(uri) else database.sqlite_file(uri)
    if file is not None and not file.is_file():
        raise TrackingError(f"{file.parent}: no study was run here; name the folder of runs with --runs")
    page = runs_page(uri, name, say)
    if address.is_server(uri):
        yield Page(f"{address.ui_address(uri)}/{page}", served_here=False)
        return
    say("starting the MLflow UI …")
    with ui_server.serving(uri, port, say) as served:
        yield Page(f"{served}/{page}", served_here=True)


def runs_page(uri: str, name: str | None, say: Say = lambda line: None) -> str:
    """Return the page of the MLflow UI, from ``#`` on, for a study; for None, the page of all studies.

    Raises:
        TrackingError: The server or database cannot be used, or does not have the study.
    """
    client.check(uri, say)
    if name is None:
        return "#/experiments"
    with client.asking(uri):
        found = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    if found is None:
        raise TrackingError(
            f"MLflow at {address.without_password(uri)}: there is no experiment {name!r}; run the study "
            "first, or correct --tracking-uri"
        )
    return views.first_page(found.experiment_id, found.tags, client.ui_version(uri))
