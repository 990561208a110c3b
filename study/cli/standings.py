"""The commands ``status`` and ``list``: the state of studies, as a table or as JSON, once or repeatedly."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.analysis import progress_text
from study.api.standing import Standing, all_standings, standing
from study.cli import display
from study.cli.options import err, find_study, out
from study.storage.study_folder import StudyFolder

WATCH_SECONDS = 2.0
OUTCOMES = (
    "completed",
    "reached",
    "not_reached",
    "diverged",
    "pruned",
    "failed",
    "running",
    "interrupted",
    "pending",
)
"""Outcomes, in the order of the columns."""


def show_status(
    name: str,
    runs: Path | None,
    tracking_uri: str | None,
    *,
    tracebacks: bool,
    as_json: bool,
    watch: bool,
) -> None:
    """Print the state of one study, and why trials failed; with ``watch``, until no driver runs it."""

    def read() -> tuple[StudyFolder, Standing]:
        spec, folder, elsewhere = find_study(name, runs, tracking_uri)
        return folder, standing(spec, folder, elsewhere)

    folder, found = read()
    if as_json:
        _print_json(found.to_json())
        while watch and found.state == "running":
            time.sleep(WATCH_SECONDS)
            folder, found = read()
            _print_json(found.to_json())
        return
    if watch and found.state == "running":
        found = _watch(found, lambda: read()[1])
    out.print(f"[bold]{found.study.name}[/] in", end=" ")
    out.print(found.folder, markup=False, highlight=False, soft_wrap=True)
    out.print(_lines(found))
    for line in display.failure_lines(found.failures, tracebacks=tracebacks):
        err.print(line)
    if found.study.search is not None:
        from study.analysis import objective, stored_trials

        spec, state = found.study, folder.search_state()
        records = stored_trials.read_planned(spec, folder)
        display.show_search(out, spec, objective.standings(spec, state, records))


def show_list(runs: Path, *, as_json: bool) -> None:
    """Print the state of every study in a folder of runs."""
    found = list(all_standings(runs))
    standings = [each for each in found if isinstance(each, Standing)]
    for problem in (each for each in found if isinstance(each, str)):
        err.print(f"error: {problem}")
    if as_json:
        _print_json([each.to_json() for each in standings])
        return
    if not found:
        out.print(f"no studies in {runs}", markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("study", "state", "trials", "outcomes"):
        table.add_column(heading, justify="right" if heading == "trials" else "left", no_wrap=True)
    for each in standings:
        progress = each.progress
        table.add_row(
            Text(each.study.name),
            Text(_state(each)),
            f"{progress.done}/{progress.total}",
            _words(_sum(each.outcomes.values())),
        )
    display.print_whole(out, table)


def _watch(found: Standing, read: Callable[[], Standing]) -> Standing:
    """Show the state of a study until no driver runs it; return the last state."""
    if not out.is_terminal:
        last = ""
        while found.state == "running":
            if (line := progress_text.describe(found.progress)) != last:
                out.print(line, markup=False, highlight=False, soft_wrap=True)
                last = line
            time.sleep(WATCH_SECONDS)
            found = read()
        return found
    with Live(_lines(found), console=out, transient=True) as live:
        while found.state == "running":
            time.sleep(WATCH_SECONDS)
            found = read()
            live.update(_lines(found))
    return found


def _lines(found: Standing) -> RenderableType:
    """Return a line for the whole study, its driver if it runs, and a row per workload and optimizer."""
    parts: list[RenderableType] = [Text(progress_text.describe(found.progress))]
    if found.driver is not None:
        parts.append(Text(f"run by {found.driver}"))
    names = [name for name in OUTCOMES if any(row.get(name) for row in found.outcomes.values())]
    workloads = {workload for workload, _ in found.outcomes}
    table = Table(box=None, pad_edge=False)
    for heading in ["workload"] * (len(workloads) > 1) + ["optimizer"]:
        table.add_column(heading, no_wrap=True)
    for heading in [*names, "trials"]:
        table.add_column(heading.replace("_", " "), justify="right")
    for (workload, optimizer), counts in found.outcomes.items():
        cells = [workload] * (len(workloads) > 1) + [optimizer]
        cells += [str(counts.get(name) or "–") for name in names]
        table.add_row(*map(Text, cells), str(counts["total"]))
    parts.append(table)
    return Group(*parts)


def _state(found: Standing) -> str:
    if found.state == "interrupted" and found.interrupted_at is not None:
        return f"interrupted at {found.interrupted_at[:16].replace('T', ' ')}"
    return found.state


def _sum(rows: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for row in rows:
        for name, count in row.items():
            total[name] = total.get(name, 0) + count
    return total


def _words(counts: dict[str, int]) -> str:
    """Return counts in words, such as ``12 reached, 3 diverged``."""
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in OUTCOMES if counts.get(name))


def _print_json(value: Sequence[object] | dict[str, object]) -> None:
    """Print one line of JSON; a value that JSON cannot hold raises an error."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
