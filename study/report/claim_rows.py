"""Arranges a study's claims for the report's page: by family, in the overview, and those about tuning."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from study.analysis import claim_text
from study.analysis.claims import Claim, Family, Kind
from study.analysis.formatting import format_number, method_label, workload_label
from study.analysis.untuned_claims import UntunedClaim
from study.report.links import Links, web_address

_label = partial(method_label, in_prose=True)

FAMILIES = {
    Family.NEW_RULES: "New rules against hypergradient descent",
    Family.HYPERGRADIENT: "Hypergradient descent against a fixed α",
    Family.NAMED: "Against what the study file names",
}
"""Headings of the families of comparisons, in the order of the page."""


def claim_groups(claims: Sequence[Claim], links: Links, *, judged: bool = True) -> list[dict[str, Any]]:
    """Return the claims by family and kind, in the order of the page, with the content of their rows.

    Args:
        claims: From ``claims.claims``.
        links: Finds the web pages of the optimizers.
        judged: Whether rows have verdicts; those of a pilot have directions instead.
    """
    groups: dict[tuple[Family, Kind], list[dict[str, Any]]] = {}
    for claim in _judged(claims):
        row: dict[str, Any] = {
            **_names(claim),
            "verdict": _verdict(claim, judged),
            "text": claim_text.text(claim, judged=judged),
            "notes": claim_text.notes(claim),
        }
        for side, method in (("new", claim.method), ("base", claim.baseline)):
            link = links.optimizer_link(claim.setup.workload, method.optimizer)
            row[f"{side}_link"] = web_address(link)
        groups.setdefault((claim.family, claim.kind), []).append(row)
    return [
        {"family": heading, "claim": str(kind), "rows": groups[family, kind]}
        for family, heading in FAMILIES.items()
        for kind in Kind
        if (family, kind) in groups
    ]


def not_judged(claims: Sequence[Claim]) -> list[str]:
    """Return why claims of a kind cannot be judged for any optimizer, one sentence for each kind."""
    sentences = []
    for kind in Kind:
        reasons = [claim.reason for claim in claims if claim.kind is kind]
        if reasons and all(reasons):
            sentences.append(f"“{kind}” is not judged: {'; '.join(dict.fromkeys(reasons))}.")
    return sentences


def _verdict(claim: Claim, judged: bool) -> str:
    return claim.verdict if judged or claim.reason else claim_text.direction(claim)


def glance(claims: Sequence[Claim], *, judged: bool = True) -> dict[str, Any]:
    """Return verdicts and ratios: a row per optimizer, baseline and workload, a column per kind of claim."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    order = [*FAMILIES]
    claims = _judged(claims)
    kinds = [kind for kind in Kind if any(claim.kind is kind for claim in claims)]
    for claim in sorted(claims, key=lambda claim: order.index(claim.family)):
        names = _names(claim)
        line = lines.setdefault(tuple(names.values()), {**names, "verdicts": dict.fromkeys(kinds)})
        line["verdicts"][claim.kind] = ("–" if claim.reason else _verdict(claim, judged), _size(claim))
    workloads = [*dict.fromkeys(line["where"] for line in lines.values())]
    rows = sorted(lines.values(), key=lambda line: workloads.index(line["where"]))
    return {"claims": [*map(str, kinds)], "rows": rows, "several": len(workloads) > 1}


def _size(claim: Claim) -> str:
    """Return a claim's ratio, or its difference in decades, as the text of a cell."""
    if math.isnan(claim.ratio.ratio):
        return ""
    if claim.kind is Kind.INSENSITIVE:
        return f"{math.log10(claim.ratio.ratio) + 0.0:+.2f} decades".replace("-", "−")
    return f"{format_number(claim.ratio.ratio)} ×"


def _names(claim: Claim) -> dict[str, str]:
    """Return the names of a claim's workload, method and baseline for a row."""
    return {
        "where": workload_label(claim.setup._asdict()),
        "new": _label(claim.method._asdict(), with_beta=True),
        "base": _label(claim.baseline._asdict(), with_beta=True),
    }


def untuned_claims(claims: Sequence[UntunedClaim]) -> list[dict[str, Any]]:
    """Return the claims about tuning, one after the other, each over its workloads."""
    groups: dict[tuple[object, ...], list[UntunedClaim]] = {}
    for claim in claims:
        methods = (_label(m._asdict(), with_beta=True) for m in (claim.method, claim.other))
        groups.setdefault((claim.question, *methods), []).append(claim)
    several = Counter(group[0].asked for group in groups.values())
    return [
        {
            "asked": group[0].asked,
            "which": " against ".join(map(str, methods)) if several[group[0].asked] > 1 else "",
            "supported": sum(claim.verdict == "supported" for claim in group),
            "rows": [
                {
                    "where": workload_label(claim.setup._asdict()),
                    "verdict": claim.verdict,
                    "text": claim.text,
                }
                for claim in group
            ],
        }
        for (_, *methods), group in groups.items()
    ]


def _judged(claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims of those kinds that are judged for at least one optimizer."""
    kinds = {claim.kind for claim in claims if not claim.reason}
    return [claim for claim in claims if claim.kind in kinds]
