"""What a scheduler of torch is given in place of an optimizer whose learning rate is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from hypergrad import _param_groups


class Schedule(torch.optim.Optimizer):
    """A view of an optimizer in which ``lr`` is a factor of α, 1 at first, and all else is as it is.

    With ``CosineAnnealingLR(optimizer.schedule, 100)`` α goes on being learned while the schedule multiplies
    it; given the optimizer itself a scheduler would write over what was learned. The factor lies in the
    optimizer's groups, as ``lr_factor``, and is saved with its state.

    Args:
        optimizer: one of ``hypergrad``.
    """

    # Schedulers ask whether the optimizer has taken a step before them; this view takes none.
    _opt_called = True

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        # Not torch's own: this has no parameters and no state beside the optimizer's.
        self.optimizer = optimizer
        self.defaults = {**optimizer.defaults, "lr": 1.0}

    @property
    def param_groups(self) -> list[Any]:  # type: ignore[override]
        """One mapping per group of the optimizer: read and written through to it."""
        return [_Factors(group) for group in self.optimizer.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Raise: the optimizer steps.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a schedule takes no steps: call step of the optimizer that it belongs to")

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is the view of the optimizer's copy, as the scheduler's own would be.
        return attrgetter("schedule"), (self.optimizer,)

    def __repr__(self) -> str:
        return f"Schedule({type(self.optimizer).__name__})"


class _Factors(MutableMapping[str, Any]):
    """A group as a scheduler sees it."""

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
