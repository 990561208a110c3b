"""Keeps a study in MLflow: the only room that imports mlflow.

One experiment per study, a parent run, and a child run per trial, written from the trials' journals by one
process. Everything sent is a function of the journal, so sending it again changes nothing: a metric
point is its (key, timestamp, step, value), and all four come from the journal.
"""

import logging
import os

# Read when mlflow is imported.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Without these a server that is away is waited for for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from study.tracking.base import TrackingError
from study.tracking.mlflow_backend.client import (
    embedded_database,
    embedded_uri,
    runs_page,
    tracking_uri,
    ui_address,
)
from study.tracking.mlflow_backend.download import fetch
from study.tracking.mlflow_backend.tracker import Tracker

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)

__all__ = [
    "Tracker",
    "TrackingError",
    "embedded_database",
    "embedded_uri",
    "fetch",
    "runs_page",
    "tracking_uri",
    "ui_address",
]
