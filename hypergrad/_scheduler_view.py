"""A view of an optimizer for torch's schedulers, through which they scale α instead of overwriting it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from hypergrad import _param_groups


class Schedule(torch.optim.Optimizer):
    """A view of an optimizer whose ``lr`` is a factor of α, at first 1. All else is the optimizer's own.

    With ``CosineAnnealingLR(optimizer.schedule, 100)`` the optimizer learns α and the schedule multiplies it.
    A scheduler of the optimizer itself would overwrite the learned α. The factor is ``lr_factor`` in the
    optimizer's groups, and the optimizer's ``state_dict`` saves it.

    Args:
        optimizer: An optimizer of ``hypergrad``.
    """

    # Schedulers warn if the optimizer has taken no step before theirs. This view takes none.
    _opt_called = True

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        # Not torch's own __init__: the view has no parameters and no state of its own.
        self.optimizer = optimizer
        self.defaults = {**optimizer.defaults, "lr": 1.0}

    @property
    def param_groups(self) -> list[Any]:  # type: ignore[override]
        """Mappings that read and write the optimizer's groups, one per group."""
        return [_Factors(group) for group in self.optimizer.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Refuse to step: the optimizer takes the steps.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a schedule has no step of its own: call optimizer.step() instead")

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the view is the view of the optimizer's copy.
        return attrgetter("schedule"), (self.optimizer,)

    def __repr__(self) -> str:
        return f"Schedule({type(self.optimizer).__name__})"


class _Factors(MutableMapping[str, Any]):
    """A group as a scheduler sees it, with ``lr_factor`` in the place of ``lr``."""

    _NAMES = {"lr": "lr_factor", "initial_lr": "initial_lr_factor"}  # noqa: RUF012

    def __init__(self, group: dict[str, Any]) -> None:
        self._group = group
        if "lr_factor" not in group:
            # A tensor, so that a captured or compiled step reads what a scheduler wrote.
            alpha = group["lr"]
            learned = group["lop"] is not None and isinstance(alpha, Tensor)
            group["lr_factor"] = alpha.new_ones(()) if learned else 1.0
            _param_groups.settle(group)

    def __getitem__(self, key: str) -> Any:
        return self._group[self._NAMES.get(key, key)]

    def __setitem__(self, key: str, value: Any) -> None:
        self._group[self._NAMES.get(key, key)] = value

    def __delitem__(self, key: str) -> None:
        del self._group[self._NAMES.get(key, key)]

    def __iter__(self) -> Iterator[str]:
        hidden = {value: key for key, value in self._NAMES.items()}
        return (hidden.get(key, key) for key in self._group if key not in self._NAMES)

    def __len__(self) -> int:
        return sum(1 for _ in self)
