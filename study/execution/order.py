"""Orders the trials of a study that may not end, so that all optimizers have about the same coverage.

The trials of a grid are split into waves, and a wave begins when no trial of the one before it is left to
begin. A wave is one seed, or several later on, with all workloads, optimizers and α₀: whole seeds come before
more seeds, as comparisons are made seed by seed. Within a wave the trials that do not train in packs come by
α₀, the coarse grid first: the middle, the ends, and then the values between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from study.config.study import Study
from study.config.trial import Trial
from study.training.packs import Limit


def waves(study: Study, trials: Sequence[Trial], limit: Limit) -> list[list[Trial]]:
    """Return the trials in waves of 1, 1, 2, 4, … seeds.

    Waves grow because a pack of several seeds takes hardly longer than one of a single seed. When the time is
    up, the trials of the unfinished wave are then at most half of all that have trained.

    Args:
        study: A grid.
        trials: The trials of the grid that are to be trained, in any order.
        limit: Returns how many trials of a trial's kind may train together; 1 if they do not pack.
    """
    place = {seed: index for index, seed in enumerate(study.seeds)}
    ranks = _alpha0_ranks(trials)
    found: dict[tuple[int, int], list[Trial]] = {}
    for trial in trials:
        seeds = place[trial.seed].bit_length()  # 0; 1; 2, 3; 4 to 7; …
        rank = ranks[trial.workload, trial.label, trial.alpha0] if limit(trial) == 1 else 0
        found.setdefault((seeds, rank), []).append(trial)
    return [found[wave] for wave in sorted(found)]


def coarse_first(count: int) -> list[int]:
    """Return the places 0 … ``count`` − 1 in the order in which they refine a grid.

    The middle comes first. Then each is the one farthest from those before it; of two, the lower.

    ::

        >>> coarse_first(7)
        [3, 0, 6, 1, 2, 4, 5]
    """
    chosen: list[int] = []
    left = list(range(count))
    while left:
        if not chosen:
            best = count // 2
        else:
            best = max(left, key=lambda place: (min(abs(place - other) for other in chosen), -place))
        chosen.append(best)
        left.remove(best)
    return chosen


def _alpha0_ranks(trials: Sequence[Trial]) -> dict[tuple[str, str, float], int]:
    """Return the rank of each α₀, by workload, optimizer and α₀: the order in which they train."""
    grids: dict[tuple[str, str], set[float]] = {}
    for trial in trials:
        grids.setdefault((trial.workload, trial.label), set()).add(trial.alpha0)
    ranks = {}
    for names, alpha0s in grids.items():
        grid = sorted(alpha0s)
        for rank, place in enumerate(coarse_first(len(grid))):
            ranks[(*names, grid[place])] = rank
    return ranks


def fits(seconds: float | None, available: float) -> bool:
    """Return whether training with this estimated time is sure to end in time.

    Args:
        seconds: Estimated seconds; None if unknown.
        available: Seconds that are left; may be infinite.
    """
    return seconds is not None and seconds * MARGIN <= available and math.isfinite(available)


MARGIN = 1.3
"""Factor by which the true time may exceed an estimate, on a machine that does other things as well."""
