"""Assigns trials to worker bundles, longest processing time first; splits packs only where that saves time.

It runs nothing. A *piece* is a trial, or trials of one kind that train together. A *bundle* is some pieces
that one worker process trains; if the process dies, the bundle starts again.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from study.config.trial import Trial
from study.training import packs as packing
from study.training.packs import Limit

BUNDLE_SECONDS = 10.0
"""About how long a bundle should take."""
BUNDLES_PER_SLOT = 8
"""More bundles per slot do not improve the balance."""

PACK_START = 20
"""The fixed cost of a pack's iteration, in members: 15, 30 and 60 members of ``mnist-logreg`` with
``adam-adam`` took 2.6, 3.7 and 6.1 ms (one core, PyTorch 2.15)."""
LEAST_PIECE = 8
"""Fewest members of a pack; smaller packs do not pay."""
WORTH_CUTTING = 0.99
"""A pack is split if the makespan falls to this share of its previous value, or lower."""


def bundles(
    trials: Sequence[Trial], seconds: Sequence[float | None], slots: int, limit: Limit
) -> tuple[tuple[Trial, ...], ...]:
    """Return bundles of about equal cost, the costliest first.

    Args:
        trials: Distinct trials.
        seconds: How long each trial takes, in seconds, in the largest possible pack. None, an unknown time,
            counts as the longest known time.
        slots: Number of bundles that run at a time; at least 1.
        limit: Returns how many trials of a trial's kind may train together.
    """
    if not trials:
        return ()
    longest = max((s for s in seconds if s is not None), default=BUNDLE_SECONDS)
    costs = {trial: longest if s is None else s for trial, s in zip(trials, seconds, strict=True)}
    alone = [trial for trial in trials if limit(trial) == 1]
    packs = _packs([trial for trial in trials if limit(trial) > 1], alone, costs, slots, limit)
    worth = int(sum(costs.values()) / BUNDLE_SECONDS)
    number = min(max(slots, worth), BUNDLES_PER_SLOT * slots)
    loads = [*(costs[trial] for trial in alone), *(_load(pack, costs, limit) for pack in packs)]
    dealt = _deal(loads, min(number, len(loads)))
    pieces = [*([trial] for trial in alone), *packs]
    return tuple(tuple(trial for index in bundle for trial in pieces[index]) for _, bundle in dealt)


def _packs(
    trials: Sequence[Trial], alone: Sequence[Trial], costs: Mapping[Trial, float], slots: int, limit: Limit
) -> list[list[Trial]]:
    """Split each kind into packs: as few as its limit allows, or more if everything ends sooner."""
    kinds = packing.group_packable(trials)
    counts = [-(-len(members) // limit(members[0])) for members in kinds]
    while kinds and len(alone) + sum(counts) < min(slots, len(trials) + len(alone)):
        # Prefer smaller packs to idle slots.
        largest = max(range(len(counts)), key=lambda i: len(kinds[i]) / counts[i])
        counts[largest] += 1
    others = [costs[trial] for trial in alone]
    best, last = _makespan(kinds, counts, others, costs, slots, limit)
    while last is not None and len(kinds[last]) // (counts[last] + 1) >= LEAST_PIECE:
        counts[last] += 1
        makespan, following = _makespan(kinds, counts, others, costs, slots, limit)
        if makespan > WORTH_CUTTING * best:
            counts[last] -= 1
            break
        best, last = makespan, following
    return [
        pack
        for members, count in zip(kinds, counts, strict=True)
        for pack in packing.split_evenly(members, count)
    ]


def _makespan(
    kinds: Sequence[Sequence[Trial]],
    counts: Sequence[int],
    others: Sequence[float],
    costs: Mapping[Trial, float],
    slots: int,
    limit: Limit,
) -> tuple[float, int | None]:
    """Return when the last slot ends, and the kind of its smallest pack; None if it has no pack."""
    loads = list(others)
    owners: list[int | None] = [None] * len(loads)
    for kind, (members, count) in enumerate(zip(kinds, counts, strict=True)):
        for pack in packing.split_evenly(members, count):
            loads.append(_load(pack, costs, limit))
            owners.append(kind)
    makespan, pieces = _deal(loads, slots)[0]
    packs = [index for index in pieces if owners[index] is not None]
    return makespan, owners[min(packs, key=lambda index: loads[index])] if packs else None


def _load(pack: Sequence[Trial], costs: Mapping[Trial, float], limit: Limit) -> float:
    """Return the cost of a pack: its trials' costs, raised if the pack is smaller than its limit."""
    most = limit(pack[0])
    return sum(costs[trial] for trial in pack) * (1 + PACK_START / len(pack)) / (1 + PACK_START / most)


def _deal(loads: Sequence[float], number: int) -> list[tuple[float, list[int]]]:
    """Give each load, the largest first, to the bin with the lightest total so far.

    Returns:
        The total load of each bin and the indices of its loads; the largest total first.
    """
    heap: list[tuple[float, int, list[int]]] = [(0.0, hand, []) for hand in range(number)]
    for index in sorted(range(len(loads)), key=lambda i: (-loads[i], i)):
        load, hand, held = heap[0]
        held.append(index)
        heapq.heapreplace(heap, (load + loads[index], hand, held))
    return [(load, sorted(held)) for load, _, held in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]
