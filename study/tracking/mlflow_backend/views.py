"""The saved views on which a study opens in the MLflow UI: its curves, and parallel coordinates.

MLflow keeps a saved view in a tag of the experiment. The format is not documented; this one was read in the
UI of MLflow 3.17: a JSON object with the view's name and, as text, its state. The state has the fields of the
page's address (filter and order) and those that the page keeps in the browser (columns, charts and sections
of charts). The UI fills in missing fields. It shows a metric without a chart here in the section of other
metrics, so nothing is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from study.config.loader import Study
from study.tracking.mlflow_backend import address

TAG = "mlflow.sharedViewState."
CURVES_VIEW = "hypergrad-study-curves"
PARALLEL_VIEW = "hypergrad-study-parallel"
KEPT_BY = ((3, 17),)
"""The versions of MLflow, major and minor, in whose UI these views were tested."""

_FILTER = "tags.role = 'trial'"
_ORDER = "metrics.`best_val_loss`"


def are_kept_by(version: str | None) -> bool:
    """Return whether the UI of this version of MLflow opens the views; None is an unknown version."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) in KEPT_BY


def first_page(experiment_id: str, tags: Mapping[str, str], version: str | None) -> str:
    """Return the page, from ``#`` on, on which a study opens: a view, or a plain list of its runs.

    Args:
        experiment_id: The experiment's identifier.
        tags: The experiment's tags; a study of an earlier version has no views.
        version: Version of the MLflow that serves the UI; see ``are_kept_by``.
    """
    if are_kept_by(version) and TAG + CURVES_VIEW in tags:
        return page(experiment_id)
    return address.page(experiment_id)


def page(experiment_id: str, view: str = CURVES_VIEW) -> str:
    """Return the part of a URL from ``#`` on that opens an experiment's runs in a saved view, with charts."""
    # The address must contain neither filter nor order: with them MLflow would ignore the view.
    words = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={view}"
    return f"#/experiments/{experiment_id}/runs?{words}"


def tags(study: Study, created_ms: int) -> dict[str, str]:
    """Return the tags of the experiment that contain the study's views.

    Args:
        study: The study.
        created_ms: When the experiment was created, in Unix milliseconds; the UI lists the newest view first.
    """
    states = {
        CURVES_VIEW: ("Curves of α and the loss", _curves(study)),
        PARALLEL_VIEW: ("Parallel coordinates", _parallel(study)),
    }
    return {
        TAG + key: _compact({"name": name, "createdAt": created_ms - place, "state": _compact(state)})
        for place, (key, (name, state)) in enumerate(states.items())
    }


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _curves(study: Study) -> dict[str, Any]:
    curves = [_line("alpha"), _line("train_loss"), _line("val_loss")]
    return _state(study, curves, runs="FIRST_20_RUNS", side_by_side=2)


def _parallel(study: Study) -> dict[str, Any]:
    results = ["best_val_loss"]
    if any(study.threshold_of(w.use, o.name) is not None for w in study.workloads for o in study.optimizers):
        results.append("iterations_to_threshold")
    charts = [_parallel_chart("all", ["log10_alpha0", "optimizer"], results[:1])]
    if any(optimizer.learned for optimizer in study.optimizers):
        # MLflow leaves out runs without one of the values, such as plain optimizers, which have no β.
        charts.insert(0, _parallel_chart("learned", ["log10_alpha0", "log10_beta", "optimizer"], results))
    return _state(study, charts, runs="SHOW_ALL", side_by_side=1)


def _state(study: Study, charts: list[dict[str, Any]], *, runs: str, side_by_side: int) -> dict[str, Any]:
    """Return the state of a view: the columns of all views, and these charts before any other."""
    columns = _columns(study)
    return {
        "searchFilter": _FILTER,
        "orderByKey": _ORDER,
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: 130 if "optimizer" in column else 110 for column in columns},
        "runsHiddenMode": runs,
        "compareRunCharts": charts,
        "compareRunSections": [
            _section("study", "Study", is_open=True, columns=side_by_side),
            # Named like MLflow's own section, so that it puts the charts of all other metrics there.
            _section("others", "Model metrics"),
            _section("system", "System metrics"),
        ],
        "isAccordionReordered": True,
    }


def _columns(study: Study) -> list[str]:
    columns = ["tags.`optimizer`", "params.`alpha0`", "params.`beta`", "params.`seed`", "tags.`outcome`"]
    columns += ["metrics.`final_train_loss`", _ORDER]
    if len({workload.use for workload in study.workloads}) > 1:
        columns.insert(0, "tags.`workload`")
    if study.search is not None:
        columns.insert(columns.index("tags.`outcome`"), "tags.`stage`")
    return columns


def _section(name: str, title: str, *, is_open: bool = False, columns: int = 3) -> dict[str, Any]:
    return {
        "uuid": name,
        "name": title,
        "display": is_open,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": columns,
    }


def _line(metric: str) -> dict[str, Any]:
    """Return a chart of a metric over its steps, on a logarithmic axis."""
    return _chart(metric, "LINE") | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "scaleType": "log",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _parallel_chart(name: str, params: list[str], metrics: list[str]) -> dict[str, Any]:
    return _chart(name, "PARALLEL") | {
        "selectedParams": params,
        "selectedMetrics": metrics,
        "showAllRuns": True,
    }


def _chart(name: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": f"study-{name}",
        "type": kind,
        "metricSectionId": "study",
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
    }
