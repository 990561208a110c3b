"""Importance of α₀ and β in a search: the share of the score's variance that each explains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.searched import ENOUGH, Searched, searched, shown
from study.report.figures.style import STYLE, subplots

STEM = "search-importance"
SECTION: Section = "alpha0"

CAPTION = (
    "Share of the variance of the search's scores that α₀ and β explain, by functional ANOVA over a random "
    "forest (Hutter et al. 2014, as in Optuna), over the ranges that were searched; the logarithm of the "
    "score where it is positive. The search tries more points where it finds good ones, so these are rough. "
    f"An optimizer needs {ENOUGH} points that ended with a finite score."
)

_SYMBOLS = {"alpha0": "α₀", "beta": "β"}
_COLORS = {"alpha0": "#0072B2", "beta": "#E69F00"}
_TEXT = {"alpha0": "white", "beta": "black"}


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the figure, if a search was over both α₀ and β."""
    arms = searched(evidence)
    if arms:
        yield Drawn(importance_figure(arms, evidence.study.name), "Importance of α₀ and β", CAPTION)


def importances(arm: Searched) -> dict[str, float]:
    """Return the importance of ``alpha0`` and ``beta``, which sum to 1.

    Source: Hutter, Hoos and Leyton-Brown 2014, An Efficient Approach for Assessing Hyperparameter
    Importance, https://proceedings.mlr.press/v32/hutter14.html

    Args:
        arm: An arm with enough points.
    """
    import optuna  # takes a second, and only searches need it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(values.low, values.high, log=True)
        for name, values in arm.arm.space.items()
    }
    study = optuna.create_study(direction="minimize")
    for score in arm.finite:
        value = math.log10(shown(score)) if arm.is_log else shown(score)
        params = {name: getattr(score.point, name) for name in space}
        study.add_trial(optuna.create_trial(params=params, distributions=space, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def importance_figure(arms: Sequence[Searched], name: str) -> Figure:
    """Draw a bar per optimizer and workload: the shares of α₀ and β, or the reason if there are none.

    Args:
        arms: The arms, at least one.
        name: The study's name, for the title.
    """
    with mpl.rc_context(STYLE):
        figure, ((panel,),) = subplots(1, 1, height=0.4 * len(arms) + 0.2)
        for place, arm in enumerate(arms):
            if arm.has_enough:
                _bar(panel, place, importances(arm))
            else:
                panel.text(0.01, place, arm.shortfall, va="center", fontsize=8, color="#555555")
        panel.set_yticks(range(len(arms)), [arm.title for arm in arms], parse_math=False)
        panel.set_ylim(len(arms) - 0.4, -0.6)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_xlabel("share of the variance of the score")
        panel.grid(axis="y", visible=False)
        panel.set_axisbelow(True)
        handles = [mpl.patches.Patch(color=_COLORS[key], label=_SYMBOLS[key]) for key in _SYMBOLS]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.suptitle(name, fontsize=10, parse_math=False)
    return figure


def _bar(panel: Axes, place: int, shares: Mapping[str, float]) -> None:
    left = 0.0
    for key, symbol in _SYMBOLS.items():
        share = shares[key]
        panel.barh(place, share, left=left, height=0.7, color=_COLORS[key])
        if share > 0.12:
            label = f"{symbol} {100 * share:.0f} %"
            panel.text(left + share / 2, place, label, ha="center", va="center", fontsize=8, color=_TEXT[key])
        left += share
