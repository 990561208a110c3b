"""Names of optimizers, ``adam``, ``adam-sgd`` or a class by its path, and rules. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

OPS = ("sgd", "sgdn", "adam", "adamw", "muon")
"""Model optimizers."""
LOPS = ("sgd", "sgdn", "adam", "adagrad", "lion")
"""Optimizers of the learning rate."""
ADDITIVE = "additive"
"""The rule of the papers, and of every trial that names no rule."""
RULES = (ADDITIVE, "additive-cosine", "multiplicative", "cosine")
"""How a lop moves α: the option ``rule`` of ``hypergrad``."""
MOVES_LOG_ALPHA = ("multiplicative", "cosine")
"""The rules that multiply α, which then stays positive."""
INERT = 1e-5
"""β up to which a rule that multiplies α hardly moves it."""

# A copy of hypergrad.default_hypergrad_lr, as study files are read without torch; a test compares the two.
_BETAS: dict[str, dict[str, float]] = {
    "additive-cosine": {"sgd": 1e-4, "sgdn": 1e-5, "adam": 1e-5, "adagrad": 1e-4, "lion": 1e-5},
    "multiplicative": {"adam": 0.03, "adagrad": 0.1, "lion": 0.01},
    "cosine": {"sgd": 0.2, "sgdn": 0.02, "adam": 0.03, "adagrad": 1.0, "lion": 0.01},
    "cosine of muon": {"sgd": 0.05, "sgdn": 0.01, "adam": 0.03, "adagrad": 1.0, "lion": 0.01},
}
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@dataclass(frozen=True)
class OptimizerName:
    """The parts of an optimizer's name; ``str()`` joins them again.

    ::

        >>> OptimizerName.parse("adam-sgd")
        OptimizerName(op='adam', lop='sgd', rule='additive', variant='')
        >>> OptimizerName.parse("adam-sgdn cosine").default_beta
        0.02
        >>> OptimizerName.parse("torch.optim.AdamW").learned
        False
    """

    op: str
    """The model optimizer; for an optimizer that is not ours its whole name."""
    lop: str | None = None
    """The optimizer of the learning rate; ``None`` if α stays α₀ or follows a schedule."""
    rule: str = ADDITIVE
    """How the lop moves α."""
    variant: str = ""
    """The rest of a label, such as ``slow`` in ``adam-sgd cosine slow``."""

    @classmethod
    def parse(cls, text: str) -> OptimizerName:
        """Split a name or label into its parts; any text is a name, so this refuses nothing."""
        name, _, rest = text.partition(" ")
        op, _, lop = name.partition("-")
        if op not in OPS or (rest and not lop):  # "adam cosine" is a schedule
            return cls(text)
        rule, _, variant = rest.partition(" ")
        if rule not in RULES:
            rule, variant = ADDITIVE, rest
        return cls(op, lop or None, rule, variant)

    @property
    def learned(self) -> bool:
        """Whether the optimizer learns α, and so needs a β."""
        return self.lop is not None

    @property
    def default_beta(self) -> float | None:
        """β of the rule for this op and lop; ``None`` if β has a unit, so that the study must give it."""
        betas = _BETAS.get(f"{self.rule} of {self.op}") or _BETAS.get(self.rule, {})
        return betas.get(self.lop or "")

    def __str__(self) -> str:
        name = self.op if self.lop is None else f"{self.op}-{self.lop}"
        return " ".join(filter(None, (name, self.rule if self.rule != ADDITIVE else "", self.variant)))


OPTIMIZERS: tuple[str, ...] = tuple(str(OptimizerName(op, lop)) for op in OPS for lop in (None, *LOPS))
"""The names of ``hypergrad``'s optimizers: sgd, sgd-sgd, …, muon-lion."""


def is_dotted(optimizer: str) -> bool:
    """Return whether an optimizer is a class by its dotted path, ``torch.optim.AdamW``; imports nothing."""
    return len(optimizer) <= 200 and _DOTTED.fullmatch(optimizer) is not None
