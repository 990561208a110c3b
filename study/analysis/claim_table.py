"""Claims as a table, for CSV and Parquet: a row per claim, a column per number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from study.analysis import claim_text
from study.analysis.claims import Claim, Secondary
from study.analysis.pairing import METHOD, SETUP

COLUMNS = (
    *("claim", "family", *SETUP, *METHOD, "baseline", *(f"baseline_{name}" for name in METHOD[1:])),
    *("measure", "pairs", "seeds", "incomplete", "alpha0s", "ratio", "ratio_low", "ratio_high"),
    *("better", "worse", "equal", "unclear", "missed", "baseline_missed", "both_missed"),
    *("diverged", "baseline_diverged", "pruned", "p", "p_worse", "p_same", "p_wilcoxon"),
    *("smoothed_ratio", "smoothed_low", "smoothed_high", "smoothed_better", "smoothed_worse"),
    *("tuned_ratio", "tuned_low", "tuned_high", "tuned_better", "tuned_worse", "reason"),
    *("p_adjusted", "p_worse_adjusted", "p_same_adjusted", "comparisons", "seeds_needed"),
    *("verdict", "text", "notes"),
)


def claim_table(claims: Iterable[Claim]) -> pd.DataFrame:
    """Return one row per claim, with the columns ``COLUMNS``.

    ``p`` and its adjusted value are for better, ``p_worse`` for worse, ``p_same`` for a difference within the
    margin. ``text`` is one sentence, ``notes`` further ones or empty. ``claims.Claim`` describes the other
    columns.
    """
    return pd.DataFrame([_row(claim) for claim in claims], columns=list(COLUMNS))


def _row(claim: Claim) -> dict[str, Any]:
    baseline = claim.baseline._asdict()
    return {
        **{name: getattr(claim, name) for name in COLUMNS if hasattr(claim, name)},
        **claim.setup._asdict(),
        **claim.method._asdict(),
        "claim": str(claim.kind),
        "family": str(claim.family),
        "baseline": baseline.pop("optimizer"),
        **{f"baseline_{name}": value for name, value in baseline.items()},
        **dict(zip(("ratio", "ratio_low", "ratio_high"), claim.ratio, strict=True)),
        "missed": claim.missed.alone,
        "baseline_missed": claim.missed.baseline_alone,
        "both_missed": claim.missed.both,
        "p": claim.p.better,
        "p_worse": claim.p.worse,
        "p_same": claim.p.within,
        **_secondary("smoothed", claim.smoothed),
        **_secondary("tuned", claim.tuned),
        "p_adjusted": claim.adjusted.better,
        "p_worse_adjusted": claim.adjusted.worse,
        "p_same_adjusted": claim.adjusted.within,
        "text": claim_text.text(claim),
        "notes": claim_text.notes(claim),
    }


def _secondary(name: str, of: Secondary) -> dict[str, float]:
    columns = (f"{name}_{end}" for end in ("ratio", "low", "high", "better", "worse"))
    return dict(zip(columns, (*of.ratio, of.better, of.worse), strict=True))
