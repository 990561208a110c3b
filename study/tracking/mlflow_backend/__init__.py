"""MLflow as a tracking service; the only package that imports mlflow.

A study is one experiment: a parent run, and a child run per trial, which one process writes from the trials'
journals. All data sent is a function of the journal, so sending it again changes nothing: MLflow identifies
metric points by (key, timestamp, step, value), and all four come from the journal.
"""

import logging
import os

# MLflow reads these variables when it is imported.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# By default MLflow waits minutes for a server that is away.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)
