"""What a study's trials will cost, and how they are shared out among workers. Pure: runs nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from study.config.catalogue import CATALOGUE, BuiltIn
from study.config.optimizer_name import OPTIMIZERS
from study.config.trial import Trial
from study.execution import load_balancing
from study.training import packs
from study.training.packs import Limit

if TYPE_CHECKING:
    from study.config.search_space import SearchState
    from study.config.study import Study
    from study.storage.records import TrialRecord


START_SECONDS = 3.0
"""What starting a worker process and importing torch cost, to an order of magnitude."""

UNIT_SECONDS = 60.0
"""What a search asks for at a time should be worth about this much, where all slots have work."""

# The journal keeps three float32 per iteration in base64, the Parquet file about as much.
BYTES_PER_ITERATION = 2 * 12 * 4 / 3

_UNKNOWN = BuiltIn("")
"""Of a workload that is not built in, nothing is known before it is made."""


@dataclass(frozen=True)
class Plan:
    """What would run, and what it would cost. A total is ``None`` if any trial's share is unknown."""

    trials: tuple[Trial, ...]
    bundles: tuple[tuple[Trial, ...], ...]
    """Trials that one worker runs; the costliest bundle first."""
    packs: tuple[tuple[Trial, ...], ...]
    """How the workers take the trials together; a trial by itself is a pack of one."""
    iterations: int | None
    seconds: float | None
    """Of one slot working alone."""
    bytes: int | None
    """On disk, when all is done: journals, Parquet files, MLflow's database."""
    estimated: Literal["measured", "rough"] | None
    """Where ``seconds`` comes from: ``"measured"`` only if every rate was."""


def iterations(trial: Trial) -> int | None:
    """Iterations of a trial's budget; ``None`` if it is in epochs of a data set of unknown size."""
    if trial.epochs is None:
        return trial.iterations
    size = CATALOGUE.get(trial.workload, _UNKNOWN).train_size
    return None if size is None else trial.epochs * trial.batches(size)


def uses_own_code_only(study: Study) -> bool:
    """Return whether all workloads and optimizers of a study are built in and take no arguments.

    Such a study seldom fails, so its workers may start before anything was tried.
    """
    workloads = all(workload.use in CATALOGUE and not workload.args for workload in study.workloads)
    return workloads and all(use.name in OPTIMIZERS and not use.args for use in study.optimizers)


def pending_trials(study: Study, records: Iterable[TrialRecord]) -> list[Trial]:
    """Return the trials that are still to be trained, with stand-ins for those that a search has ahead.

    Args:
        study: the study.
        records: of all that it comes to.
    """
    pruned_counts = study.scheduler is not None
    return [
        record.trial
        for record in records
        if not record.is_complete
        and not (pruned_counts and record.status == "pruned" and study.is_search_trial(record.trial))
    ]


def unit_size(study: Study, slots: int, rates: Mapping[tuple[str, str], float]) -> int:
    """Return how many arms' points a search asks for at a time, for one process to train.

    As many as are worth :data:`UNIT_SECONDS`, if all slots have work; one if a scheduler stops trials, which
    would stop those beside it, or if nobody knows how long a point takes.
    """
    arms = study.arms()
    points = plan([trial for arm in arms for trial in arm.trials(arm.middle, arm.search.seeds)], 1, rates)
    if study.scheduler is not None or not points.seconds:
        return 1
    return max(1, min(int(UNIT_SECONDS * len(arms) / points.seconds), -(-len(arms) // slots)))


def search_starts(
    study: Study, state: SearchState, slots: int, rates: Mapping[tuple[str, str], float]
) -> float:
    """Return the seconds that a search has yet to spend on starting a process in each slot; 0 for a grid."""
    if study.search is None:
        return 0.0
    ahead = sum(arm.search.points - len(arm.points(state)) for arm in study.arms())
    return START_SECONDS * min(slots, math.ceil(ahead / unit_size(study, slots, rates)))


def measured_rates(records: Iterable[TrialRecord]) -> dict[tuple[str, str], float]:
    """Seconds per iteration by (workload, optimizer), over all iterations that the records have."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for record in records:
        if record.iterations and record.seconds > 0:
            name = record.trial.workload, record.trial.optimizer
            seconds[name] += record.seconds
            counts[name] += record.iterations
    return {name: seconds[name] / counts[name] for name in seconds}


def _alone(trial: Trial) -> int:
    return 1


def plan(
    trials: Sequence[Trial],
    slots: int,
    rates: Mapping[tuple[str, str], float] | None = None,
    limit: Limit = _alone,
) -> Plan:
    """Say what would run, in which bundles and packs, and what it would cost.

    Args:
        trials: distinct trials.
        slots: how many trials can run at once; at least 1.
        rates: seconds per iteration by (workload, optimizer), measured in earlier runs; where it has none,
            the catalogue's rough ones stand in.
        limit: how many trials of a trial's kind may train together.

    Returns:
        The plan, the same for the same arguments. Work of unknown length counts as much as the longest known.

    Raises:
        ValueError: ``slots`` below 1.
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1; got {slots}")
    rates = rates or {}
    counts = [iterations(trial) for trial in trials]
    seconds: list[float | None] = []
    for trial, count in zip(trials, counts, strict=True):
        built_in = CATALOGUE.get(trial.workload, _UNKNOWN)
        packed = built_in.packed_seconds if limit(trial) >= load_balancing.LEAST_PIECE else None
        rate = rates.get((trial.workload, trial.optimizer), packed or built_in.seconds)
        seconds.append(None if count is None or rate is None else count * rate)
    from study import tracking  # brings numpy, which a study file is read without

    total = _total(seconds)
    known = _total(counts)
    measured = all((trial.workload, trial.optimizer) in rates for trial in trials)
    tracked = sum(tracking.stored_bytes(count) for count in counts if count is not None)
    bundles = load_balancing.bundles(trials, seconds, slots, limit)
    return Plan(
        trials=tuple(trials),
        bundles=bundles,
        packs=tuple(tuple(pack) for bundle in bundles for pack in packs.make_packs(bundle, limit)),
        iterations=None if known is None else int(known),
        seconds=total,
        bytes=None if known is None else round(known * BYTES_PER_ITERATION + tracked),
        estimated=None if total is None else "measured" if measured else "rough",
    )


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
