"""Renders the report's HTML page from its template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from study.analysis.formatting import format_count, format_number, format_percent, format_setting
from study.report import dark

_UNIT = re.compile(r"(?<=[0-9]) (?=[%×]|seeds?|decades|comparisons)|(?<=%) (?=interval)")


def render(**content: Any) -> str:
    """Return the page.

    Args:
        content: What ``templates/report.html`` shows, by the names that it uses. It escapes every text.
    """
    environment = Environment(
        loader=PackageLoader("study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "setting": format_setting,
        "count": format_count,
        "percent": format_percent,
        "joined": _joined,
    }
    return environment.get_template("report.html").render(**content, contents=_contents(content), dark=dark)


def _joined(text: str) -> str:
    """Return a sentence whose numbers stay on one line with their units."""
    return _UNIT.sub("\u00a0", text)


def _contents(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of the page that there are, each with its anchor."""
    pictures = content["pictures"]
    parts: list[tuple[str, str, Any]] = [
        ("results", "Results", True),
        ("figure-1", "Figure 1", pictures["curves"]),
        ("claims", "What may be concluded", True),
        ("limits", "Limits", content["limits"]),
        ("untuned", "Without tuning", content["untuned"] or pictures["untuned"]),
        ("curves", "More curves", pictures["curves"][1:]),
        ("alpha0", "Sensitivity to α₀", True),
        ("budget", "What a budget buys", pictures["budget"]),
        *(
            (f"workload-{number}", workload["name"], True)
            for number, workload in enumerate(content["workloads"], start=1)
        ),
        ("failed", "Failed trials", content["failures"]),
        ("ran", "What was run", True),
        ("reproduce", "To reproduce", True),
    ]
    return [(anchor, title) for anchor, title, is_there in parts if is_there]
