"""Names of optimizers: ``adam``, ``adam-sgd``, or a class by its dotted path. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

OPS = ("sgd", "sgdn", "adam", "adamw")
"""Model optimizers."""
LOPS = ("sgd", "sgdn", "adam", "adagrad", "lion")
"""Optimizers of the learning rate."""
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@dataclass(frozen=True)
class OptimizerName:
    """The parts of an optimizer's name; ``str()`` joins them again.

    ::

        >>> OptimizerName.parse("adam-sgd")
        OptimizerName(op='adam', lop='sgd')
        >>> OptimizerName.parse("torch.optim.AdamW").learned
        False
    """

    op: str
    """The model optimizer; for an optimizer that is not ours its whole name."""
    lop: str | None = None
    """The optimizer of the learning rate; ``None`` if α stays α₀ or follows a schedule."""

    @classmethod
    def parse(cls, text: str) -> OptimizerName:
        """Split a name or label into its parts; any text is a name, so nothing is refused here."""
        op, _, lop = text.partition("-")
        return cls(op, lop or None) if op in OPS else cls(text)

    @property
    def learned(self) -> bool:
        """Whether the optimizer learns α, and so needs a β."""
        return self.lop is not None

    def __str__(self) -> str:
        return self.op if self.lop is None else f"{self.op}-{self.lop}"


OPTIMIZERS: tuple[str, ...] = tuple(str(OptimizerName(op, lop)) for op in OPS for lop in (None, *LOPS))
"""The names of ``hypergrad``'s optimizers: sgd, sgd-sgd, …, adamw-lion."""


def is_dotted(optimizer: str) -> bool:
    """Whether an optimizer is a class by its dotted path, ``torch.optim.AdamW``; nothing is imported."""
    return len(optimizer) <= 200 and _DOTTED.fullmatch(optimizer) is not None
