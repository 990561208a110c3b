"""Estimates how long a study still trains, from the trials of this run.

A *kind* is a workload with an optimizer. The cost of a trial is the seconds of training that its journal
records; validation, journals and waiting are not in it. This run shows how much wall-clock time goes with a
second of cost: the elapsed time ÷ the cost of all that it trained. So

    time left = elapsed × cost left ÷ cost done

where the cost left is known as soon as a trial of every kind has trained an epoch, now or in an earlier run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from study.config.optimizer_name import OPTIMIZERS
from study.config.trial import Trial
from study.storage.records import TrialRecord

LEAST_SECONDS = 2.0
"""Before this time, an estimate would be noise."""


def training_left(
    records: Sequence[TrialRecord],
    since_ms: int,
    now_ms: int,
    *,
    slots: int | None = None,
    bundles: Iterable[Sequence[Trial]] = (),
    expected: Mapping[str, float] | None = None,
) -> float | None:
    """Return the seconds of training left; None if they are not known yet.

    A trial that has not begun counts with the mean cost of the trials of its kind that have, so a kind of
    which half the trials diverge at once costs half. An optimizer that has not begun on a workload costs as
    much as similar ones that have. A failed trial is not trained again in this run.

    Args:
        records: Records of all trials, those that a search has yet to choose included.
        since_ms: When this run began, in Unix milliseconds.
        now_ms: The current time, in Unix milliseconds.
        slots: Number of processes that run at a time. Default: unknown.
        bundles: The trials that each process trains one after the other. The longest bundle may take longer
            than an equal share of everything.
        expected: Seconds that trials took in earlier runs, by key, for trials that have not begun. Trials
            that have begun show how these compare with this run.
    """
    trained = [record for record in records if record.resumed_ms >= since_ms and record.iterations]
    done = sum(_seconds_since(record, since_ms) for record in trained)
    if not done:
        return None
    first = min(record.resumed_ms for record in records if record.resumed_ms >= since_ms)
    last = max(record.last_ms for record in trained)
    elapsed = (last - first) / 1000
    if elapsed < LEAST_SECONDS:
        return None
    costs = _costs_left(records, expected or {})
    if costs is None:
        return None
    left = sum(costs.values()) * elapsed / done
    if slots is not None:
        chains = [sum(costs.get(trial.key, 0.0) for trial in bundle) for bundle in bundles]
        busy = min(slots, max(1, len(chains)))
        left = max(left, busy * elapsed / done * max(chains, default=0.0))
    # The records stand still until the next epoch ends, but time does not.
    return max(0.0, left - (now_ms - last) / 1000)


def _seconds_since(record: TrialRecord, since_ms: int) -> float:
    """Return the seconds that a trial has trained in the run that began at ``since_ms``."""
    if record.started_ms >= since_ms:
        return record.seconds  # kept in the record: a study may have a million epochs
    return sum(epoch.seconds for epoch in record.epochs if epoch.time_ms >= since_ms)


def _costs_left(records: Sequence[TrialRecord], expected: Mapping[str, float]) -> dict[str, float] | None:
    """Return the cost left of each trial, by key; None if a kind with work left has not begun."""
    kinds: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in records:
        kinds[record.trial.kind].append(record)
    rates = {kind: _rates(members) for kind, members in kinds.items()}
    scale = _scale(kinds, rates, expected)
    known: dict[object, list[tuple[float, float]]] = defaultdict(list)
    for kind, rate in rates.items():
        if rate is not None:
            known[_like(kinds[kind][0].trial)].append(rate)
    costs: dict[str, float] = defaultdict(float)
    for kind, members in kinds.items():
        left = [record for record in members if record.status in ("pending", "running")]
        if not left:
            continue
        rate = rates[kind]
        if rate is None and all(record.trial.key in expected for record in left):
            rate = scale * sum(expected[record.trial.key] for record in left) / len(left), 1.0
        if rate is None:
            alike = known.get(_like(members[0].trial))
            if not alike:
                return None
            rate = sum(w for w, _ in alike) / len(alike), sum(u for _, u in alike) / len(alike)
        whole, used = rate
        for record in left:
            begun = record.status == "running" or record.iterations
            costs[record.trial.key] += whole * (1 - _share(record) if begun else used)
    return costs


def _scale(
    kinds: Mapping[str, Sequence[TrialRecord]],
    rates: Mapping[str, tuple[float, float] | None],
    expected: Mapping[str, float],
) -> float:
    """Return the factor by which trials cost more in this run than expected."""
    found = before = 0.0
    for kind, members in kinds.items():
        known = [expected[record.trial.key] for record in members if record.trial.key in expected]
        rate = rates[kind]
        if rate is not None and known:
            found += rate[0]
            before += sum(known) / len(known)
    return found / before if before else 1.0


def _rates(records: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """Return the cost of a whole trial of a kind, and the mean share that trials use; None if unknown."""
    begun = [record for record in records if record.iterations and record.budget]
    shares = [_share(record) for record in begun]
    if not sum(shares):
        return None
    whole = sum(record.seconds for record in begun) / sum(shares)
    # Trials under way are assumed to reach their end: at first only those that diverge have ended.
    used = [
        share if record.status in ("diverged", "pruned") else 1.0
        for record, share in zip(begun, shares, strict=True)
    ]
    return whole, sum(used) / len(used)


def _share(record: TrialRecord) -> float:
    """Return the share of its budget that a trial has used, also if it diverged."""
    return min(1.0, record.iterations / record.budget) if record.budget else 0.0


def _like(trial: Trial) -> object:
    """Return a key that optimizers on one workload share if they cost about the same: packs cost less."""
    packs = trial.optimizer in OPTIMIZERS and trial.op != "muon" and trial.schedule is None
    return trial.workload, str(trial.workload_args), packs
