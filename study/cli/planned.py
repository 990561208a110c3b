"""The command ``plan``: the trials that a study would run and their cost, found without running any."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis import stored_trials
from study.analysis.formatting import join_names, pluralize
from study.analysis.progress_text import duration
from study.cli.options import out, refuse
from study.config import plugins
from study.config.loader import Study
from study.config.search_section import Search
from study.config.trial import Trial
from study.execution import order
from study.execution.planning import Plan
from study.execution.time_estimate import TimeEstimate
from study.storage.study_folder import StudyFolder


def show(
    study: Study,
    folder: StudyFolder,
    *,
    cpus: int | None,
    gpus: int,
    imports: bool,
    data_folder: Path | None,
    tracking_uri: str | None = None,
) -> None:
    """Print the plan for the rest of a study; exit with an error if ``run`` would refuse the study.

    Args:
        study: The study.
        folder: The study's folder.
        cpus: CPUs to plan for. None: all that this process may use.
        gpus: GPUs to plan for.
        imports: Whether to import the user's own code. Otherwise none of it runs, so even a stranger's file
            can be planned.
        data_folder: Folder of the data sets. None: see ``study.workloads.datasets.data_dir``.
        tracking_uri: MLflow's tracking URI, if the user named one; a server is checked. Default: none.
    """
    from study.execution import checks, planning, speeds, time_estimate
    from study.execution.samplers import SamplerError
    from study.training import capture, pack_limits
    from study.training.optimizers import OptimizerError
    from study.training.process_limits import cpu_count
    from study.workloads.registry import WorkloadError

    records = stored_trials.read_planned(study, folder)
    todo = planning.pending_trials(study, records)
    needs = study.resources
    have = ((cpus or cpu_count(), needs.cpus), (gpus, needs.gpus))
    slots = min(int(count / need + 1e-9) for count, need in have if need > 0)
    rates = planning.measured_rates(records)
    with nullcontext() if imports else plugins.disable_imports():
        try:
            unchecked = checks.check_names(study, todo, imports=imports)
        except (OptimizerError, SamplerError, WorkloadError) as error:
            refuse(str(error))
        limit = pack_limits.planned_limit(study.pack, on_gpu=needs.gpus > 0)
        planned = planning.plan(todo, max(1, slots), rates, limit)
        single = pack_limits.unpackable_reasons(todo) if study.pack != 1 else {}
    single |= {
        name: "code of your own; run finds out whether it packs" for name in single if name in unchecked
    }
    _check_server(study, folder, tracking_uri)
    chains = (
        time_estimate.chains_of(planned.bundles, limit)
        if study.search is None
        else time_estimate.search_chains(study, folder.search_state(), limit)
    )
    known = speeds.load(speeds.home())
    estimated = time_estimate.estimate(study, chains, max(1, slots), known) if todo else None
    lines = [f"{pluralize(len(todo), 'trial')} to run, {len(records) - len(todo)} done already"]
    if study.search is not None:
        lines.append(_search_line(study, study.search))
    lines += [_processes_line(study, planned, slots), _packs_line(planned)]
    lines.append(f"iterations: {'unknown' if planned.iterations is None else f'{planned.iterations:,}'}")
    lines.append(f"time: {_time(study, estimated)}")
    if study.budget is not None:
        lines.append(_budget_line(study.budget.hours, estimated, searches=study.search is not None))
    lines.append(_disk_line(planned, folder))
    if needs.gpus > 0 and any(len(pack) > 1 for pack in planned.packs):
        lines.append(capture.OFF)
    lines += _data_lines(todo, data_folder)
    lines += _threshold_lines(study)
    lines += [f"not packed: {name}: {reason}" for name, reason in single.items()]
    if unchecked:
        names = join_names(list(unchecked))
        lines.append(f"not checked: {names}: code of your own, imported only with --imports and when it runs")
    _print(out, study, planned, lines)


def _check_server(study: Study, folder: StudyFolder, tracking_uri: str | None) -> None:
    if not (tracking_uri or "").startswith("http"):
        return
    from study import tracking

    try:
        uri = tracking.tracking_uri(tracking_uri, folder.runs)
        tracking.open_tracker(study, uri, folder).check()
    except tracking.TrackingError as error:
        refuse(str(error))


def _print(console: Console, study: Study, planned: Plan, lines: Sequence[str]) -> None:
    table = Table(title=Text(study.name), title_justify="left", box=None, pad_edge=False, show_header=False)
    trials = Counter((trial.workload, trial.label) for trial in planned.trials)
    for (workload, optimizer), count in trials.items():
        table.add_row(Text(workload), Text(optimizer), pluralize(count, "trial"))
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _time(study: Study, estimated: TimeEstimate | None) -> str:
    if estimated is None:
        return "nothing is left to train"
    if estimated.unknown:
        return f"unknown until these have run here once: {join_names(list(estimated.unknown), 4)}"
    if estimated.seconds is None:
        return "not known before a study has run here once"
    about = f"about {duration(estimated.seconds)}, by earlier runs on this machine"
    return about + ("; less, as asha stops points early" if study.scheduler else "")


def _budget_line(hours: float, estimated: TimeEstimate | None, *, searches: bool) -> str:
    line = f"budget: {duration(hours * 3600)}"
    if estimated is not None and order.fits(estimated.seconds, hours * 3600):
        return f"{line}, enough for everything"
    what = "all optimizers get equally many points" if searches else "whole seeds first, the coarse α₀ first"
    return f"{line}: if it is up before the end, the run ends with a report; {what}"


def _disk_line(planned: Plan, folder: StudyFolder) -> str:
    there = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    if not os.access(there, os.W_OK):
        refuse(f"{there}: the folder of runs cannot be written there; name another with --runs")
    if planned.bytes is None:
        return "disk: unknown"
    line = f"disk: about {_size(planned.bytes)}"
    free = shutil.disk_usage(there).free
    return line if planned.bytes < free else f"{line}, and only {_size(free)} are free in {there}"


def _data_lines(trials: Sequence[Trial], data_folder: Path | None) -> list[str]:
    """Return lines with the folders of data sets that do not come with the program, or their downloads."""
    from study.workloads import datasets, downloads

    folder = datasets.data_dir(data_folder)
    lines = []
    for download in downloads.needed({trial.workload for trial in trials}):
        place = folder / download.place
        there = "" if place.is_dir() else f", not there yet: {download.size} are downloaded"
        lines.append(f"data: {download.name} in {place}{there}")
    if data_folder is not None and not lines:
        there = "" if data_folder.is_dir() else ", not there yet: data sets are downloaded into it"
        lines.append(f"data: {data_folder}{there}")
    return lines


def _threshold_lines(study: Study) -> list[str]:
    """Return a line that names the workloads without a threshold, if there are any."""
    pairs = ((workload.use, optimizer.name) for workload in study.workloads for optimizer in study.optimizers)
    without = join_names(list(dict.fromkeys(pair[0] for pair in pairs if study.threshold_of(*pair) is None)))
    return [f"threshold: none for {without}; write one to count the iterations to it"] if without else []


def _search_line(study: Study, search: Search) -> str:
    how = search.sampler + (", asha" if study.scheduler else "")
    return (
        f"search: {pluralize(search.points, 'point')} of each optimizer by {search.objective} ({how}), "
        f"each on {pluralize(len(search.seeds), 'seed')}; "
        f"then the best on {pluralize(len(study.seeds), 'other')}"
    )


def _processes_line(study: Study, planned: Plan, slots: int) -> str:
    needs = study.resources
    takes = f"{needs.cpus:g} CPUs and {needs.gpus:g} GPUs"
    if not slots:
        return f"a trial needs {takes}: more than there are here"
    number = (
        "processes"
        if study.search
        else f"{len(planned.bundles)} " + ("process" if len(planned.bundles) == 1 else "processes")
    )
    return f"{number}, {slots} at a time, each with {takes}"


def _packs_line(planned: Plan) -> str:
    together = [len(pack) for pack in planned.packs if len(pack) > 1]
    if not together:
        return "every trial trains by itself"
    least, most = min(together), max(together)
    sizes = f"{most}" if least == most else f"{least} to {most}"
    alone = len(planned.packs) - len(together)
    packs = f"{pluralize(len(together), 'pack')} of {sizes} trials"
    return packs + (f", {alone} by themselves" if alone else "")


def _size(count: float) -> str:
    """Return a number of bytes as people say it: 40 kB, 2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
