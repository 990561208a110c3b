"""The points of a search over both α₀ and β, for the figures that show them."""

from __future__ import annotations

import math
from typing import NamedTuple

from study.analysis import objective
from study.analysis.objective import PointScore
from study.analysis.tables import trial_workload_label
from study.config.search_space import Arm
from study.report.figures.base import Evidence

ENOUGH = 10
"""Number of finished points that an arm needs: fewer do not determine the effect of two numbers."""


class Searched(NamedTuple):
    """One arm of a search over α₀ and β, and its points that have ended."""

    arm: Arm
    title: str
    """The optimizer and, if the search has several, the workload."""
    finite: tuple[PointScore, ...]
    """Points with a finite score."""
    diverged: tuple[PointScore, ...]
    """Points with an infinite score."""

    @property
    def has_enough(self) -> bool:
        """Whether there are enough finite scores, and they differ."""
        return len(self.finite) >= ENOUGH and len({score.value for score in self.finite}) > 1

    @property
    def shortfall(self) -> str:
        """The reason why there is nothing to draw, for an arm without enough points."""
        if len(self.finite) >= ENOUGH:
            return "all points have the same score"
        return f"too few points: {len(self.finite)} with a finite score, {ENOUGH} needed"

    @property
    def is_log(self) -> bool:
        """Whether scores are shown by their logarithms, as all of them are above 0."""
        return all(shown(score) > 0 for score in self.finite)


def shown(score: PointScore) -> float:
    """Return the score of a complete point."""
    assert score.value is not None
    return score.value


def searched(evidence: Evidence) -> list[Searched]:
    """Return the arms that were searched over both α₀ and β, in the study's order; none for a grid."""
    standings = objective.standings(evidence.study, evidence.search_state, evidence.search_records)
    several = len({trial_workload_label(standing.arm.template) for standing in standings}) > 1
    found = []
    for standing in standings:
        arm = standing.arm
        if set(arm.space) == {"alpha0", "beta"}:
            complete = [score for score in standing.scores if score.state == "complete"]
            name = arm.template.label
            title = f"{name}, {trial_workload_label(arm.template)}" if several else name
            finite = tuple(score for score in complete if math.isfinite(shown(score)))
            found.append(Searched(arm, title, finite, tuple(s for s in complete if s not in finite)))
    return found
