"""The command ``plan``: what a study would run and cost, found out without running any of it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from study.cli import display
from study.cli.options import out, refuse
from study.config import plugins
from study.config.loader import Study
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
    display.show_plan(
        out,
        study,
        planned,
        done=len(records) - len(todo),
        slots=slots,
        single=single,
        unchecked=unchecked,
        data_folder=data_folder,
    )
