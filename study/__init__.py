"""Distributed studies of hypergradient optimizers: Ray Tune runs the trials, MLflow keeps the results.

::

    import study

    results = study.run("my-study.yaml")  # or a preset, or a mapping
    results = study.load("my-study")      # later
    results.summary
    results.figure1()

Rooms; each imports only those below it::

    cli          the commands and their output
    api          runs studies and loads results from Python
    execution    runs a study: plans it, trains it on Ray, searches with Optuna
    tracking     sends results to a tracker (MLflow)    | report    figures, page, exports
    training     trains trials and packs in one process | analysis  metrics, tables, claims
    workloads    the data, model and loss of a trial    | storage   the files of a study
    config       study files and trials
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.api.results import Results, load
    from study.api.running import run
    from study.config.loader import ConfigError, load_study
    from study.config.study import Study
    from study.config.trial import Trial
    from study.workloads.base import Data, Workload

__all__ = [
    "ConfigError",
    "Data",
    "Results",
    "Study",
    "Trial",
    "Workload",
    "__version__",
    "load",
    "load_study",
    "run",
]

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "study.config.loader",
    "Data": "study.workloads.base",
    "Results": "study.api.results",
    "Study": "study.config.study",
    "Trial": "study.config.trial",
    "Workload": "study.workloads.base",
    "load": "study.api.results",
    "load_study": "study.config.loader",
    "run": "study.api.running",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``Workload`` and ``Data`` import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
