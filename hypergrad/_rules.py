"""The option ``rule``: whether a lop moves α or log α, by h or its cosine; and each rule's default β.

To add a rule, name it in ``RULES`` and give it a β in ``default_hypergrad_lr``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Rule(NamedTuple):
    """One rule: how it uses α and h."""

    multiplicative: bool
    """Move log α instead of α."""
    normalize: bool
    """Make h the cosine of the angle between g_t and −d_{t−1}."""


RULES: dict[str, Rule] = {
    "additive": Rule(multiplicative=False, normalize=False),
    "additive-cosine": Rule(multiplicative=False, normalize=True),
    "multiplicative": Rule(multiplicative=True, normalize=False),
    "cosine": Rule(multiplicative=True, normalize=True),
}
"""The rules by the names that the option ``rule`` takes."""

# β by lop, and by op where an op needs another β: without a trace Muon diverged with larger ones.
_COSINE = {"sgd": 0.2, "sgdn": 0.02, "adam": 0.03, "adagrad": 1.0, "lion": 0.01}
_COSINE_OF = {"muon": {"sgd": 0.05, "sgdn": 0.01}}
_MULTIPLICATIVE = {"adam": 0.03, "adagrad": 0.1, "lion": 0.01}
_ADDITIVE_COSINE = {"sgd": 1e-4, "sgdn": 1e-5, "adam": 1e-5, "adagrad": 1e-4, "lion": 1e-5}
# The papers' β by op. By lop for lops that the papers do not have, whose steps of α are about as large as β.
_PAPERS = {"sgd": 1e-3, "sgdn": 1e-3, "adam": 1e-7, "adamw": 1e-7, "muon": 1e-7}
_NOT_IN_PAPERS = {"adagrad": 1e-4, "lion": 1e-5}

INERT = 1e-5
"""With β up to this, log α moves by less than 1 in ten thousand steps."""


def default_hypergrad_lr(rule: str, op: str, lop: str) -> float:
    """Return the default β of a learned learning rate.

    A step in log α by a cosine has no unit, so its β hardly depends on the model. The additive rule has the
    papers' β, 1e-3 for SGD and 1e-7 for Adam. The authors chose them for certain networks; they may diverge
    on others.

    Args:
        rule: A name in ``RULES``.
        op: ``"sgd"``, ``"sgdn"``, ``"adam"``, ``"adamw"`` or ``"muon"``.
        lop: A name in ``hypergrad.rates.RATE_RULES``.

    Raises:
        ValueError: The rule, the op or the lop is unknown. Or the rule is ``"multiplicative"`` and the lop
            ``"sgd"`` or ``"sgdn"``: β is then per unit of the loss, so there is no default.

    References:
        A. G. Baydin et al., "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018,
        https://arxiv.org/abs/1703.04782, and Mittal 2019 for the additive rule. ``docs/hypergrad`` says how
        we chose the others.

    Example:
        >>> import hypergrad
        >>> hypergrad.default_hypergrad_lr("cosine", "adam", "sgdn")
        0.02
        >>> hypergrad.default_hypergrad_lr("additive", "adam", "adam")
        1e-07
    """
    for name, given, known in (("rule", rule, RULES), ("op", op, _PAPERS), ("lop", lop, _COSINE)):
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {given!r}")
    match rule:
        case "additive":
            return _NOT_IN_PAPERS[lop] if lop in _NOT_IN_PAPERS else _PAPERS[op]
        case "additive-cosine":
            return _ADDITIVE_COSINE[lop]
        case "multiplicative":
            if lop not in _MULTIPLICATIVE:
                raise ValueError(
                    f"rule='multiplicative' with lop={lop!r} needs a hypergrad_lr, which is then per unit "
                    "of the loss: give one such as 0.1, or rule='cosine', where it has no unit"
                )
            return _MULTIPLICATIVE[lop]
    return (_COSINE | _COSINE_OF.get(op, {}))[lop]


OFF: dict[str, Any] = {
    "trace_decay": 0.0,
    "max_relative_step": math.inf,
    "first_relative_step": (0.0, math.inf),
}
"""The values of these options for which h looks one step back and no limit depends on ‖θ‖."""

_COSINE_STEP = {"trace_decay": 0.99, "max_relative_step": 0.1, "first_relative_step": (0.025, 0.025)}


def default_step(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of ``trace_decay``, ``max_relative_step`` and ``first_relative_step``.

    They turn all three off for an α that is not learned, for β 0 and for granularity ``"released"``.

    Args:
        options: All options of a parameter group, by name.
    """
    beta = options["hypergrad_lr"]
    is_learned = options["lop"] is not None and (isinstance(beta, Tensor) or beta != 0)
    is_cosine = options["rule"] == "cosine" and options["granularity"] != "released"
    return _COSINE_STEP if is_learned and is_cosine else OFF


def mismatches(options: Mapping[str, Any], op: str) -> Iterator[str]:
    """Yield warnings of a β that does not fit the rule, each one line that gives a β that does.

    Args:
        options: All options of a parameter group that learns α, by name, with Python's own numbers.
        op: The op's name, as for ``default_hypergrad_lr``.
    """
    beta, lr, rule, lop = options["hypergrad_lr"], options["lr"], options["rule"], options["lop"]
    if isinstance(beta, Tensor) or not beta:
        return
    given = f"hypergrad_lr={beta:g} with rule={rule!r}"
    right = 0.1 if rule == "multiplicative" else default_hypergrad_lr(rule, op, lop)
    if RULES[rule].multiplicative:
        if beta <= INERT:
            papers = default_hypergrad_lr("additive", op, lop)
            yield (
                f"{given} hardly moves α: give hypergrad_lr={right:g} or so, or rule='additive' for a β "
                f"like the papers' {papers:g}"
            )
        elif beta > 3:
            yield f"{given} multiplies α by more than e³ in a step: give hypergrad_lr={right:g} or so"
    elif rule == "additive" and op in ("adam", "adamw", "muon") and lop in ("sgd", "sgdn") and beta > 0.01:
        yield (
            f"{given} and op {op!r} moves α by about {beta:g}·‖g‖₁ in a step, and usually diverges: give "
            f"hypergrad_lr={right:g} or so, or rule='cosine'"
        )
    elif _moves_by_beta(rule, lop) and not isinstance(lr, Tensor) and 0 < 10 * lr < beta:
        yield (
            f"{given} and lop={lop!r} moves α by up to {beta / lr:g} times lr={lr:g} in a step, and usually "
            f"diverges: give hypergrad_lr={lr / 100:g} or so, or rule='cosine'"
        )


def _moves_by_beta(rule: str, lop: str) -> bool:
    """Return whether a step of α, or of log α, is about as large as β whatever the size of h."""
    return RULES[rule].normalize or lop in ("adam", "adagrad", "lion")


def from_version_0_1(group: dict[str, Any]) -> None:
    """Replace version 0.1's options ``multiplicative`` and ``normalize`` by ``rule``, in place."""
    if "multiplicative" not in group:
        return
    old = Rule(group.pop("multiplicative"), group.pop("normalize"))
    group.setdefault("rule", next(name for name, rule in RULES.items() if rule == old))
    for name, value in OFF.items():
        group.setdefault(name, value)
