"""Plans a study: the cost of its trials, and their division among workers. It runs nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.config.catalogue import CATALOGUE, BuiltIn
from study.config.optimizer_name import OPTIMIZERS
from study.config.trial import Trial
from study.execution import load_balancing, order
from study.training import packs
from study.training.packs import Limit

if TYPE_CHECKING:
    from study.config.study import Study
    from study.storage.records import TrialRecord


UNIT_SECONDS = 60.0
"""About how long the points that a search asks for at a time should take, if all slots have work."""

# The journal keeps three float32 per iteration in base64, the Parquet file about as much.
BYTES_PER_ITERATION = 2 * 12 * 4 / 3

_UNKNOWN = BuiltIn("")
"""Stands for a workload that is not built in: its size and speed are unknown."""


@dataclass(frozen=True)
class Plan:
    """The division and the cost of trials. A total is None if any trial's part of it is unknown."""

    trials: tuple[Trial, ...]
    bundles: tuple[tuple[Trial, ...], ...]
    """The trials of each bundle, which one worker trains; the costliest bundle first."""
    packs: tuple[tuple[Trial, ...], ...]
    """The trials that train together; a trial by itself is a pack of one."""
    iterations: int | None
    seconds: float | None
    """How long one slot would take for everything, to an order of magnitude: good enough to share out work,
    but not to be shown; for that see ``time_estimate``."""
    bytes: int | None
    """Bytes on disk at the end: journals, Parquet files, MLflow's database."""


def iterations(trial: Trial) -> int | None:
    """Return the iterations of a trial's budget; None for epochs of a data set of unknown size."""
    if trial.epochs is None:
        return trial.iterations
    size = CATALOGUE.get(trial.workload, _UNKNOWN).train_size
    return None if size is None else trial.epochs * trial.batches(size)


def uses_own_code_only(study: Study) -> bool:
    """Return whether all workloads and optimizers of a study are built in and take no arguments.

    Such a study seldom fails, so its workers may start before the preflight.
    """
    workloads = all(workload.use in CATALOGUE and not workload.args for workload in study.workloads)
    return workloads and all(use.name in OPTIMIZERS and not use.args for use in study.optimizers)


def pending_trials(study: Study, records: Iterable[TrialRecord]) -> list[Trial]:
    """Return the trials to train, with stand-ins for those that a search has yet to choose.

    Args:
        study: The study.
        records: Records of all trials of the study, stand-ins included.
    """
    from study.storage.stored_records import StoredRecords  # imports numpy, which a plan does not need

    if isinstance(records, StoredRecords):
        records = records.having("pending", "running", "failed", "pruned")
    pruned_counts = study.scheduler is not None
    return [
        record.trial
        for record in records
        if not record.is_complete
        and not (pruned_counts and record.status == "pruned" and study.is_search_trial(record.trial))
    ]


def unit_size(study: Study, slots: int, rates: Mapping[tuple[str, str], float]) -> int:
    """Return how many points, of different arms, a search gives to one worker at a time.

    It is the number that takes ``UNIT_SECONDS``, as long as all slots have work. It is 1 if a scheduler stops
    trials, which would also stop those that train together, or if the time per point is unknown.

    Args:
        study: A study with a search.
        slots: Number of workers that run at a time.
        rates: Seconds per iteration, from ``measured_rates``.
    """
    arms = study.arms()
    points = plan([trial for arm in arms for trial in arm.trials(arm.middle, arm.search.seeds)], 1, rates)
    if study.scheduler is not None or not points.seconds:
        return 1
    return max(1, min(int(UNIT_SECONDS * len(arms) / points.seconds), -(-len(arms) // slots)))


def measured_rates(records: Iterable[TrialRecord]) -> dict[tuple[str, str], float]:
    """Return the seconds per iteration by (workload, optimizer), over all iterations of the records."""
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
    """Return the bundles and packs in which trials would train, and what they would cost.

    Args:
        trials: Distinct trials.
        slots: Number of trials that can run at once; at least 1.
        rates: Seconds per iteration by (workload, optimizer), measured in earlier runs. Default, also for
            missing entries: the rough rates of the catalogue.
        limit: Returns how many trials of a trial's kind may train together. Default: one.

    Returns:
        The plan, the same for the same arguments. Work of unknown length counts as the longest known.

    Raises:
        ValueError: ``slots`` is below 1.
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
    from study import tracking  # imports numpy, which reading a study file does not need

    total = _total(seconds)
    known = _total(counts)
    tracked = sum(tracking.stored_bytes(count) for count in counts if count is not None)
    bundles = load_balancing.bundles(trials, seconds, slots, limit)
    return Plan(
        trials=tuple(trials),
        bundles=bundles,
        packs=tuple(tuple(pack) for bundle in bundles for pack in packs.make_packs(bundle, limit)),
        iterations=None if known is None else int(known),
        seconds=total,
        bytes=None if known is None else round(known * BYTES_PER_ITERATION + tracked),
    )


def in_waves(
    study: Study,
    trials: Sequence[Trial],
    slots: int,
    rates: Mapping[tuple[str, str], float],
    limit: Limit,
) -> tuple[tuple[Trial, ...], ...]:
    """Return the bundles of a run that may end before all have begun, the most informative first.

    Args:
        study: A grid.
        trials: Distinct trials of the grid.
        slots: Number of bundles that run at a time.
        rates: Seconds per iteration, as in ``plan``.
        limit: Returns how many trials of a trial's kind may train together.
    """
    bundles: list[tuple[Trial, ...]] = []
    for wave in order.waves(study, trials, limit):
        bundles += plan(wave, slots, rates, limit).bundles
    return tuple(bundles)


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
