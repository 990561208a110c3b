"""Sends a study to a tracking service, and gets it back from there.

``Tracker`` is the only part of a service that the rest of the program uses. MLflow is the one backend; its
code is imported when it is first used. To add a backend, write a package with the functions of
``base.Backend`` and add its line to ``BACKENDS``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import cast

from study.config.loader import Study
from study.storage.study_folder import StudyFolder
from study.tracking.base import Backend, Page, Say, Tracker, TrackingError
from study.tracking.mlflow_backend.address import embedded_uri, stored_bytes, tracking_uri

__all__ = [
    "Page",
    "Tracker",
    "TrackingError",
    "embedded_uri",
    "fetch",
    "open_tracker",
    "show",
    "stored_bytes",
    "tracking_uri",
]

DEFAULT = "study.tracking.mlflow_backend.backend"
BACKENDS: dict[str, str] = {}
"""URI scheme → the module of its backend; every other scheme is MLflow's."""


def open_tracker(study: Study, uri: str, folder: StudyFolder, say: Say = lambda line: None) -> Tracker:
    """Return a tracker of ``study``. Nothing is sent or read yet.

    Args:
        study: The study to track.
        uri: The tracking URI, from ``tracking_uri``.
        folder: The study's folder.
        say: Called with a line before the tracker waits for the service.
    """
    return _backend(uri).open_tracker(study, uri, folder, say)


def fetch(uri: str, folder: StudyFolder) -> dict[str, float]:
    """Copy a study from a server into ``folder``: its file, and the journals of trials that ended.

    So ``status`` and ``report`` work from any machine that reaches the server. Files that are already in the
    folder stay as they are. Nothing happens if ``uri`` is not a server's, or the server does not have the
    study.

    Returns:
        The share of its budget that each running trial has done, 0 to 1, by key.

    Raises:
        TrackingError: The server cannot be reached or used.
    """
    return _backend(uri).fetch(uri, folder)


def show(
    uri: str, name: str | None, port: int = 0, say: Say = lambda line: None
) -> AbstractContextManager[Page]:
    """Return a context in which a web page shows studies; this process serves it if no server does.

    Args:
        uri: The tracking URI, from ``tracking_uri``.
        name: The study to show. None: all studies.
        port: TCP port on 127.0.0.1 to serve the page on; 0 takes a free one.
        say: Called with a line before the function waits.

    Raises:
        TrackingError: The service cannot be used or served, or does not have the study.
    """
    return _backend(uri).show(uri, name, port, say)


def _backend(uri: str) -> Backend:
    return cast(Backend, import_module(BACKENDS.get(uri.partition(":")[0], DEFAULT)))
