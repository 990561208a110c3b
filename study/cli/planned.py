"""The command ``plan``: what a study would run and cost, found out without running any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.formatting import join_names, pluralize
from study.analysis.progress_text import duration
from study.cli.options import out, refuse
from study.config import plugins
from study.config.loader import Study
from study.config.sections import Search
from study.execution.planning import Plan
from study.storage.study_folder import StudyFolder


def show(
    study: Study,
    folder: StudyFolder,
    *,
    cpus: int | None,
    gpus: int,
    imports: bool,
    data_folder: Path | None,
) -> None:
    """Print the plan of what is left of a study, or refuse what ``run`` would refuse.

    Args:
        study: the study.
        folder: its folder.
        cpus: CPUs to plan for; None for all that this process may use.
        gpus: GPUs to plan for.
        imports: import the user's own code. Without that none of it runs: a stranger's file can be planned.
        data_folder: of the data sets, if the user named one.
    """
    from study.execution import checks, planning
    from study.execution.samplers import SamplerError
    from study.training import pack_limits
    from study.training.optimizers import OptimizerError
    from study.training.process_limits import cpu_count
    from study.workloads.registry import WorkloadError

    records = folder.planned_records(study)
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
        name: "code of your own; whether it packs is seen when it runs"
        for name in single
        if name in unchecked
    }
    if planned.seconds is not None:
        starts = planning.search_starts(study, folder.search_state(), max(1, slots), rates)
        planned = replace(planned, seconds=planned.seconds + starts)
    _print(
        out,
        study,
        planned,
        done=len(records) - len(todo),
        slots=slots,
        single=single,
        unchecked=unchecked,
        data_folder=data_folder,
    )


def _print(
    console: Console,
    study: Study,
    planned: Plan,
    *,
    done: int,
    slots: int,
    single: Mapping[str, str],
    unchecked: Sequence[str] = (),
    data_folder: Path | None = None,
) -> None:
    """Print what would run and what it would cost.

    Args:
        console: where to print.
        study: the study.
        planned: the plan of the trials that are left.
        done: how many trials have ended already.
        slots: how many processes run at a time; 0 if the machine cannot hold one.
        single: workloads and optimizers whose trials do not pack, and why.
        unchecked: names of the user's own code that was not imported.
        data_folder: of the data sets, if the user named one.
    """
    table = Table(title=Text(study.name), title_justify="left", box=None, pad_edge=False, show_header=False)
    trials = Counter((trial.workload, trial.label) for trial in planned.trials)
    for (workload, optimizer), count in trials.items():
        table.add_row(Text(workload), Text(optimizer), pluralize(count, "trial"))
    console.print(table)
    lines = [f"{pluralize(len(planned.trials), 'trial')} to run, {done} done already"]
    if study.search is not None:
        lines.append(_search_line(study, study.search))
    lines += [_processes_line(study, planned, slots), _packs_line(planned), *_cost_lines(planned, slots)]
    if study.resources.gpus > 0 and any(len(pack) > 1 for pack in planned.packs):
        from study.training import capture

        lines.append(capture.OFF)
    if data_folder is not None:
        there = "" if data_folder.is_dir() else ", not there yet: data sets are downloaded into it"
        lines.append(f"data: {data_folder}{there}")
    lines += [f"not packed: {name}: {reason}" for name, reason in single.items()]
    if unchecked:
        names = join_names(list(unchecked))
        lines.append(f"not checked: {names}: code of your own, imported only with --imports and when it runs")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


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


def _cost_lines(planned: Plan, slots: int) -> list[str]:
    iterations = "unknown" if planned.iterations is None else f"{planned.iterations:,}"
    if planned.seconds is None:
        time = "unknown, until a trial has run"
    else:
        time = f"about {duration(planned.seconds / max(1, slots))}"
    if planned.estimated is not None:
        time += f" ({planned.estimated})"
    return [f"iterations: {iterations}", f"time: {time}", f"disk: about {_size(planned.bytes or 0)}"]


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
