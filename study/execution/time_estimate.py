"""Estimates how long a plan takes, from measurements of earlier runs on this machine. Never guesses."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from study.config.search_space import SearchState
from study.config.study import Study
from study.config.trial import Trial
from study.execution.speeds import Speeds
from study.training import packs
from study.training.packs import Limit

Chain = list[list[Trial]]
"""Packs that one process trains one after the other; a trial by itself is a pack of one."""


@dataclass(frozen=True)
class TimeEstimate:
    """Estimated time of a run, in seconds.

    Args:
        seconds: Time from the start of the program to its end; None if a part of it is not known.
        training: Time in which trials train; None if not known.
        unknown: Combinations of workload and optimizer that have not run on this machine before.
    """

    seconds: float | None
    training: float | None
    unknown: tuple[str, ...] = ()


def estimate(study: Study, chains: Sequence[Chain], slots: int, speeds: Speeds) -> TimeEstimate:
    """Return the estimated time of a run.

    Args:
        study: The study.
        chains: The chains to train, in the order in which processes begin them.
        slots: Number of processes that run at a time; at least 1.
        speeds: The known speeds of this machine.
    """
    unknown: dict[str, None] = {}
    lengths = []
    for chain in chains:
        length = 0.0
        for pack in chain:
            seconds = speeds.pack_seconds(pack, gpus=study.resources.gpus)
            if seconds is None:
                unknown[f"{pack[0].workload} with {pack[0].label}"] = None
            length += (seconds or 0.0) + speeds.gap
        lengths.append(length)
    if unknown:
        return TimeEstimate(None, None, tuple(unknown))
    training = makespan(lengths, slots)
    end = speeds.end(len(study.planned_trials()))
    if speeds.start is None or end is None:
        return TimeEstimate(None, training)
    return TimeEstimate(speeds.start + training + end, training)


def chains_of(bundles: Iterable[Sequence[Trial]], limit: Limit) -> list[Chain]:
    """Return the packs of each bundle.

    Args:
        bundles: The trials that each worker process trains.
        limit: Returns how many trials of a trial's kind may train together.
    """
    return [packs.make_packs(bundle, limit) for bundle in bundles]


def search_chains(study: Study, state: SearchState, limit: Limit) -> list[Chain]:
    """Return the trials left in each arm of a search: those of its points, and then of the best point.

    The seeds of a point train together, as far as they pack. A scheduler stops points at times that nobody
    knows, so these count in full.

    Args:
        study: A study with a search.
        state: The state of the search.
        limit: Returns how many trials of a trial's kind may train together.
    """
    assert study.search is not None
    chains = []
    for arm in study.arms():
        rounds = [arm.search.seeds] * (arm.search.points - len(arm.points(state)))
        rounds += [study.seeds] if arm.best(state) is None else []
        chains.append(
            [pack for seeds in rounds for pack in packs.make_packs(arm.trials(arm.middle, seeds), limit)]
        )
    return chains


def makespan(lengths: Iterable[float], slots: int) -> float:
    """Return when the last job ends, if each starts, in this order, on the slot that is free first."""
    free = [0.0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)
